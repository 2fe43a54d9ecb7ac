"""Whether a store can be used: its schema, its integrity, what may be done with it. Nothing is written."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, text

from flagrelease.errors import FlagReleaseError, StoreError, StoreVersionError
from flagrelease.store.database import connect_reading, require_known, revision_of, revisions, shown, translate_errors
from flagrelease.store.transfer import no_database, row_counts, tables_of

SHOWN = 5
"""Faults of integrity that are named."""


class Check(NamedTuple):
    """What a look at a store found."""

    database: str
    """Its URL, without the password."""
    server: str
    """Kind and version of the database."""
    revision: str
    known: str
    """The schema of this version of FlagRelease."""
    rows: dict[str, int]
    """By table."""
    problem: FlagReleaseError | None
    """Why it cannot be used as it is; none: it can."""


def check(url: str) -> Check:
    """Look at the store at `url`. Raises StoreError where it is not there or cannot be read at all."""
    engine = connect_reading(url)
    if engine is None:
        raise no_database(url)
    try:
        with translate_errors(engine), engine.connect() as connection:
            revision = revision_of(connection)
            if revision is None:
                raise no_database(url)
            fault = (_sqlite_fault if engine.dialect.name == "sqlite" else _postgresql_fault)(connection)
            rows = {} if fault else row_counts(connection, tables_of(connection))
            problem = fault or _schema_problem(connection)
            return Check(shown(engine.url), _server(connection), revision, revisions()[-1], rows, problem)
    finally:
        engine.dispose()


def _server(connection: Connection) -> str:
    if connection.dialect.name == "sqlite":
        return f"SQLite {connection.scalar(text('SELECT sqlite_version()'))}"
    return f"PostgreSQL {connection.scalar(text('SHOW server_version'))}"


def _schema_problem(connection: Connection) -> StoreVersionError | None:
    known = revisions()
    try:
        found = require_known(connection, known)
    except StoreVersionError as error:
        return error
    if found == known[-1]:
        return None
    return StoreVersionError(
        f"the database {shown(connection.engine.url)} has an older schema ({found}, now {known[-1]})",
        remedy="bring it up to date: flagrelease db upgrade",
    )


def _sqlite_fault(connection: Connection) -> StoreError | None:
    faults = [row[0] for row in connection.execute(text(f"PRAGMA integrity_check({SHOWN})")) if row[0] != "ok"]
    faults += [
        f"row {row} of {table} refers to a row of {parent} that is not there"
        for table, row, parent, _ in connection.execute(text("PRAGMA foreign_key_check")).fetchmany(SHOWN)
    ]
    if not faults:
        return None
    return StoreError(
        f"the database {shown(connection.engine.url)} is damaged: {'; '.join(faults[:SHOWN])}",
        remedy="restore a backup: flagrelease db restore into a new database, or a copy of the file",
    )


def _postgresql_fault(connection: Connection) -> StoreError | None:
    where = shown(connection.engine.url)
    if connection.scalar(text("SELECT pg_is_in_recovery()")):
        return StoreError(
            f"the database {where} is a standby: it can be read but not written",
            remedy="name the primary server in FLAGRELEASE_STORE",
        )
    tables = tables_of(connection)
    rights = "SELECT has_table_privilege(:table, :right)"
    lacking = [
        f"{right} {table.name}"
        for table in tables
        for right in ("SELECT", "INSERT", "UPDATE")
        if not connection.scalar(text(rights), {"table": table.name, "right": right})
    ]
    # A table without a counter gives null.
    counter = "SELECT has_sequence_privilege(pg_get_serial_sequence(:table, 'id'), 'USAGE')"
    lacking += [
        f"USAGE of the counter of {table.name}"
        for table in tables
        if "id" in table.columns and connection.scalar(text(counter), {"table": table.name}) is False
    ]
    if not lacking:
        return None
    user = connection.scalar(text("SELECT current_user"))
    return StoreError(
        f"in the database {where} the user {user} may not: {', '.join(lacking)}",
        remedy=f"as the owner of the tables: GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {user}; "
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {user}",
    )
