"""What a card says of the check of FlagGems' operators, and when a new check makes a new card."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation import baseline as baselines
from flagrelease.card.build import card_data
from flagrelease.card.compose import measured_card
from flagrelease.card.data import Block, CardData, Conformance
from flagrelease.card.read import read_card
from flagrelease.card.render import render
from flagrelease.card.styles import Language, Style
from flagrelease.evidence import EvidenceFolder
from flagrelease.pipeline import StageOutput
from flagrelease.records import Artefact, CellImage, Stage
from flagrelease.settings import settings
from flagrelease.store import Store
from flagrelease.store.conformance import record
from flows import stages
from flows.job import Job, checked_files, make_job, make_plan
from flows.plan import plan_matrix
from flows.session import Session, open_session
from runtime.engines import engine
from runtime.engines.torch_reference import TorchReference
from tests.unit import card_data as examples
from tests.unit.evaluations import evaluation
from tests.unit.lint_cards import findings
from tests.unit.published_release import PUBLISHED_SCORES
from tests.unit.test_conformance import check, result

CELL = "qwen3-metax"
PINNED = "3.0"
"""Version of FlagGems that the matrix pins for the cell."""
INVENTORY = {"flag-gems": PINNED}
RAN = ["add", "mm", "rms_norm", "softmax", "sort", "zeros_like"]


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    assert home.exists()
    with closing(Store.open(settings().store_url)) as found:
        yield found


def checked(store: Store, text: str = "{}", *, failing: bool = True, **changes: Any) -> str:
    """A stored check of operators on the cell's chip; returns the hash of its file."""
    sha256 = EvidenceFolder(settings().evidence_url).put("conformance", "conformance.json", text.encode()).sha256
    bad = [result("softmax", "differs"), result("sort", "crashed")] if failing else []
    others = [result("gather"), result("add", "not runnable here")]
    about = {"key": sha256, "sha256": sha256, "flag_gems": PINNED, **changes}
    record(store, check(result("mm"), result("rms_norm"), *others, *bad, **about))
    return sha256


def inputs(store: Store, job: Job | None = None) -> dict[str, Any]:
    found = job or make_job(CELL, None, settings())
    return dict(make_plan(found, checked_files(store, found)).inputs[Stage.CARD])


def finish(session: Session, *, ran: list[str] | None, versions: dict[str, str] | None) -> None:
    """Finish the stages before the card, as they leave their results."""
    ids = dict.fromkeys(("id", "key", "base"), "ab" * 32)
    image = CellImage(name="i:1", digest=None, versions=versions or {}, **ids)
    built = {} if versions is None else {"image": image.model_dump(mode="json")}
    session.run.stage(Stage.BUILD, lambda: StageOutput(built))
    baselines.keep(baselines.load_imported(PUBLISHED_SCORES), session.store, None)
    about = {"baseline_id": PUBLISHED_SCORES, "paired": False, "benchmarks": []}
    gate = examples.card(examples.container_cell()).gate.model_copy(update=about)
    asked = evaluation([])
    key = session.run.key(Stage.EVALUATE)
    identifier = session.store.add_evaluation(asked, [], key=key, role="candidate")
    session.run.stage(Stage.EVALUATE, lambda: StageOutput({"evaluation": identifier, "operators": ran}))
    session.run.stage(Stage.DECIDE, lambda: StageOutput({"verdict": {}}))
    session.store.record_verdict(session.release, gate, identifier)


def carded(
    ran: list[str] | None = RAN,
    versions: dict[str, str] | None = INVENTORY,
    log: Callable[[str], None] = lambda _: None,
    job: Job | None = None,
) -> CardData:
    """Data of the card of a release of the cell, or of a job of it, as the stage `card` left it."""
    with open_session(job or make_job(CELL, None, settings()), log) as session:
        finish(session, ran=ran, versions=versions)
        session.run.stage(Stage.CARD, lambda: stages.card(session))
        return card_data(session.store, session.release)


# The card


def example(**changes: Any) -> CardData:
    found = {"flag_gems": "5.0.2", "served": True, "ran": 34, "matching": 31, "differing": ["softmax"], "crashed": []}
    names = {"operators": "operators-1.txt", "conformance": "conformance.json"}
    files = [Artefact(kind=kind, name=name, sha256="ef" * 32, size=3) for kind, name in names.items()]
    about = Conformance(**{**found, "files": ["conformance.json"], **changes})
    return examples.card(examples.container_cell(), evidence=files, conformance=about)


def test_the_card_says_how_many_match_and_names_those_that_do_not() -> None:
    text = render(measured_card(example()))
    assert (
        "\n\nOf the 34 FlagGems operators that ran, 32 were checked on a device of this chip, in the sizes of this "
        "model and edge cases (FlagGems 5.0.2): 31 match a reference in float64 within the tolerance of FlagGems' own "
        "tests; these do not: `softmax`. Results: [conformance.json](evidence/conformance.json).\n\nWhere the numbers "
        in text
    )
    assert "| [conformance.json](evidence/conformance.json) | conformance | `efef" in text
    other = example(
        differing=[], crashed=["sort", "topk"], served=False, files=["conformance.json", "conformance-2.json"]
    )
    text = render(measured_card(other))
    assert "33 were checked on a device" in text
    assert "(FlagGems 5.0.2, the newest version checked there; which one served is not known)" in text
    assert (
        "own tests; these crashed: `sort`, `topk`. Results: [conformance.json](evidence/conformance.json), [con" in text
    )
    assert "these do not" not in text
    edges = render(measured_card(example(differing=[], differing_in_edge_cases=["relu"])))
    assert "32 were checked on a device" in edges
    assert "own tests; these do in the sizes of this model, and not in some edge case: `relu`. Results:" in edges
    chinese = render(measured_card(example(served=False, crashed=["sort"]), language="zh"))
    assert (
        "\n\n在所运行的 34 个 FlagGems 算子中，有 33 个按本模型的尺寸和边界情形在本芯片的设备上检查过（FlagGems 5.0.2，"
        "即在该芯片上检查过的最新版本；提供服务的版本未知）：31 个与 float64 参考值相符，容差与 FlagGems 自身的"
        "测试相同；不相符的有 `softmax`；崩溃的有 `sort`。结果：[conformance.json](evidence/conformance.json)。\n\n数据"
        in chinese
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_card_without_a_check_says_what_it_said(language: Language) -> None:
    plain = example().model_copy(update={"conformance": None})
    lines = render(measured_card(plain, language=language)).splitlines()
    more = render(measured_card(example(), language=language)).splitlines()
    added = [line for line in more if line not in lines]
    assert len(added) == 1
    place = more.index(added[0])
    assert more[:place] + more[place + 2 :] == lines


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_card_with_a_check_is_read_back_and_has_no_errors(language: Language) -> None:
    card = measured_card(example(), Style.VERIFIED, language)
    found = read_card(render(card), source="README.md")
    known = [section for section in card.sections if section.block is not Block.VERIFICATION]
    assert [section for section in found.card.sections if section.block is not Block.VERIFICATION] == known
    plain = measured_card(example().model_copy(update={"conformance": None}), Style.VERIFIED, language)
    before = {(each.rule, each.cause) for each in findings(render(plain))}
    assert {(each.rule, each.cause) for each in findings(render(card))} == before


# What the stage finds


def test_the_card_counts_what_ran_and_was_checked(store: Store) -> None:
    sha256 = checked(store)
    data = carded()
    assert data.conformance == Conformance(
        flag_gems=PINNED,
        served=True,
        ran=6,
        matching=2,
        differing=["softmax"],
        crashed=["sort"],
        files=["conformance.json"],
    )
    assert [(each.kind, each.name, each.sha256) for each in data.evidence] == [
        ("conformance", "conformance.json", sha256)
    ]


def test_what_fails_in_edge_cases_only_is_told_apart(store: Store) -> None:
    edges = "2 of 20 cases, edge cases only: nan, bfloat16: 0 at element 0, expected nan"
    sha256 = checked(store, failing=False)
    record(store, check(result("softmax", "differs", reason=edges), key=sha256, sha256=sha256, flag_gems=PINNED))
    found = carded().conformance
    assert found is not None
    assert (found.matching, found.differing, found.differing_in_edge_cases) == (2, [], ["softmax"])


def test_a_later_check_changes_no_card_that_is_there(store: Store) -> None:
    checked(store)
    before = carded()
    checked(store, '{"new": 1}', failing=False)
    assert card_data(store, before.release) == before
    after = carded()
    assert after.release != before.release
    assert after.conformance is not None
    assert (after.conformance.matching, after.conformance.differing) == (2, [])
    # The stages are reused where nothing was checked since, and the card says the same.
    assert carded() == after


def test_the_file_is_published_with_the_card(store: Store) -> None:
    checked(store, '{"operators": []}')
    data = carded()
    files = stages.published_files(store, EvidenceFolder(settings().evidence_url), data.release, PUBLISHED_SCORES, None)
    assert json.loads(files["evidence/conformance.json"]) == {"operators": []}
    assert "[conformance.json](evidence/conformance.json)" in files["README.md"].decode()


def test_a_check_in_two_files_names_both(store: Store) -> None:
    checked(store)
    sha256 = EvidenceFolder(settings().evidence_url).put("conformance", "c", b"another host").sha256
    first = checked(store)
    record(store, check(result("mm", matching=3), key=first, sha256=sha256, flag_gems=PINNED))
    data = carded()
    assert data.conformance is not None
    assert data.conformance.files == ["conformance.json", "conformance-2.json"]
    assert {each.name: each.sha256 for each in data.evidence} == {
        "conformance.json": first,
        "conformance-2.json": sha256,
    }


def test_what_was_checked_elsewhere_is_not_on_the_card(store: Store) -> None:
    plain = carded()
    assert (plain.conformance, plain.evidence) == (None, [])
    for changes in ({"chip": "hygon"}, {"chip": None}, {"model": "o"}, {"flag_gems": "5.0.2"}, {"device": "cpu"}):
        checked(store, json.dumps(changes), **changes)
    assert "conformance" not in inputs(store)
    assert carded() == plain


@pytest.mark.parametrize("ran", [None, [], ["zeros_like", "add"]])
def test_without_an_operator_that_ran_and_was_checked_there_is_no_line(store: Store, ran: list[str] | None) -> None:
    checked(store)
    data = carded(ran)
    assert (data.conformance, data.evidence) == (None, [])


def test_where_the_version_is_not_known_the_newest_is_named(store: Store) -> None:
    checked(store)
    pinned = make_job(CELL, None, settings())
    assert pinned.image_inputs
    recipe = {**pinned.image_inputs["recipe"], "pins": []}
    data = carded(
        versions={"vllm": "0.11"}, job=replace(pinned, image_inputs={**pinned.image_inputs, "recipe": recipe})
    )
    assert data.conformance is not None
    assert (data.conformance.flag_gems, data.conformance.served) == (PINNED, False)


def test_a_process_of_the_host_is_checked_by_the_version_that_it_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchReference, "version", lambda _: "2.13.0, transformers 5.19.0, FlagGems 3.0")
    job = make_job(CELL, None, settings())
    told = {"launcher": "process", "engine": "torch_reference", "engines": {"torch_reference": {}}}
    process = job.cell.cell.model_copy(update=told)
    cell = job.cell.model_copy(update={"cell": process})
    job = replace(job, cell=cell, engine=engine("torch_reference"), engine_settings={}, image_inputs=None)
    checked(store)
    checked(store, '{"new": 1}', flag_gems="5.0.2", failing=False)
    data = carded(versions=None, job=job)
    assert data.conformance is not None
    assert (data.conformance.flag_gems, data.conformance.served) == ("3.0", True)
    assert data.conformance.differing == ["softmax"]


def test_a_file_that_is_not_at_hand_costs_the_line_and_not_the_release(store: Store) -> None:
    sha256 = checked(store)
    Path(EvidenceFolder(settings().evidence_url).path(sha256)).unlink()
    said: list[str] = []
    assert carded(log=said.append).conformance is None
    (line,) = [each for each in said if "check of FlagGems' operators" in each]
    assert "flagrelease operators check --chip metax --model qwen3" in line


# Keys


def test_without_a_check_the_card_has_the_key_that_it_had(store: Store) -> None:
    job = make_job(CELL, None, settings())
    assert set(inputs(store)) == {"template", "facts"}
    assert make_plan(job, checked_files(store, job)) == make_plan(job)
    native = make_job("smollm2-cpu", None, settings())
    checked(store, chip="cpu", model="smollm2")
    assert set(inputs(store, native)) == {"template", "facts"}


def test_a_new_check_makes_a_new_card_and_nothing_else(store: Store) -> None:
    first, job = checked(store), make_job(CELL, None, settings())
    assert inputs(store)["conformance"] == [first]
    before, plain = make_plan(job, checked_files(store, job)), make_plan(job)
    changed = {stage for stage in Stage if before.keys[stage] != plain.keys[stage]}
    assert changed == {Stage.CARD, Stage.PUBLISH}
    checked(store)
    assert make_plan(job, checked_files(store, job)) == before
    second = checked(store, '{"new": 1}')
    assert inputs(store)["conformance"] == sorted([first, second])


def test_the_plan_says_that_there_is_a_new_check(store: Store) -> None:
    checked(store)
    carded()
    (plan,) = plan_matrix(settings(), cell=CELL).cells
    assert {each.stage: each.text for each in plan.stages}[Stage.CARD] == "reuse (from release 1)"
    checked(store, '{"new": 1}')
    (plan,) = plan_matrix(settings(), cell=CELL).cells
    assert {each.stage: each.text for each in plan.stages}[Stage.CARD] == "run (check of FlagGems' operators changed)"
