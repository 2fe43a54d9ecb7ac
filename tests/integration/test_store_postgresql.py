"""The store on a real PostgreSQL does what it does on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from flagrelease.errors import StoreError, StoreVersionError
from flagrelease.pipeline import ReleaseRun, StageOutput, plan
from flagrelease.records import Artefact, Item, Publication, Stage
from flagrelease.store import Store
from flagrelease.store.operators import Listed, Served, newest_listed
from flagrelease.store.queries import release_view
from runtime.launch.process import free_port
from tests.postgresql import PostgreSQL
from tests.unit.evaluations import evaluation, result

pytestmark = pytest.mark.needs("postgresql")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an empty database on a PostgreSQL server of its own."""
    with closing(PostgreSQL()) as database:
        yield database.url("psycopg", "flagrelease")


@pytest.fixture
def store(server: str) -> Iterator[Store]:
    """An empty store on the server."""
    store = Store.open(server)
    yield store
    with store.session() as session:
        session.execute(text("DROP SCHEMA public CASCADE"))
        session.execute(text("CREATE SCHEMA public"))
    store.close()


def test_a_release_with_everything(store: Store) -> None:
    items = [
        Item(benchmark="b", item=f"{i:064d}", score=i % 2, prompt="p", answer="ü\n|", extracted="x")
        for i in range(12_000)
    ]
    whole = evaluation(items)
    identifier = store.add_evaluation(whole, [result("b", 12_000)], key="e", role="baseline", baseline_id="base")
    summary = store.evaluation_summary(baseline_id="base")
    assert summary is not None
    assert summary.id == identifier
    assert store.evaluation(summary) == whole

    release = store.begin_release(cell="m-c", key="k", engine="e", snapshot={"a": 1}, code_version="0")
    run = ReleaseRun(store, release, plan({stage: {} for stage in Stage}), lambda _: None)
    kept = Artefact(kind="items", name="items.jsonl", sha256="0" * 64, size=1)
    run.stage(Stage.EVALUATE, lambda: StageOutput({"evaluation": identifier}, [kept]))
    assert run.stage(Stage.EVALUATE, lambda: pytest.fail("ran again")) == {"evaluation": identifier}
    publication = Publication(publisher="folder", target="o/n", revision="r", files=[])
    store.record_publication(release, publication)
    store.record_publication(release, publication)
    store.finish_release(release, "completed")
    view = release_view(store, release)
    assert (view.state, view.artefacts, view.publications) == ("completed", [kept], [publication])
    assert view.finished_at is not None
    assert view.finished_at.tzinfo is not None
    assert store.newest_publisher_of("o/n", "r") == release


def test_what_another_release_of_the_model_listed_is_found(store: Store) -> None:
    snapshot = {"cell": {"cell": {"model": "m", "chip": "c"}}}
    release = store.begin_release(cell="m-c", key="k", engine="e", snapshot=snapshot, code_version="0")
    inputs = {stage: {"stack": "flagos", "engine_settings": {}, "engine_version": "1"} for stage in Stage}
    run = ReleaseRun(store, release, plan(inputs), lambda _: None)
    run.stage(Stage.EVALUATE, lambda: StageOutput({"operators": ["add", "mm"]}))
    served = Served("m", "c", "e", "1")
    found = newest_listed(store, Stage.EVALUATE, served, package="p", besides=0)
    assert found == Listed(release, "m-c", ["add", "mm"])
    for other in ({"model": "n"}, {"chip": "d"}, {"engine_version": "2"}):
        assert newest_listed(store, Stage.EVALUATE, served._replace(**other), package="p", besides=0) is None


def test_two_that_store_the_same_evaluation_at_once_store_one(
    store: Store, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluation([Item(benchmark="b", item="0" * 64, score=1, prompt="p", answer="a", extracted="a")])
    both, add = Barrier(2), Session.add

    def after_both_looked(session: Session, row: object) -> None:
        both.wait(30)
        add(session, row)

    monkeypatch.setattr(Session, "add", after_both_looked)
    with closing(Store.open(server)) as other, ThreadPoolExecutor() as threads:
        found = list(threads.map(lambda one: one.add_evaluation(whole, [], key="e", role="baseline"), (store, other)))
    assert found[0] == found[1]
    summary = store.evaluation_summary(evaluation=found[0])
    assert summary is not None
    assert store.evaluation(summary) == whole


def test_a_newer_schema_is_refused(store: Store, server: str) -> None:
    with store.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreVersionError, match="newer FlagRelease"):
        Store.open(server)


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(StoreError, match="does not answer"):
        Store.open(f"postgresql+psycopg://flagrelease@127.0.0.1:{free_port()}/postgres")
