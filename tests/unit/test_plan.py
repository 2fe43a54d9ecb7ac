"""The plan of a sweep says of every cell and stage what a release would do, and why, and changes nothing."""

from __future__ import annotations

import copy
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import update

from flagrelease import pipeline
from flagrelease.chip import Chip
from flagrelease.errors import PreflightError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.pipeline import ReleaseRun, StageOutput
from flagrelease.records import Stage
from flagrelease.settings import settings
from flagrelease.store import Store
from flagrelease.store.models import ReleaseRow, StageRow
from flows.job import job_of, make_job, make_plan
from flows.plan import plan_matrix
from flows.plan_changes import changes, in_words
from flows.plan_jobs import Versions, planned
from flows.plan_records import CellPlan, MatrixPlan, StagePlan
from flows.plan_times import works
from flows.session import open_session, publisher_of
from runtime.engines import ENGINES
from tests.conftest import ROOT
from tests.unit.command_line import Run

SMALL, METAX = "smollm2-cpu", "qwen3-metax"
BASELINE = "smollm2-vllm-9cb78b345018"
NOTHING_ASKED: Mapping[Stage, dict[str, Any]] = {
    Stage.CANARY: {"canary": None, "note": None},
    Stage.PUBLISH: {"published": False},
}
STOPPED = "KeyboardInterrupt"


@pytest.fixture(autouse=True)
def installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has the engine of the small cell, in this version, and an empty place for state."""
    assert home.exists()
    monkeypatch.setattr(ENGINES["llama_cpp"], "version", lambda: "1.0", raising=False)


@pytest.fixture
def change(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict[str, Any]], object]], None]:
    """Change the matrix by a function of its content."""
    path, facts = home / "matrix.yaml", copy.deepcopy(matrix())

    def changed(edit: Callable[[dict[str, Any]], object]) -> None:
        edit(facts)
        path.write_text(yaml.dump(facts, Dumper=yaml.CSafeDumper, allow_unicode=True))
        monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
        settings.cache_clear()

    return changed


@cache
def matrix() -> dict[str, Any]:
    """The content of matrix.yaml."""
    facts: dict[str, Any] = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    return facts


def cell_of(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(cell for cell in facts["cells"] if f"{cell['model']}-{cell['chip']}" == name)
    return found


@cache
def empty_database() -> bytes:
    """A store without a release: making one takes longer than a plan."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        Store.open(f"sqlite:///{path}").close()
        return path.read_bytes()


def open_store() -> Store:
    path = settings().home_path / "store.db"
    if not path.exists():
        path.parent.mkdir()
        path.write_bytes(empty_database())
    return Store.open(settings().store_url)


@cache
def chips() -> dict[str, Chip]:
    return load_chips()


def release(
    name: str,
    *,
    engine: str | None = None,
    error: tuple[Stage, str] | None = None,
    outputs: Mapping[Stage, dict[str, Any]] = NOTHING_ASKED,
    without: Sequence[Stage] = (),
) -> int:
    """A release of the cell in the store, with the stages that it would have; returns its id."""
    host = settings()
    cell = resolve(load_matrix(host.matrix_path), chips(), name)
    job = job_of(cell, engine, host)
    plan, _ = planned(job, Versions(), {})
    store = open_store()
    identifier = store.begin_release(
        cell=name,
        key=plan.release_key,
        engine=job.engine.name,
        snapshot={"cell": cell.model_dump(mode="json")},
        code_version="0",
    )
    run = ReleaseRun(store, identifier, plan, lambda _: None)
    for stage in Stage:
        if stage in without:
            continue
        if error is not None and stage == error[0]:
            store.begin_stage(identifier, stage, plan.keys[stage], plan.inputs[stage])
            store.fail_stage(identifier, stage, error[1])
            store.finish_release(identifier, "interrupted" if error[1] == STOPPED else "failed", error[1])
            store.close()
            return identifier
        run.stage(stage, lambda stage=stage: StageOutput(outputs.get(stage, {})))  # type: ignore[misc]
    store.finish_release(identifier, "completed")
    store.close()
    return identifier


def plan_of(name: str) -> CellPlan:
    return plan_matrix(settings(), cell=name).cells[0]


def texts(plan: CellPlan) -> dict[str, str]:
    return {stage.stage.value: stage.text for stage in plan.stages}


def stage_of(plan: CellPlan, stage: Stage) -> StagePlan:
    return next(each for each in plan.stages if each.stage == stage)


def ran(plan: CellPlan) -> list[str]:
    return [stage.stage.value for stage in plan.runs]


# What runs, and why


def test_the_keys_are_those_of_a_release() -> None:
    host = settings()
    for name in (SMALL, METAX):
        job = job_of(resolve(load_matrix(host.matrix_path), load_chips(), name), None, host)
        assert job == make_job(name, None, host)
        assert planned(job, Versions(), {}) == (make_plan(job), [])


def test_a_cell_without_a_release_runs_whole() -> None:
    plan = plan_of(SMALL)
    assert plan.action == "run"
    assert set(texts(plan).values()) == {"run (first release)"}
    assert (plan.seconds, plan.timed, plan.newest) == (0, False, None)


def test_what_a_session_recorded_is_reused() -> None:
    with open_session(make_job(SMALL, None, settings()), lambda _: None) as session:
        for stage in Stage:
            session.run.stage(stage, lambda stage=stage: StageOutput(NOTHING_ASKED.get(stage, {})))  # type: ignore[misc]
    plan = plan_of(SMALL)
    assert plan.action == "unchanged"
    assert set(texts(plan).values()) == {"reuse (from release 1)"}


def test_stages_name_the_release_that_ran_them(change: Any) -> None:
    first = release(SMALL)
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=2))
    second = release(SMALL)
    found = texts(plan_of(SMALL))
    assert found["build"] == f"reuse (from release {first})"
    assert found["evaluate"] == f"reuse (from release {second})"
    assert plan_of(SMALL).newest == second
    # What a reused stage is compared with is known from where it ran.
    change(lambda facts: facts["models"]["smollm2"]["weights"].update(sha256="0" * 64))
    assert texts(plan_of(SMALL))["build"] == "run (weights changed: b179c9523d0e… → 000000000000…)"


def test_a_changed_pin_is_named_as_the_matrix_names_it(change: Any) -> None:
    release(METAX)
    change(lambda facts: cell_of(facts, METAX)["versions"].update(flaggems="Version: 3.1", flagtree="0.5.0"))
    plan = plan_of(METAX)
    assert ran(plan) == [stage.value for stage in Stage]
    assert texts(plan)["build"] == "run (image inputs changed: flaggems 3.0 → 3.1, flagtree 0.5.0 added)"
    assert texts(plan)["decide"] == "run (follows escalate and speed)"
    (pin, _) = stage_of(plan, Stage.BUILD).reasons
    assert (pin.what, pin.key, pin.old, pin.new, pin.release) == ("image inputs", "flaggems", "3.0", "3.1", 1)


def test_a_changed_engine_setting_keeps_the_build(change: Any) -> None:
    release(SMALL)
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=2))
    plan = plan_of(SMALL)
    assert "build" not in ran(plan)
    assert texts(plan)["evaluate"] == "run (engine settings changed: threads 1 → 2)"
    assert texts(plan)["card"] == "run (follows decide)"


def test_a_changed_threshold_asks_no_question_again(change: Any) -> None:
    release(SMALL)
    change(lambda facts: facts["policy"].update(min_items=150))
    plan = plan_of(SMALL)
    assert ran(plan) == ["escalate", "decide", "card", "publish"]
    assert texts(plan)["decide"] == "run (policy changed: min_items 200 → 150)"


def test_a_threshold_of_a_tier_is_named_with_the_tier(change: Any) -> None:
    release(SMALL)
    change(lambda facts: facts["policy"]["suites"]["smoke"]["canary"].update(factor=3.0))
    assert texts(plan_of(SMALL))["canary"] == "run (policy changed: canary.factor 2.0 → 3.0)"


def test_another_baseline_is_named(change: Any) -> None:
    release(SMALL)
    other = "minimax-published-dc95b26909db"
    change(lambda facts: facts["models"]["smollm2"]["reference"].update(baseline=other))
    plan = plan_of(SMALL)
    assert "evaluate" not in ran(plan)
    assert texts(plan)["decide"] == f"run (baseline changed: {BASELINE} → {other})"


def test_another_benchmark_is_named(change: Any) -> None:
    release(SMALL)
    change(lambda facts: facts["suites"]["smoke"].remove("addition"))
    assert texts(plan_of(SMALL))["evaluate"] == "run (benchmark changed: addition removed)"


def test_a_fact_of_the_card_is_found_in_the_snapshot(change: Any) -> None:
    release(METAX)
    change(lambda facts: cell_of(facts, METAX)["versions"].update(driver="2.15.9"))
    plan = plan_of(METAX)
    assert ran(plan) == ["card", "publish"]
    was = "Kernel Mode Driver Version: 2.3.0"
    assert texts(plan)["card"] == f"run (facts on the card changed: versions.driver {was} → 2.15.9)"


def test_how_a_cell_is_grouped_changes_nothing(change: Any) -> None:
    release(METAX)
    change(lambda facts: cell_of(facts, METAX).update(tags=["nightly"], schedule={"cron": "0 2 * * 6"}))
    assert plan_of(METAX).action == "unchanged"
    change(lambda facts: cell_of(facts, METAX).update(port=8001, sampling={"temperature": 0.5, "top_p": 0.95}))
    said = texts(plan_of(METAX))
    assert said["build"] == "run (image inputs changed: port 8000 → 8001)"
    change(lambda facts: cell_of(facts, METAX).update(port=8000))
    assert texts(plan_of(METAX))["card"] == "run (facts on the card changed: sampling.temperature 0.7 → 0.5)"


def test_a_failure_is_told_with_what_changed_before_it(change: Any) -> None:
    release(SMALL)
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=2))
    release(SMALL, error=(Stage.EVALUATE, "the server died: out of memory\n  -> use less"))
    plan = plan_of(SMALL)
    assert ran(plan) == ["evaluate", "escalate", "speed", "decide", "card", "publish"]
    assert texts(plan)["evaluate"] == (
        "run (failed in release 2: the server died: out of memory; engine settings changed: threads 1 → 2)"
    )
    assert stage_of(plan, Stage.EVALUATE).reasons[0].kind == "failed"


def test_an_interrupted_release_goes_on() -> None:
    release(SMALL, error=(Stage.EVALUATE, STOPPED))
    found = texts(plan_of(SMALL))
    assert found["canary"] == "reuse (from release 1)"
    assert found["evaluate"] == "run (interrupted in release 1)"
    assert found["speed"] == "run (not reached in release 1)"


def test_nothing_is_asked_again_of_a_model_whose_canary_failed() -> None:
    outputs = {**NOTHING_ASKED, Stage.CANARY: {"canary": {"passed": False}, "note": None}}
    release(SMALL, outputs=outputs, without=[Stage.EVALUATE, Stage.ESCALATE, Stage.SPEED])
    plan = plan_of(SMALL)
    assert plan.action == "unchanged"
    assert texts(plan)["evaluate"] == "skip (the canary failed in release 1)"


def test_a_stage_whose_code_changed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    release(SMALL)
    version = pipeline.STAGE_VERSIONS[Stage.DECIDE]
    monkeypatch.setattr(pipeline, "STAGE_VERSIONS", {**pipeline.STAGE_VERSIONS, Stage.DECIDE: version + 1})
    plan = plan_of(SMALL)
    assert ran(plan) == ["decide", "card", "publish"]
    assert texts(plan)["decide"] == "run (FlagRelease does this otherwise than in release 1)"


def test_a_matrix_that_was_changed_back_reuses_the_older_release(change: Any) -> None:
    release(SMALL)
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=2))
    release(SMALL)
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=1))
    assert texts(plan_of(SMALL))["evaluate"] == "reuse (from release 1)"


def test_a_release_through_another_engine_is_compared_only_where_there_is_no_other(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINES["vllm"], "version", lambda: "2.0", raising=False)
    change(lambda facts: cell_of(facts, SMALL)["engines"].update(vllm={"cpu": True}))
    change(lambda facts: cell_of(facts, SMALL).update(engine="vllm"))
    release(SMALL)
    change(lambda facts: cell_of(facts, SMALL).update(engine="llama_cpp"))
    assert texts(plan_of(SMALL))["evaluate"].startswith("run (engine changed: vllm → llama_cpp; engine version changed")
    release(SMALL)
    change(lambda facts: cell_of(facts, SMALL).update(engine="vllm"))
    release(SMALL)
    change(lambda facts: cell_of(facts, SMALL).update(engine="llama_cpp"))
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=2))
    assert texts(plan_of(SMALL))["evaluate"] == "run (engine settings changed: threads 1 → 2)"


def test_a_publication_that_is_gone_is_made_again() -> None:
    host, job = settings(), make_job(METAX, None, settings())
    release(METAX, outputs={**NOTHING_ASKED, Stage.PUBLISH: {"published": True}})
    publication = publisher_of(host).publish({"README.md": b"card", "evidence/items.jsonl": b"[]"}, job.target)
    store = open_store()
    store.record_publication(1, publication)
    store.close()
    assert plan_of(METAX).action == "unchanged"
    (publisher_of(host).root / job.target / "evidence" / "items.jsonl").unlink()
    plan = plan_of(METAX)
    assert ran(plan) == ["publish"]
    assert texts(plan)["publish"] == "run (what release 1 published is gone or was changed)"


def test_a_publication_that_was_taken_back_is_not_made_again(change: Any) -> None:
    published = {**NOTHING_ASKED, Stage.PUBLISH: {"published": True}}
    older = release(SMALL, outputs=published)
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=2))
    newer = release(SMALL, outputs=published)
    target = make_job(SMALL, None, settings()).target
    store = open_store()
    for number in (older, newer, older):
        publication = publisher_of(settings()).publish({"README.md": str(number).encode()}, target)
        store.record_publication(number, publication)
    store.close()
    assert plan_of(SMALL).action == "unchanged"


def test_publications_of_other_hosts_are_not_missed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(METAX, outputs={**NOTHING_ASKED, Stage.PUBLISH: {"published": True}})
    assert plan_of(METAX).action == "run"
    monkeypatch.setenv("FLAGRELEASE_STORE", f"sqlite:///{home / 'home' / 'store.db'}")
    settings.cache_clear()
    whole = plan_matrix(settings(), cell=METAX)
    assert whole.cells[0].action == "unchanged"
    assert "whether publications still stand was not looked at" in whole.notes[0]


# What cannot be planned


def test_a_model_without_a_baseline_is_blocked_and_the_others_are_planned(change: Any) -> None:
    change(lambda facts: facts["models"]["qwen3"]["reference"].pop("baseline"))
    change(lambda facts: facts["models"]["minimax"]["reference"].update(baseline="minimax-vllm-000000000000"))
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=0))
    found = {cell.cell: cell for cell in plan_matrix(settings()).cells}
    causes = {name: cell.blocked.cause for name, cell in found.items() if cell.blocked}
    assert causes[METAX] == "qwen3 has no baseline to compare with"
    assert (
        "minimax-vllm-000000000000 of minimax is neither in the store nor among the files" in causes["minimax-nvidia"]
    )
    assert "smollm2-cpu: engines.llama_cpp.threads: Input should be greater than or equal to 1" in causes[SMALL]
    assert {cell.action for name, cell in found.items() if name not in causes} == {"run"}
    assert len(found) == 6


def test_a_host_without_the_engine_takes_the_version_of_the_newest_release(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(SMALL)

    def missing() -> str:
        raise PreflightError("the engine llama_cpp needs the package xllamacpp", remedy="install it")

    monkeypatch.setattr(ENGINES["llama_cpp"], "version", missing)
    plan = plan_of(SMALL)
    assert plan.action == "unchanged"
    assert plan.lacks == ["llama.cpp (xllamacpp)"]
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=2))
    assert texts(plan_of(SMALL))["evaluate"] == "run (engine settings changed: threads 1 → 2)"


# Times, and what is shared


def set_times(**seconds: float) -> None:
    """How long each stage took that has a result in the store; the others took none."""
    store, began = open_store(), datetime(2026, 11, 1, tzinfo=UTC)
    with store.session() as session:
        session.execute(update(ReleaseRow).values(started_at=began, finished_at=began + timedelta(days=1)))
        for stage in Stage:
            ended = began + timedelta(seconds=seconds.get(stage.value, 0))
            done = update(StageRow).where(StageRow.stage == stage)
            session.execute(done.values(started_at=began, finished_at=ended))
    store.close()


def test_times_are_those_of_the_cell_else_of_its_model_else_of_its_chip(change: Any) -> None:
    release(METAX)
    set_times(build=600, evaluate=3600)
    same = {**copy.deepcopy(cell_of(matrix(), METAX)), "chip": "nvidia", "names": {}, "published": None}
    change(lambda facts: facts["cells"].append(same))
    change(lambda facts: facts["policy"].update(min_items=150))
    change(lambda facts: cell_of(facts, METAX).update(engines={"flagscale": {"max_model_len": 4096}}))
    whole = plan_matrix(settings())
    found = {cell.cell: cell for cell in whole.cells}
    assert (found[METAX].seconds, found[METAX].timed) == (3600, True)
    by = {name: stage_of(found[name], Stage.EVALUATE).seconds_from for name in found}
    assert by == {
        METAX: "cell",
        "qwen3-nvidia": "model",
        "robobrain2-7b-metax": "chip",
        "minicpmv4-metax": "chip",
        "minimax-nvidia": None,
        "step3-nvidia": None,
        SMALL: None,
    }
    pools = {pool.chip: pool for pool in whole.pools}
    assert (pools["nvidia"].cells, pools["nvidia"].untimed, pools["nvidia"].seconds) == (3, 2, 4200)
    assert pools["metax"].slots == 1
    assert whole.at_least_by == "metax"
    # Three cells, and one build for the two that share an image.
    assert whole.at_least == pools["metax"].seconds == 3 * 3600 + 600


def test_cells_that_share_an_image_wait_for_one_build(change: Any) -> None:
    whole = plan_matrix(settings())
    shared = {len(image.cells): image for image in whole.images}
    assert sorted(shared) == [1, 2]
    pair = shared[2]
    assert not pair.there
    found = {work.id: work for work in works(whole.cells, whole.images)}
    image = found[f"image/{pair.id}"]
    assert (image.value, image.seconds) == (0, None)
    assert {name for name, work in found.items() if work.needs == (image.id,)} == set(pair.cells)
    release(pair.cells[0])

    def other_weights(facts: dict[str, Any]) -> None:
        for name in pair.cells:
            weights = dict(facts["models"]["smollm2"]["weights"])
            facts["models"][cell_of(facts, name)["model"]]["weights"] = weights

    # Built once it is there for both, whose builds have their weights to check.
    change(other_weights)
    again = plan_matrix(settings())
    assert [(image.there, image.cells) for image in again.images if image.id == pair.id] == [(True, pair.cells)]
    assert image.id not in {work.id for work in works(again.cells, again.images)}


# Differences


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"weights": "a" * 64}, {"weights": "b" * 64}, "weights changed: aaaaaaaaaaaa… → bbbbbbbbbbbb…"),
        ({"weights": ["o/a", None]}, {"weights": ["o/a", "c" * 64]}, "weights changed: sha256 none → cccccccccccc…"),
        ({"weights": "a" * 64}, {"weights": ["o/a", None]}, "weights changed"),
        (
            {"container": ["--init", "--shm-size=32G", "-v", "/a:/a", "-v", "/b:/b"]},
            {"container": ["--init", "--shm-size=64G", "-v", "/a:/a"]},
            "container options changed: --shm-size=32G removed, -v removed, /b:/b removed; and 1 more",
        ),
        ({"format": "gguf"}, {"format": "safetensors"}, "form of the weights changed: gguf → safetensors"),
        ({}, {"image": {"recipe": {"base": "b"}}}, "image inputs changed: container added"),
        (
            {"image": {"recipe": {"base": "a:1", "pins": []}, "files": {"x.j2": "1"}}},
            {"image": {"recipe": {"base": "a:2", "pins": []}, "files": {"x.j2": "2"}}},
            "image inputs changed: base image a:1 → a:2, file x.j2 1 → 2",
        ),
        (
            {"benchmarks": [{"benchmark": "gpqa", "definition": "1"}], "harnesses": {"lm_eval": "0.4.13"}},
            {"benchmarks": [{"benchmark": "gpqa", "definition": "2"}], "harnesses": {"lm_eval": "0.4.14"}},
            "benchmark changed: gpqa is asked or scored otherwise; harness changed: lm_eval 0.4.13 → 0.4.14",
        ),
        (
            {"speed": {"workloads": [{"input": 1, "requests": 4}]}, "load_generator": "1"},
            {"speed": {"workloads": [{"input": 1, "requests": 8}]}, "load_generator": "2"},
            "policy changed: speed.workloads.0.requests 4 → 8; load generator changed: 1 → 2",
        ),
        ({"speed": {"floor": 1}, "load_generator": "1"}, {"speed": None, "load_generator": None},
         "policy changed: speed removed"),
        ({"engine_settings": dict.fromkeys("abcde", 1)}, {"engine_settings": dict.fromkeys("abcde", 2)},
         "engine settings changed: a 1 → 2, b 1 → 2, c 1 → 2; and 2 more"),
    ],
)  # fmt: skip
def test_changes_in_words(old: dict[str, Any], new: dict[str, Any], words: str) -> None:
    assert in_words([(change.what, change.text) for change in changes(old, new)]) == words


# The command


class PlanRun(Run):
    """The command line; and which cells a plan is of."""

    def cells(self, *argv: str) -> list[str]:
        """The cells that a plan is of."""
        assert self("plan", *argv, "--json") == 0
        return [cell.cell for cell in MatrixPlan.model_validate_json(self.out).cells]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PlanRun:
    return PlanRun(monkeypatch, capsys)


def test_a_plan_writes_nothing(command: PlanRun, home: Path) -> None:
    assert command("plan") == 0
    assert command.out.startswith("6 cells: 0 unchanged, 6 to run, 0 blocked\n")
    assert command("plan", SMALL, "--power") == 0
    assert list(home.iterdir()) == []
    release(SMALL)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert command("plan") == 0
    assert "6 cells: 1 unchanged, 5 to run, 0 blocked\n" in command.out
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_what_is_unchanged_is_only_counted(command: PlanRun, change: Any) -> None:
    release(SMALL)
    release(METAX)
    change(lambda facts: cell_of(facts, METAX)["versions"].update(flaggems="Version: 3.1"))
    assert command("plan", "--chip", "metax", "--chip", "cpu") == 0
    assert SMALL not in command.out
    assert "\n1 cell, " in command.out
    assert f"  {METAX}\n  build: run (image inputs changed: flaggems 3.0 → 3.1)\n" in command.out
    assert (
        "  canary, evaluate, escalate, speed, decide, card, publish: run (because of what is before them)\n"
        in command.out
    )


def test_one_cell_stage_by_stage(command: PlanRun, change: Any) -> None:
    release(SMALL)
    set_times(evaluate=150)
    change(lambda facts: cell_of(facts, SMALL)["engines"]["llama_cpp"].update(threads=2))
    assert command("plan", SMALL) == 0
    assert "smollm2-cpu through llama_cpp, newest release 1: about 2 min\n" in command.out
    assert "  build     reuse (from release 1)\n" in command.out
    assert "  evaluate  run (engine settings changed: threads 1 → 2), about 2 min\n" in command.out


def test_cells_blocked_for_one_cause_are_named_together(command: PlanRun, change: Any) -> None:
    change(lambda facts: facts["models"]["qwen3"]["reference"].pop("baseline"))
    assert command("plan") == 0
    assert "6 cells: 0 unchanged, 5 to run, 1 blocked" in command.out
    assert "1 cell blocked (qwen3 has no baseline to compare with)\n  qwen3-metax\n  -> measure one" in command.out
    assert command("plan", METAX) == 0
    assert command.out.startswith("qwen3-metax: blocked (qwen3 has no baseline to compare with)\n  -> measure one")


def test_cells_are_selected(command: PlanRun, change: Any) -> None:
    change(lambda facts: cell_of(facts, METAX).update(tags=["nightly"]))
    release(SMALL)
    release(METAX, error=(Stage.EVALUATE, "the server died"))
    assert command.cells("--chip", "nvidia") == ["minimax-nvidia", "step3-nvidia"]
    assert command.cells("--model", "QWEN*") == [METAX]
    assert command.cells("--suite", "vision", "--chip", "metax") == ["minicpmv4-metax"]
    assert command.cells("--tag", "nightly") == [METAX]
    assert command.cells("--failed") == [METAX]
    assert SMALL not in command.cells("--stale")
    assert METAX in command.cells("--stale")
    assert command.cells("--changed-since", "2026-11-01") == [SMALL, METAX]
    set_times()
    assert command.cells("--changed-since", "2026-11-03") == []


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--chip", "metx"], 12, "did you mean `metax`?"),
        (["qwen3-meta"], 12, "did you mean `qwen3-metax`?"),
        ([METAX, "--failed"], 2, "give one cell, or options that select cells"),
        (["--power"], 2, "of which cell?"),
        ([METAX, "--engine", "vllm"], 2, "--engine goes with --power"),
        (["--changed-since", "yesterday"], 2, "yesterday"),
    ],
)
def test_what_makes_no_sense_is_refused(command: PlanRun, argv: list[str], code: int, said: str) -> None:
    assert command("plan", *argv) == code
    assert said in command.err


@pytest.mark.parametrize(
    ("schema", "said"), [("0001", "bring it up to date: flagrelease status"), ("9999", "upgrade FlagRelease")]
)
def test_a_database_of_another_schema_is_left_alone(command: PlanRun, home: Path, schema: str, said: str) -> None:
    release(SMALL)
    path = home / "home" / "store.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [schema])
    connection.close()
    before = path.read_bytes()
    assert command("plan") == 21
    assert said in command.err
    assert path.read_bytes() == before
