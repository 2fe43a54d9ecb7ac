"""Opening the store: engine, migrations, and errors in the user's words."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, NoSuchModuleError, OperationalError

from flagrelease.errors import FlagReleaseError, StoreError, StoreLockedError, StoreLostError, StoreVersionError

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_TIMEOUT_S = 5.0
RESTART_S = 120.0
"""A database that was there and is away is waited for so long: it is being restarted."""
RETRY_S = 1.0
MIGRATION_LOCK = 7_217_001


def open_database(url: str) -> Engine:
    """Open (and where it is new or older, bring up to date) the database at `url`.

    Raises StoreError, StoreLockedError or StoreVersionError.
    """
    engine = connect(url)
    with translate_errors(engine):
        migrate(engine)
    return engine


def connect(url: str) -> Engine:
    """An engine for the database at `url`, whose folder is created; its schema stays as it is. Raises StoreError."""
    with _usable_url():
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            engine = create_engine(parsed, pool_pre_ping=True)
            _outlive_restarts(engine)
            return engine
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": LOCK_TIMEOUT_S})
    event.listen(engine, "connect", _sqlite_settings)
    return engine


def _outlive_restarts(engine: Engine) -> None:
    """Let the engine connect again to a server that it had been connected to, for as long as a restart takes.

    An address at which nobody ever answered is told at once.
    """
    was_there = False

    def connect(dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
        nonlocal was_there
        end = time.monotonic() + RESTART_S
        while True:
            try:
                connection = dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError:
                if not was_there or time.monotonic() > end:
                    raise
                time.sleep(RETRY_S)
            else:
                was_there = True
                return connection

    event.listen(engine, "do_connect", connect)


def connect_reading(url: str) -> Engine | None:
    """An engine through which nothing can be written; none where `url` names an SQLite file that is not there.

    Raises StoreError.
    """
    with _usable_url():
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            options = {"options": "-c default_transaction_read_only=on"}
            return create_engine(parsed, connect_args=options, pool_pre_ping=True)
        if not parsed.database or not Path(parsed.database).exists():
            return None
        # Not `mode=ro`: such a connection leaves the files behind that SQLite makes beside a database while it is read.
        file = f"file:{quote(parsed.database)}?mode=rw"
        engine = create_engine(parsed, creator=lambda: sqlite3.connect(file, uri=True, timeout=LOCK_TIMEOUT_S))
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))
    return engine


@contextmanager
def _usable_url() -> Iterator[None]:
    try:
        yield
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise StoreError(
            f"cannot use the database URL: {error}",
            remedy="set FLAGRELEASE_STORE to sqlite:////path/store.db or postgresql+psycopg://user@host/database "
            '(PostgreSQL needs: pip install "flagrelease[postgresql]")',
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot create the folder of the database: {error}",
            remedy="set FLAGRELEASE_HOME to a folder that can be written",
        ) from error


def _sqlite_settings(connection: Any, _record: object) -> None:
    # WAL: readers (status, show) are not blocked while a release writes.
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def translate_errors(engine: Engine) -> Iterator[None]:
    """Turn what the driver says into errors with a next step."""
    where = shown(engine.url)
    try:
        yield
    except OperationalError as error:
        cause = str(error.orig)
        if "locked" in cause:
            raise StoreLockedError(
                f"the database {where} is locked by another process (waited {LOCK_TIMEOUT_S:.0f} s)",
                remedy=f"wait for it or end it; who holds it: fuser {engine.url.database}",
            ) from error
        if "readonly" in cause or "unable to open" in cause:
            raise StoreError(
                f"cannot write the database {where}: {cause}",
                remedy="set FLAGRELEASE_HOME or FLAGRELEASE_STORE to a place that can be written",
            ) from error
        if "full" in cause:
            raise StoreError(
                f"no space left for the database {where}: {cause}",
                remedy="free space, then run the same command again: finished stages are kept",
            ) from error
        raise StoreLostError(
            f"the database {where} does not answer: {cause}",
            remedy="check FLAGRELEASE_STORE and that the server runs",
        ) from error
    except IntegrityError:
        # A contradiction in what we write is our fault, not the database's state.
        raise
    except DatabaseError as error:
        raise StoreError(
            f"the database {where} cannot be read: {error.orig}",
            remedy="it is damaged or not a FlagRelease database: restore a backup or name another one",
        ) from error


def revisions() -> list[str]:
    """Every schema that this FlagRelease knows, oldest first; the last is its own."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]


def migrate(engine: Engine, before: Callable[[str], None] | None = None) -> str | None:
    """Bring the database to this version's schema; gives the revision that it had, none where it was empty.

    `before` is called with that revision where something is about to change, while nobody else can write.
    All of it happens or nothing, and by one process at a time. Raises StoreVersionError.
    """
    known = revisions()
    with engine.connect() as connection:
        current = require_known(connection, known)
    if current == known[-1]:
        return current
    with engine.begin() as connection:
        lock_schema(connection)
        # Another process may have done it while this one waited.
        current = require_known(connection, known)
        if current != known[-1]:
            if before and current is not None:
                before(current)
            move_schema(connection, known[-1])
        return current


def lock_schema(connection: Connection) -> None:
    """Begin a transaction during which nobody else changes the schema; on SQLite nobody else writes at all."""
    # SQLite's driver begins no transaction for DDL by itself.
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})


def move_schema(connection: Connection, revision: str, *, down: bool = False) -> None:
    """Run the migrations up (or down) to a revision, `base` for none, in the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    (command.downgrade if down else command.upgrade)(config, revision)


def require_known(connection: Connection, known: Sequence[str]) -> str | None:
    """Revision of the database, which must be one of `known`; none where it is empty. Raises StoreVersionError."""
    current = revision_of(connection)
    if current is not None and current not in known:
        raise StoreVersionError(
            f"the database {shown(connection.engine.url)} was written by a newer "
            f"FlagRelease (schema {current}, this one knows up to {known[-1]})",
            remedy="upgrade FlagRelease, or set FLAGRELEASE_STORE to another database",
        )
    return current


def revision_of(connection: Connection) -> str | None:
    """Schema revision of the database; none where it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def shown(url: URL) -> str:
    """A database's URL as people may see it: without its password."""
    return url.render_as_string(hide_password=True)


def check_writable(folder: Path, need_mib: int, error: type[FlagReleaseError]) -> None:
    """Raise `error` unless `folder` can be created and written and has `need_mib` MiB free."""
    import shutil
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as cause:
        raise error(
            f"cannot write in {folder}: {os.strerror(cause.errno or 0)}",
            remedy="give another folder (FLAGRELEASE_HOME, FLAGRELEASE_OUTPUT) or make this one writable",
        ) from cause
    if free < need_mib * 2**20:
        raise error(
            f"{folder} has {free / 2**20:.0f} MiB free, {need_mib} MiB are needed",
            remedy="free space or give a folder on another disk (FLAGRELEASE_HOME, FLAGRELEASE_OUTPUT)",
        )
