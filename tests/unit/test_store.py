"""The store keeps what it is given, resumes releases, and says what is wrong with a database."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import column, create_engine, table
from sqlalchemy.exc import IntegrityError

from flagrelease.card.build import release_snapshot
from flagrelease.errors import StoreError, StoreLockedError, StoreVersionError, UnknownNameError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.pipeline import UPSTREAM, ReleaseRun, StageOutput, plan
from flagrelease.records import Artefact, ImportedBaseline, Item, Published, Stage
from flagrelease.store import Store, database
from flagrelease.store.models import Base
from flagrelease.store.plans import attempts
from flagrelease.store.queries import find_release, latest_releases, release_view, stored_baselines
from tests.conftest import ROOT
from tests.unit.evaluations import evaluation, result


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'store.db'}")


def inputs(**changed: object) -> dict[Stage, dict[str, object]]:
    return {stage: {"setting": changed.get(stage.value, 1)} for stage in Stage}


def begin(store: Store, key: str = "k", cell: str = "m-c") -> int:
    return store.begin_release(cell=cell, key=key, engine="e", snapshot={"a": 1}, code_version="0")


def ignore(_: str) -> None:
    """A log that nobody reads."""


def test_an_evaluation_comes_back_whole(store: Store) -> None:
    items = [
        Item(benchmark="b", item=f"{i:064d}", score=i % 2, prompt="p", answer="ü\n|", extracted="x") for i in range(7)
    ]
    stored = evaluation(items)
    identifier = store.add_evaluation(stored, [result("b", 7)], key="k", role="candidate")
    summary = store.evaluation_summary(evaluation=identifier)
    assert summary is not None
    assert summary.results == [result("b", 7)]
    assert store.evaluation(summary) == stored


def test_the_same_evaluation_is_stored_once(store: Store) -> None:
    first = store.add_evaluation(evaluation([]), [], key="k", role="candidate")
    assert store.add_evaluation(evaluation([]), [], key="k", role="candidate") == first


def test_the_same_key_is_the_same_release(store: Store) -> None:
    first = begin(store)
    store.finish_release(first, "failed", "cause")
    assert begin(store) == first
    assert release_view(store, first).state == "running"
    assert begin(store, key="other") != first


def test_what_had_to_be_made_again_is_what_is_reused(store: Store) -> None:
    the_plan = plan(inputs())
    first = ReleaseRun(store, begin(store, "1"), the_plan, ignore)
    first.stage(Stage.BUILD, lambda: StageOutput({"image": "vanished"}))
    second = ReleaseRun(store, begin(store, "2"), the_plan, ignore)
    second.stage(Stage.BUILD, lambda: StageOutput({"image": "built again"}), lambda: False)
    third = ReleaseRun(store, begin(store, "3"), the_plan, ignore)
    assert third.stage(Stage.BUILD, lambda: pytest.fail("was run again")) == {"image": "built again"}
    finished = first.finished(Stage.BUILD)
    assert finished is not None
    assert (finished.release, finished.output) == (second.release, {"image": "built again"})
    # A plan says the same.
    key = the_plan.keys[Stage.BUILD]
    assert attempts(store, [key])[key].release == second.release


def test_a_finished_stage_is_reused_and_named(store: Store) -> None:
    said: list[str] = []
    the_plan = plan(inputs())
    first = ReleaseRun(store, begin(store, "1"), the_plan, said.append)
    kept = Artefact(kind="items", name="items.jsonl", sha256="0" * 64, size=1)
    first.stage(Stage.BUILD, lambda: StageOutput({"x": 1}, [kept]))

    second = ReleaseRun(store, begin(store, "2"), the_plan, said.append)
    output = second.stage(Stage.BUILD, lambda: pytest.fail("was run again"))
    assert output == {"x": 1}
    assert said == [f"build: reused from release {first.release}"]
    view = release_view(store, second.release)
    assert view.stages[0].reused_from == first.release
    assert view.artefacts == [kept]


def test_a_failed_stage_runs_again(store: Store) -> None:
    run = ReleaseRun(store, begin(store), plan(inputs()), lambda _: None)

    def fail() -> StageOutput:
        msg = "the cause"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError):
        run.stage(Stage.BUILD, fail)
    assert release_view(store, run.release).stages[0].error == "the cause"
    assert run.stage(Stage.BUILD, lambda: StageOutput({"ok": True})) == {"ok": True}
    assert release_view(store, run.release).stages[0].error is None


def test_a_publication_that_is_gone_is_made_again(store: Store) -> None:
    run = ReleaseRun(store, begin(store), plan(inputs()), lambda _: None)
    run.stage(Stage.PUBLISH, lambda: StageOutput({"n": 1}))
    assert run.stage(Stage.PUBLISH, lambda: StageOutput({"n": 2}), lambda: False) == {"n": 2}


@pytest.mark.parametrize("changed", list(Stage))
def test_a_change_touches_its_stage_and_those_that_build_on_it(changed: Stage) -> None:
    before, after = plan(inputs()), plan(inputs(**{changed.value: 2}))
    touched = {changed}
    for stage in Stage:
        if touched & set(UPSTREAM[stage]):
            touched.add(stage)
    assert {stage for stage in Stage if before.keys[stage] != after.keys[stage]} == touched
    assert Stage.PUBLISH in touched
    assert before.release_key != after.release_key


def test_status_shows_the_newest_release(store: Store) -> None:
    begin(store, "1")
    newest = begin(store, "2")
    begin(store, "3", cell="other-c")
    assert latest_releases(store, ["m-c"])["m-c"].id == newest
    assert set(latest_releases(store)) == {"m-c", "other-c"}
    assert find_release(store, "m-c") == newest
    with pytest.raises(UnknownNameError, match="no completed release `m-c`"):
        find_release(store, "m-c", completed=True)


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Store.open(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreVersionError, match="newer FlagRelease"):
        Store.open(f"sqlite:///{path}")


def test_a_locked_database_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.1)
    path = tmp_path / "store.db"
    store = Store.open(f"sqlite:///{path}")
    holder = sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreLockedError, match="locked by another process"):
        begin(store)
    holder.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_text("this is not a database, it is a text of some length\n" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        Store.open(f"sqlite:///{path}")


@pytest.mark.parametrize("url", ["nonsense", "oracle://x", "sqlite:////proc/nothing/store.db"])
def test_a_wrong_url_is_one_message(url: str) -> None:
    with pytest.raises(StoreError):
        Store.open(url)


def test_a_kill_in_the_first_migration_leaves_nothing_half_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    code = f"""
import os, signal
from sqlalchemy import event, Engine
from flagrelease.store import Store

@event.listens_for(Engine, "before_cursor_execute")
def die(conn, cursor, statement, *_):
    if "CREATE TABLE items" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

Store.open({url!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert begin(Store.open(url)) == 1


OLD_PROVENANCE = {
    **dict.fromkeys(("model", "chip", "engine", "engine_version", "platform", "code_version", "created"), "x"),
    **dict.fromkeys(("weights_sha256", "chat_template_sha256"), "0" * 64),
    "stack": "native",
    "engine_settings": {"threads": 1},
    "harness": "lm_eval",
    "harness_version": "0.4.13",
}
OLD_RUN = {
    **dict.fromkeys(("dataset_sha256", "task_sha256"), "x"),
    **{"benchmark": "b", "few_shot": 0, "generation": {}, "api": "chat", "items": 1000, "repeats": 1},
}
OLD_ROW = {
    **{"benchmark": "b", "display": "B", "role": "gated", "verdict": "REGRESSED", "n": 1000, "repeats": 1},
    **dict.fromkeys(("baseline", "candidate", "difference", "standard_error", "lower", "upper"), 0.5),
    **{"margin_points": 2.0, "p_value": 0.01, "p_adjusted": 0.01, "lost": 60, "won": 0, "missing": 0},
    **{"different": False, "reason": "a loss is shown"},
}
OLD_VERDICT = {
    **{"verdict": "REGRESSED", "baseline_id": "x-x-1", "hygiene": [], "benchmarks": [OLD_ROW], "pooled": None},
    "reasons": ["a loss"],
}


@pytest.fixture
def old_store(tmp_path: Path) -> str:
    """A database of the first schema with a judged release, as that version of FlagRelease wrote it."""
    url = f"sqlite:///{tmp_path / 'old.db'}"
    engine = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        cell = resolve(load_matrix(ROOT / "matrix.yaml"), load_chips(), "smollm2-cpu").model_dump(mode="json")
        for name in ("reasons", "power", "max_length_shift", "canary", "speed", "early_stop", "escalation", "fidelity"):
            del cell["policy"][name]
        del cell["policy"]["models"], cell["overrides"], cell["model"]["reference"]["again"]
        snapshot = {"cell": cell, "engine": "e", "engine_display": "E", "displays": {"b": "B"}, "not_run": []}
        rows: list[tuple[str, dict[str, object]]] = [
            ("releases", {"id": 1, "cell": "m-c", "key": "1", "engine": "e", "state": "completed"}
             | {"snapshot": json.dumps(snapshot), "code_version": "0", "started_at": "2026-01-01 00:00:00"}),
            ("releases", {"id": 2, "cell": "o-c", "key": "2", "engine": "e", "state": "failed"}
             | {"snapshot": "{}", "code_version": "0", "started_at": "2026-01-01 00:00:00"}),
            ("evaluations", {"id": 1, "role": "baseline", "baseline_id": "x-x-1", "key": "1", "model": "x"}
             | {"provenance": json.dumps(OLD_PROVENANCE), "benchmarks": json.dumps([OLD_RUN])}
             | {"created_at": "2026-01-01 00:00:00"}),
            ("items", {"evaluation_id": 1, "benchmark": "b", "item": "i", "repeat": 0, "score": 0.5, "prompt": "p"}
             | {"answer": "ü", "extracted": "u", "output_tokens": 3}),
            ("results", {"evaluation_id": 1, "benchmark": "b", "n": 1000, "repeats": 1}
             | {"score": 0.5, "lower": 0.4, "upper": 0.6}),
            ("verdicts", {"release_id": 1, "verdict": "REGRESSED", "baseline_id": "x-x-1", "candidate_id": 1}
             | {"detail": json.dumps(OLD_VERDICT)}),
        ]  # fmt: skip
        for name, row in rows:
            connection.execute(table(name, *map(column, row)).insert().values(row))
    engine.dispose()
    return url


def test_a_store_of_the_first_schema_keeps_what_it_holds(old_store: str) -> None:
    store = Store.open(old_store)
    summary = store.known_evaluation(baseline_id="x-x-1")
    assert summary.provenance.harnesses == {"lm_eval": "0.4.13"}
    assert summary.provenance.tokenizer_sha256 == ""
    assert [(run.benchmark, run.harness) for run in summary.benchmarks] == [("b", "lm_eval")]
    assert [result.n for result in summary.results] == [1000]
    assert (summary.floors, summary.canary, summary.speed) == ([], None, None)
    (item,) = store.evaluation(summary).items
    assert (item.score, item.answer, item.output_tokens, item.latency_s, item.cluster) == (0.5, "ü", 3, None, None)
    assert set(stored_baselines(store)) == {"x-x-1"}

    view = release_view(store, 1)
    assert view.gate is not None
    assert (view.gate.verdict, view.gate.rule) == ("REGRESSED", "not recorded")
    # 6.18 × 0.06 / 0.02² = 927 items would have been enough.
    assert view.gate.benchmarks[0].resolution == pytest.approx(1000 / 927)
    assert release_snapshot(store, 1).cell.policy.margin_points == 2.0
    assert release_view(store, 2).state == "failed"
    # A second time there is nothing to do, and what comes in now comes in whole.
    store.close()
    store = Store.open(old_store)
    store.add_evaluation(evaluation([]), [], key="k", role="candidate")


def test_an_old_store_becomes_what_a_new_one_is(old_store: str) -> None:
    Store.open(old_store).close()
    engine = create_engine(old_store)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_many_items_go_in_and_one_twice_is_refused(store: Store) -> None:
    items = [
        Item(benchmark="b", item=f"{i:064d}", score=0.5, prompt="p", answer="a", extracted="x", cluster="passage 1")
        for i in range(1_000)
    ]
    whole = evaluation(items)
    identifier = store.add_evaluation(whole, [], key="k", role="candidate")
    assert store.evaluation(store.known_evaluation(evaluation=identifier)) == whole
    with pytest.raises(IntegrityError):
        store.add_evaluation(evaluation([items[0], items[0]]), [], key="other", role="candidate")
    # All of it or nothing.
    assert store.evaluation_summary(evaluation=identifier + 1) is None


def test_published_scores_are_stored_once(store: Store) -> None:
    scores = [Published(benchmark="b", score=0.5, printed="50.0")]
    first = ImportedBaseline(model="m", label="H100-CUDA", source="card", scores=scores)
    store.add_imported_baseline("m-published-1", first)
    store.add_imported_baseline("m-published-1", first.model_copy(update={"source": "another"}))
    assert store.imported_baseline("m-published-1") == first
    assert store.imported_baseline("m-published-2") is None
    store.add_evaluation(evaluation([]), [], key="k", role="baseline", baseline_id="m-e-1")
    store.add_evaluation(evaluation([]), [], key="c", role="candidate")
    assert stored_baselines(store) == {"m-e-1": evaluation([]).provenance, "m-published-1": first}
