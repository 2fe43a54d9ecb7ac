"""The store on a real PostgreSQL does what it does on SQLite."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from flagrelease.errors import StoreError, StoreVersionError
from flagrelease.pipeline import ReleaseRun, StageOutput, plan
from flagrelease.records import Artefact, Item, Publication, Stage
from flagrelease.store import Store
from flagrelease.store.queries import release_view
from runtime.launch.process import free_port
from tests.conftest import postgresql_bin
from tests.unit.evaluations import evaluation, result

pytestmark = pytest.mark.needs("postgresql")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL server of its own on a free port; gives the URL of its database."""
    programs = postgresql_bin()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="flagrelease-postgresql-"))
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    shutil.chown(folder, user)
    port = free_port()

    def call(*argv: str) -> None:
        done = subprocess.run(
            argv, user=user if os.geteuid() == 0 else None, cwd=folder, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    data = str(folder / "data")
    call(str(programs / "initdb"), "-D", data, "-U", "flagrelease", "--auth=trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    call(str(programs / "pg_ctl"), "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql+psycopg://flagrelease@127.0.0.1:{port}/postgres"
    finally:
        call(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


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


def test_a_newer_schema_is_refused(store: Store, server: str) -> None:
    with store.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreVersionError, match="newer FlagRelease"):
        Store.open(server)


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(StoreError, match="does not answer"):
        Store.open(f"postgresql+psycopg://flagrelease@127.0.0.1:{free_port()}/postgres")
