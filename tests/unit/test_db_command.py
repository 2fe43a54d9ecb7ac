"""`flagrelease db`: what it says of a database, what it changes, and what it leaves alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from flagrelease.store import Store
from flagrelease.store.database import connect, lock_schema, move_schema, revisions
from flagrelease.store.models import Base
from tests.unit.command_line import failures_at_once
from tests.unit.store_contents import fill, rows
from tests.unit.test_cli_errors import call
from tests.unit.test_store import old_store  # noqa: F401 - a fixture

NEWEST = revisions()[-1]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def path(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the database of the settings lies."""
    folder = home / "home"
    monkeypatch.delenv("FLAGRELEASE_STORE", raising=False)
    return folder / "store.db"


@pytest.fixture
def db(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:  # noqa: ARG001
    def run(*argv: str) -> tuple[int, str, str]:
        code = call(monkeypatch, "db", *argv)
        return code, *capsys.readouterr()

    return run


def filled(path: Path) -> None:
    store = Store.open(f"sqlite:///{path}")
    fill(store)
    store.close()


def tell(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def revision_in(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_check_says_what_the_database_holds_and_changes_nothing(path: Path, db: Command) -> None:
    filled(path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    code, out, _ = db("check")
    assert code == 0
    for words in (
        f"sqlite:///{path}",
        f"{NEWEST} (this version's)",
        "2 releases, 1 evaluations, 7 items",
        "sound:     yes",
    ):
        assert words in out
    code, out, _ = db("check", "--json")
    document = json.loads(out)
    assert (code, document["revision"], document["problem"]) == (0, NEWEST, None)
    assert document["rows"]["items"] == 7
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_check_makes_no_database(path: Path, db: Command) -> None:
    code, _, error = db("check")
    assert code == 19
    assert "there is no FlagRelease database" in error
    assert not path.parent.exists()


def test_an_older_database_is_told_to_upgrade_and_a_newer_one_flagrelease(
    old_store: str,  # noqa: F811
    path: Path,
    db: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLAGRELEASE_STORE", old_store)
    code, out, error = db("check")
    assert code == 21
    assert f"schema:    0001 (this version's is {NEWEST})" in out
    assert "1 evaluations, 1 items" in out
    assert "flagrelease db upgrade" in error
    monkeypatch.delenv("FLAGRELEASE_STORE")
    filled(path)
    tell(path, "UPDATE alembic_version SET version_num = '9999'")
    code, out, error = db("check", "--json")
    assert (code, json.loads(out)["problem"]["remedy"][:19]) == (21, "upgrade FlagRelease")
    assert db("upgrade")[0] == db("dump", str(path.with_name("dump.gz")))[0] == 21


def test_check_finds_damage(path: Path, db: Command) -> None:
    filled(path)
    tell(path, "DELETE FROM evaluations")
    code, _, error = db("check")
    assert code == 19
    assert "of items refers to a row of evaluations that is not there" in error
    whole = bytearray(path.read_bytes())
    # The page of an index: what is found through it is not what the table says.
    with closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'ix_releases_cell'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    place = whole.index(b"m-c", (page - 1) * size, page * size)
    whole[place : place + 3] = b"x-c"
    path.write_bytes(whole)
    code, _, error = db("check")
    assert code == 19
    assert "ix_releases_cell" in error
    path.write_bytes(b"this is no database " * 1000)
    assert db("check")[0] == 19


def test_upgrade_keeps_a_copy_where_something_changes(
    old_store: str,  # noqa: F811
    db: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLAGRELEASE_STORE", old_store)
    path = Path(old_store.removeprefix("sqlite:///"))
    copy = path.with_name(f"{path.name}.0001")
    engine = create_engine(old_store)
    before = rows(engine)
    code, out, _ = db("upgrade")
    assert code == 0
    assert f"0001 -> schema {NEWEST}" in out
    assert str(copy) in out
    assert (revision_in(path), revision_in(copy)) == (NEWEST, "0001")
    copied = create_engine(f"sqlite:///{copy}")
    assert rows(copied) == before
    copied.dispose()
    code, out, _ = db("upgrade")
    assert (code, "nothing to do" in out) == (0, True)
    assert [file.name for file in path.parent.glob("old.db.*")] == ["old.db.0001"]
    # Another time's copy stays.
    with engine.begin() as connection:
        lock_schema(connection)
        move_schema(connection, "0001", down=True)
    kept = copy.read_bytes()
    assert str(copy) + ".1" in db("upgrade")[1]
    assert copy.read_bytes() == kept
    engine.dispose()


def test_upgrade_makes_a_new_database(path: Path, db: Command) -> None:
    code, out, _ = db("upgrade")
    assert (code, f"made with schema {NEWEST}" in out) == (0, True)
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]
    assert db("check")[0] == 0


def test_a_dump_moves_a_store(path: Path, db: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    file = path.with_name("dump.gz")
    code, out, _ = db("dump", str(file))
    assert code == 0
    assert "2 releases, 1 evaluations, 7 items" in out
    assert f"evidence files are not in it; they lie in {path.parent / 'evidence'}" in out
    assert db("restore", str(file))[0] == 19
    monkeypatch.setenv("FLAGRELEASE_STORE", f"sqlite:///{path.with_name('new.db')}")
    code, out, _ = db("restore", str(file))
    assert code == 0
    assert "2 releases, 1 evaluations, 7 items" in out
    assert db("check")[0] == 0


def test_every_migration_goes_down_and_up_again(old_store: str) -> None:  # noqa: F811
    engine = connect(old_store)

    def move(revision: str, *, down: bool = False) -> dict[str, list[tuple[object, ...]]]:
        with engine.begin() as connection:
            lock_schema(connection)
            move_schema(connection, revision, down=down)
        return rows(engine)

    first = rows(engine)
    up = move("head")
    assert up != first
    for revision in revisions()[-2::-1]:
        down = move(revision, down=True)
    # What the first schema holds is there again; verdicts and snapshots keep what they gained.
    kept = ("evaluations", "items", "results")
    assert [down[name] for name in kept] == [first[name] for name in kept]
    assert move("head") == up
    assert move("base", down=True) == {"alembic_version": []}
    move("head")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_workers_that_open_a_new_database_at_once_make_it_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    assert failures_at_once(4, lambda: Store.open(url).close()) == []
