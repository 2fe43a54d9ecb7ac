"""Dump, restore, check and migrations on a real PostgreSQL, and the way between it and SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, make_url, text

from flagrelease.errors import StoreError
from flagrelease.records import Item
from flagrelease.store import Store, transfer
from flagrelease.store.check import check
from flagrelease.store.database import lock_schema, migrate, move_schema, revisions
from flagrelease.store.models import Base
from flagrelease.store.transfer import dump, restore
from tests.integration.test_store_postgresql import server  # noqa: F401 - a fixture
from tests.unit.command_line import failures_at_once
from tests.unit.evaluations import evaluation
from tests.unit.store_contents import fill, items, rows
from tests.unit.test_store import begin, old_store  # noqa: F401 - a fixture
from tests.unit.test_transfer import quiet, rows_of, url

pytestmark = pytest.mark.needs("postgresql")


@pytest.fixture
def database(server: str) -> Iterator[Engine]:  # noqa: F811 - a fixture
    """An empty database."""
    engine = create_engine(server)
    yield engine
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


def test_from_sqlite_to_postgresql_and_back(server: str, database: Engine, tmp_path: Path) -> None:  # noqa: F811
    store = Store.open(url(tmp_path / "first.db"))
    fill(store, 6_000)
    store.close()
    first = rows_of(tmp_path / "first.db")
    dump(url(tmp_path / "first.db"), tmp_path / "first.gz", quiet)
    contents = restore(server, tmp_path / "first.gz", quiet)
    assert contents.rows["items"] == 6_000
    assert rows(database) == first
    found = check(server)
    assert (found.problem, found.rows) == (None, contents.rows)

    dump(server, tmp_path / "second.gz", quiet)
    restore(url(tmp_path / "second.db"), tmp_path / "second.gz", quiet)
    assert rows_of(tmp_path / "second.db") == first

    # The counters go on after the rows that came.
    store = Store.open(server)
    assert begin(store, "another") == 3
    assert store.add_evaluation(evaluation([]), [], key="another", role="candidate") == 2
    store.close()
    with pytest.raises(StoreError, match=r"is not empty: it has rows of conformance 1, evaluations 2, .*items 6,000"):
        restore(server, tmp_path / "first.gz", quiet)


def test_an_empty_store_is_restored_and_numbers_from_one(
    server: str,  # noqa: F811
    database: Engine,
    tmp_path: Path,
) -> None:
    migrate(database)
    dump(server, tmp_path / "dump.gz", quiet)
    restore(server, tmp_path / "dump.gz", quiet)
    store = Store.open(server)
    assert begin(store) == 1
    store.close()


def test_writers_go_on_while_one_moment_is_dumped(
    server: str,  # noqa: F811
    database: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "AT_ONCE", 2)
    store = Store.open(server)
    fill(store)
    before = rows(database)

    def write(done: int, _total: int) -> None:
        store.add_evaluation(evaluation(items(3)), [], key=str(done), role="candidate")
        store.finish_release(1, f"state {done}")

    dump(server, tmp_path / "dump.gz", write)
    store.close()
    restore(url(tmp_path / "new.db"), tmp_path / "dump.gz", quiet)
    assert rows_of(tmp_path / "new.db") == before
    assert rows(database)["releases"] != before["releases"]


def test_what_postgresql_cannot_hold_is_named_and_leaves_nothing(
    server: str,  # noqa: F811
    database: Engine,
    tmp_path: Path,
) -> None:
    answers = [Item(benchmark="b", item="i", score=0, prompt="p", answer="a\0b", extracted="")]
    store = Store.open(url(tmp_path / "store.db"))
    store.add_evaluation(evaluation(answers), [], key="k", role="candidate")
    store.close()
    dump(url(tmp_path / "store.db"), tmp_path / "dump.gz", quiet)
    with pytest.raises(StoreError, match=r"a row of items has no place in postgresql.*NUL"):
        restore(server, tmp_path / "dump.gz", quiet)
    assert rows(database) == {}
    restore(url(tmp_path / "new.db"), tmp_path / "dump.gz", quiet)
    assert rows_of(tmp_path / "new.db") == rows_of(tmp_path / "store.db")


def test_a_dump_of_an_older_version_is_brought_up(
    server: str,  # noqa: F811
    database: Engine,
    old_store: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    dump(old_store, tmp_path / "dump.gz", quiet)
    migrate(database)
    restore(server, tmp_path / "dump.gz", quiet)
    old = create_engine(old_store)
    migrate(old)
    assert rows(database) == rows(old)
    old.dispose()


def test_every_migration_goes_down_and_up_again(
    server: str,  # noqa: F811
    database: Engine,
    old_store: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    dump(old_store, tmp_path / "dump.gz", quiet)
    restore(server, tmp_path / "dump.gz", quiet)
    up = rows(database)

    def move(revision: str, *, down: bool = False) -> None:
        with database.begin() as connection:
            lock_schema(connection)
            move_schema(connection, revision, down=down)

    for revision in revisions()[-2::-1]:
        move(revision, down=True)
    move("head")
    assert rows(database) == up
    move("base", down=True)
    assert rows(database) == {"alembic_version": []}
    move("head")
    with database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_check_names_the_rights_that_a_user_lacks_and_hides_the_password(
    server: str,  # noqa: F811
    database: Engine,
) -> None:
    with pytest.raises(StoreError, match="there is no FlagRelease database"):
        check(server)
    assert rows(database) == {}
    migrate(database)
    with database.begin() as connection:
        connection.execute(text("CREATE ROLE reader LOGIN PASSWORD 'secret'"))
        connection.execute(text("GRANT USAGE ON SCHEMA public TO reader"))
        connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"))
    reader = make_url(server).set(username="reader", password="secret").render_as_string(hide_password=False)  # noqa: S106
    try:
        found = check(reader)
        assert found.server.startswith("PostgreSQL ")
        assert "secret" not in found.database
        assert found.problem is not None
        assert "the user reader may not: INSERT conformance, UPDATE conformance, INSERT eval" in found.problem.message
        with database.begin() as connection:
            for grant in found.problem.remedy.partition(": ")[2].split("; "):
                connection.execute(text(grant))
        assert check(reader).problem is None
        store = Store.open(reader)
        assert begin(store) == 1
        store.close()
    finally:
        with database.begin() as connection:
            connection.execute(text("DROP OWNED BY reader"))
            connection.execute(text("DROP ROLE reader"))


def test_workers_that_open_a_new_database_at_once_make_it_once(
    server: str,  # noqa: F811
    database: Engine,
) -> None:
    assert failures_at_once(6, lambda: Store.open(server).close()) == []
    with database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
