"""The store keeps what it is given, resumes releases, and says what is wrong with a database."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flagrelease.errors import StoreError, StoreLockedError, StoreVersionError, UnknownNameError
from flagrelease.pipeline import ReleaseRun, StageOutput, plan
from flagrelease.records import Artefact, Item, Stage
from flagrelease.store import Store, database
from flagrelease.store.queries import find_release, latest_releases, release_view
from tests.unit.evaluations import evaluation, result


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'store.db'}")


def inputs(**changed: object) -> dict[Stage, dict[str, object]]:
    return {stage: {"setting": changed.get(stage.value, 1)} for stage in Stage}


def begin(store: Store, key: str = "k", cell: str = "m-c") -> int:
    return store.begin_release(cell=cell, key=key, engine="e", snapshot={"a": 1}, code_version="0")


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
def test_a_change_touches_its_stage_and_those_after_it(changed: Stage) -> None:
    before, after = plan(inputs()), plan(inputs(**{changed.value: 2}))
    differ = [stage for stage in Stage if before.keys[stage] != after.keys[stage]]
    assert differ == list(Stage)[list(Stage).index(changed) :]
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
