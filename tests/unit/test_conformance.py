"""Results of operators in the store: what replaces what, and what says something of a chip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from flagrelease.operators.results import OperatorResult, Verdict
from flagrelease.store import Store
from flagrelease.store.conformance import ConformanceCheck, files, newest, passed, record
from flagrelease.store.models import ConformanceRow
from tests.unit.command_line import failures_at_once


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    yield found
    found.close()


def result(operator: str, verdict: Verdict = "matches", **changes: Any) -> OperatorResult:
    about = {"cases": 4, "matching": 4, "worst": 0.5, "worst_error": 0.1, "worst_tolerance": 0.2, "seconds": 1.0}
    return OperatorResult(**{"operator": operator, "verdict": verdict, "reason": "", "missing": (), **about, **changes})


def check(*results: OperatorResult, **changes: Any) -> ConformanceCheck:
    about = {"key": "k", "chip": "metax", "device": "cuda", "model": "qwen3", "dtype": "bfloat16", "sha256": "a" * 64}
    versions = {"flag_gems": "5.0.2", "torch": "2.13.0", "triton": "3.5.1"}
    return ConformanceCheck(**{**about, **versions, "results": results, **changes})


def rows(store: Store) -> list[dict[str, Any]]:
    with store.session() as session:
        found = session.scalars(select(ConformanceRow).order_by(ConformanceRow.id))
        return [{name: value for name, value in vars(row).items() if name != "_sa_instance_state"} for row in found]


def test_a_result_comes_back_whole_and_the_same_again_changes_nothing(store: Store) -> None:
    record(store, check(result("mm"), result("sort", "crashed", worst=None, reason="SIGSEGV\0")))
    (matrix, sorting) = before = rows(store)
    assert {name: matrix[name] for name in ("chip", "device", "interpreter", "model", "dtype", "sha256")} == {
        **{"chip": "metax", "device": "cuda", "interpreter": False, "model": "qwen3", "dtype": "bfloat16"},
        "sha256": "a" * 64,
    }
    assert (matrix["flag_gems"], matrix["torch"], matrix["triton"]) == ("5.0.2", "2.13.0", "3.5.1")
    assert (matrix["cases"], matrix["matching"], matrix["worst"], matrix["worst_error"]) == (4, 4, 0.5, 0.1)
    assert (sorting["verdict"], sorting["worst"], sorting["reason"]) == (
        "crashed",
        None,
        "SIGSEGV\N{REPLACEMENT CHARACTER}",
    )
    record(store, check(result("mm"), result("sort", "crashed", worst=None, reason="SIGSEGV\0")))
    assert rows(store) == before


def test_a_new_result_replaces_that_of_the_same_key_chip_and_operator(store: Store) -> None:
    record(store, check(result("mm", "differs"), result("add")))
    record(store, check(result("mm"), sha256="b" * 64))
    record(store, check(result("mm", "differs"), key="another", chip=None))
    record(store, check(result("mm", "differs"), key="another", chip=None, sha256="c" * 64))
    found = [(row["key"], row["chip"], row["operator"], row["verdict"], row["sha256"][0]) for row in rows(store)]
    assert found == [
        ("k", "metax", "mm", "matches", "b"),
        ("k", "metax", "add", "matches", "a"),
        ("another", None, "mm", "differs", "c"),
    ]


def test_hosts_that_store_the_same_at_once_store_it_once(store: Store) -> None:
    assert failures_at_once(6, lambda: record(store, check(*(result(f"o{n}") for n in range(30))))) == []
    assert sorted(row["operator"] for row in rows(store)) == sorted(f"o{n}" for n in range(30))


def test_what_is_newest_decides_whether_an_operator_passed(store: Store) -> None:
    assert passed(store, "metax", "5.0.2", "mm") is None
    record(store, check(result("mm"), result("sort", "not runnable here"), result("topk", "crashed")))
    assert passed(store, "metax", "5.0.2", "mm") is True
    assert passed(store, "metax", "5.0.2", "topk") is False
    # Nothing is known of what could not be asked, of another version, chip or operator.
    assert passed(store, "metax", "5.0.2", "sort") is None
    assert passed(store, "metax", "5.0.3", "mm") is None
    assert passed(store, "hygon", "5.0.2", "mm") is None
    # A newer check of the same model and type says otherwise.
    record(store, check(result("mm", "differs"), key="another device"))
    assert passed(store, "metax", "5.0.2", "mm") is False
    # The first key again: its row is the older one by number, and the newest by time.
    record(store, check(result("mm", matching=3)))
    assert passed(store, "metax", "5.0.2", "mm") is True
    # Another model's sizes show a fault, whichever was checked last.
    record(store, check(result("mm", "differs"), key="long rows", model="other"))
    record(store, check(result("mm", matching=2)))
    assert passed(store, "metax", "5.0.2", "mm") is False
    record(store, check(result("mm"), key="long rows", model="other"))
    # What could not be asked says nothing against what could.
    record(store, check(result("mm", "not runnable here"), key="dense"))
    assert passed(store, "metax", "5.0.2", "mm") is True


@pytest.mark.parametrize("chip", ["metax", "cpu", None])
def test_the_interpreter_on_a_cpu_counts_for_no_chip(store: Store, chip: str | None) -> None:
    record(store, check(result("mm"), chip=chip, device="cpu"))
    assert [row["interpreter"] for row in rows(store)] == [True]
    for name in ("metax", "cpu"):
        assert passed(store, name, "5.0.2", "mm") is None
        assert newest(store, name, "5.0.2", "qwen3") is None
        assert files(store, name, "5.0.2", "qwen3") == []


def test_the_newest_check_of_a_chip_version_and_model(store: Store) -> None:
    record(store, check(result("mm"), result("add")))
    record(store, check(result("mm", "differs"), key="newer torch", torch="2.14.0", sha256="b" * 64))
    record(store, check(result("add", "crashed"), key="newer torch", torch="2.14.0", sha256="c" * 64))
    found = newest(store, "metax", "5.0.2", "qwen3")
    assert found is not None
    assert found.verdicts == {"mm": "differs", "add": "crashed"}
    assert found.files == ["b" * 64, "c" * 64]
    assert newest(store, "metax", "5.0.3", "qwen3") is None
    assert newest(store, "metax", "5.0.2", "other") is None
    record(store, check(result("mm"), key="newer FlagGems", flag_gems="5.0.3", sha256="d" * 64))
    assert newest(store, "metax", "5.0.2", "qwen3") == found
    any_version = newest(store, "metax", None, "qwen3")
    assert any_version is not None
    assert (any_version.flag_gems, any_version.files) == ("5.0.3", ["d" * 64])
    assert files(store, "metax", "5.0.2", "qwen3") == [letter * 64 for letter in "abc"]
    assert files(store, "metax", None, "qwen3") == [letter * 64 for letter in "abcd"]
