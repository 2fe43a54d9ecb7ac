"""Opening the store: engine, migrations, and errors in the user's words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, NoSuchModuleError, OperationalError

from flagrelease.errors import FlagReleaseError, StoreError, StoreLockedError, StoreVersionError

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_TIMEOUT_S = 5.0
MIGRATION_LOCK = 7_217_001


def open_database(url: str) -> Engine:
    """Open (and where it is new or older, bring up to date) the database at `url`.

    Raises StoreError, StoreLockedError or StoreVersionError.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database and parsed.database != ":memory:":
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(parsed, connect_args={"timeout": LOCK_TIMEOUT_S})
            event.listen(engine, "connect", _sqlite_settings)
        else:
            engine = create_engine(parsed, pool_pre_ping=True)
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
    with translate_errors(engine):
        _migrate(engine)
    return engine


def _sqlite_settings(connection: Any, _record: object) -> None:
    # WAL: readers (status, show) are not blocked while a release writes.
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def translate_errors(engine: Engine) -> Iterator[None]:
    """Turn what the driver says into errors with a next step."""
    where = engine.url.render_as_string(hide_password=True)
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
        raise StoreError(
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


def _migrate(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    with engine.connect() as connection:
        current = _revision(connection)
    if current == head:
        return
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise StoreVersionError(
            f"the database {engine.url.render_as_string(hide_password=True)} was written by a newer "
            f"FlagRelease (schema {current}, this one knows up to {head})",
            remedy="upgrade FlagRelease, or set FLAGRELEASE_STORE to another database",
        )
    with engine.begin() as connection:
        # All of it or nothing, by one process at a time. SQLite's driver begins no transaction for DDL by itself.
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        if _revision(connection) == head:
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    """Schema revision of the database; none where it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


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
