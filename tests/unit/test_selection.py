"""Cells are chosen by chip, model, suite, tag and by their newest release; what is misspelt is said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flagrelease.errors import UnknownNameError
from flagrelease.loading import load_chips, load_matrix, resolve, resolve_all
from flagrelease.matrix import ResolvedCell
from flagrelease.selection import Newest, Selection
from flagrelease.settings import data_path

CHIPS = load_chips()
MATRIX = load_matrix(data_path("matrix.yaml"))
SHIPPED = resolve_all(MATRIX, CHIPS)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def cell(model: str, chip: str, *tags: str) -> ResolvedCell:
    """The shipped qwen3-metax under another model's name and on another chip."""
    found = resolve(MATRIX, CHIPS, "qwen3-metax")
    own = found.cell.model_copy(update={"model": model, "chip": chip, "tags": list(tags)})
    named = found.model.model_copy(update={"display": model.upper()})
    return found.model_copy(update={"cell": own, "model": named, "chip": CHIPS[chip]})


CELLS = [
    cell("qwen3-8b", "nvidia", "nightly"),
    cell("qwen3-8b", "ascend"),
    cell("qwen3-32b", "metax", "nightly", "large"),
    cell("step3", "ascend", "large"),
    cell("minimax", "metax"),
]


def ids(selection: Selection, newest: dict[str, Newest] | None = None) -> list[str]:
    return [found.id for found in selection.select(CELLS, newest or {})]


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), [0, 1, 2, 3, 4]),
        (Selection(chips=["ascend"]), [1, 3]),
        (Selection(chips=["huawei"]), [1, 3]),
        (Selection(chips=["HUAWEI", "nv"]), [0, 1, 3]),
        (Selection(chips=["muxi"]), [2, 4]),
        (Selection(models=["qwen3-8b"]), [0, 1]),
        (Selection(models=["qwen3*"]), [0, 1, 2]),
        (Selection(models=["qwen3-?b", "step3"]), [0, 1, 3]),
        (Selection(models=["QWEN3-32B"]), [2]),
        (Selection(tags=["nightly"]), [0, 2]),
        (Selection(tags=["nightly", "large"]), [0, 2, 3]),
        (Selection(tags=["large"], chips=["ascend", "metax"], models=["qwen*"]), [2]),
        (Selection(suites=["text"]), [0, 1, 2, 3, 4]),
        (Selection(chips=["nvidia"], models=["step3"]), []),
    ],
)
def test_cells_are_chosen_in_the_order_of_the_matrix(selection: Selection, chosen: list[int]) -> None:
    assert ids(selection) == [CELLS[index].id for index in chosen]


def test_models_are_known_by_their_name_on_cards_too() -> None:
    found = Selection(models=["MiniCPM-V-*"], suites=["vision"]).select(SHIPPED, {})
    assert [each.id for each in found] == ["minicpmv4-metax"]


@pytest.mark.parametrize(
    ("selection", "message", "remedy"),
    [
        (Selection(chips=["nvidea"]), "no cell of the matrix has a chip called `nvidea`", "did you mean `nvidia`?"),
        (Selection(chips=["hygon"]), "no cell of the matrix has a chip called `hygon`", "known are: ascend, huawei, m"),
        (Selection(models=["qwn3*"]), "no cell of the matrix has a model called `qwn3*`", "did you mean `qwen3-8b`?"),
        (Selection(models=["qwen3-8b", "zz*"]), "no cell of the matrix has a model called `zz*`", "known are: minimax"),
        (Selection(suites=["txt"]), "no cell of the matrix has a suite called `txt`", "did you mean `text`?"),
        (Selection(tags=["nighty"]), "no cell of the matrix has a tag called `nighty`", "did you mean `nightly`?"),
    ],
)
def test_a_pattern_that_fits_nothing_is_an_error(selection: Selection, message: str, remedy: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        ids(selection)
    assert caught.value.message == message
    assert caught.value.remedy.startswith(remedy)


def test_in_an_empty_matrix_nothing_can_be_chosen_by_name() -> None:
    assert Selection(stale=True).select([], {}) == []
    with pytest.raises(UnknownNameError, match="known are: none"):
        Selection(chips=["cpu"]).select([], {})


NEWEST = {
    CELLS[0].id: Newest("completed", NOON, stale=False),
    CELLS[1].id: Newest("completed", NOON - timedelta(days=7), stale=True),
    CELLS[2].id: Newest("failed", NOON, stale=False),
    CELLS[3].id: Newest("interrupted", NOON - timedelta(days=1), stale=True),
}


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(stale=True), [1, 2, 3, 4]),
        (Selection(failed=True), [2, 3]),
        (Selection(changed_since=NOON), [0, 2]),
        (Selection(changed_since=NOON - timedelta(days=2)), [0, 2, 3]),
        (Selection(changed_since=NOON - timedelta(days=2), stale=True), [2, 3]),
        (Selection(failed=True, chips=["metax"]), [2]),
        (Selection(changed_since=NOON + timedelta(seconds=1)), []),
    ],
)
def test_cells_are_chosen_by_their_newest_release(selection: Selection, chosen: list[int]) -> None:
    assert ids(selection, NEWEST) == [CELLS[index].id for index in chosen]


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        Selection.model_validate({"changed_since": "2026-03-01T12:00:00"})
    selection = Selection.model_validate({"changed_since": "2026-03-01T20:00:00+08:00"})
    assert selection == Selection(changed_since=NOON)


MANY = [
    cell(model, chip, *tags)
    for (model, chip), tags in zip(
        product(("qwen3", "qwen3-8b", "step3"), ("nvidia", "ascend", "metax")),
        [(), ("nightly",), ("large",)] * 3,
        strict=True,
    )
]
PATTERNS = {
    "chips": ["nvidia", "huawei", "m*", "*"],
    "models": ["qwen3", "qwen3*", "step?", "*"],
    "tags": ["nightly", "l*"],
}
SELECTIONS = st.builds(
    Selection,
    **{key: st.lists(st.sampled_from(values), max_size=2) for key, values in PATTERNS.items()},
    stale=st.booleans(),
    failed=st.booleans(),
    changed_since=st.none() | st.just(NOON),
)
RELEASES = st.dictionaries(
    st.sampled_from([each.id for each in MANY]),
    st.builds(
        Newest,
        state=st.sampled_from(["completed", "failed", "interrupted", "running"]),
        time=st.integers(-2, 2).map(lambda days: NOON + timedelta(days=days)),
        stale=st.booleans(),
    ),
)


@settings(deadline=None)
@given(SELECTIONS, RELEASES, st.sampled_from(["chips", "models", "tags", "stale", "failed", "changed_since"]))
def test_each_condition_narrows_and_the_order_stays(
    selection: Selection, newest: dict[str, Newest], condition: str
) -> None:
    chosen = selection.select(MANY, newest)
    assert chosen == [each for each in MANY if selection.matches(each, newest.get(each.id))]
    without = selection.model_copy(update={condition: Selection().model_dump()[condition]})
    alone = Selection.model_validate({condition: selection.model_dump()[condition]})
    kept = alone.select(MANY, newest)
    assert chosen == [each for each in without.select(MANY, newest) if each in kept]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(PATTERNS["models"]), max_size=3), st.lists(st.sampled_from(PATTERNS["models"]), max_size=3)
)
def test_of_several_patterns_one_has_to_fit(some: list[str], more: list[str]) -> None:
    def chosen(patterns: list[str]) -> set[str]:
        return {each.id for each in Selection(models=patterns).select(MANY, {})} if patterns else set()

    assert chosen(some + more) == chosen(some) | chosen(more)
