"""The whole store as one file (dump_file.py), from either kind of database into either kind."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    DateTime,
    Float,
    Integer,
    MetaData,
    Table,
    Text,
    cast,
    func,
    make_url,
    select,
)
from sqlalchemy.exc import DataError, IntegrityError

from flagrelease.errors import OutputError, StoreError
from flagrelease.store.database import (
    connect,
    connect_reading,
    lock_schema,
    move_schema,
    require_known,
    revisions,
    shown,
    translate_errors,
)
from flagrelease.store.dump_file import FORMAT, FORMAT_VERSION, Contents, read, require, verify, writing
from flagrelease.store.models import Base
from flagrelease.store.times import in_utc

AT_ONCE = 5000
"""Rows in memory at a time."""
Progress = Callable[[int, int], None]
"""Called with rows done and rows in all."""


def tables_of(connection: Connection) -> list[Table]:
    """The store's tables as they are in this database, each after those that it refers to."""
    metadata = MetaData()
    # Others, such as an extension's, may have tables there too.
    metadata.reflect(connection, only=lambda name, _: name in Base.metadata.tables)
    return metadata.sorted_tables


def row_counts(connection: Connection, tables: list[Table]) -> dict[str, int]:
    """Rows of each table."""
    return {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def dump(url: str, file: Path, progress: Progress) -> Contents:
    """Write everything that the database at `url` holds now into `file`, which appears when it is whole.

    Others may write meanwhile; what they write is not in it. Raises StoreError and its kinds, and OutputError.
    """
    if file.exists():
        raise OutputError(
            f"{file} is there already", remedy="name another file, or remove that one: nothing is overwritten"
        )
    engine = connect_reading(url)
    if engine is None:
        raise no_database(url)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with translate_errors(engine), engine.connect() as connection, writing(partial) as write:
            _begin_snapshot(connection)
            contents = _dump(connection, write, progress)
        partial.rename(file)
    except OSError as error:
        raise OutputError(
            f"cannot write {file}: {os.strerror(error.errno or 0)}", remedy="name a file in a folder with room for it"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
        engine.dispose()
    return contents


def no_database(url: str) -> StoreError:
    """The error where there is nothing to read."""
    return StoreError(
        f"there is no FlagRelease database at {shown(make_url(url))}",
        remedy="set FLAGRELEASE_STORE or FLAGRELEASE_HOME to where it is; flagrelease db upgrade makes a new one",
    )


def _begin_snapshot(connection: Connection) -> None:
    """All that is read from now on is of one moment."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")
    else:
        connection.execution_options(isolation_level="REPEATABLE READ")


def _dump(connection: Connection, write: Callable[[Any], None], progress: Progress) -> Contents:
    revision = require_known(connection, revisions())
    if revision is None:
        raise no_database(shown(connection.engine.url))
    tables = tables_of(connection)
    contents = Contents(revision, datetime.now(UTC).isoformat(), row_counts(connection, tables))
    write({"format": FORMAT, "format_version": FORMAT_VERSION, **contents._asdict()})
    total, done = sum(contents.rows.values()), 0
    for table in tables:
        write({"table": table.name, "columns": [column.name for column in table.columns]})
        kinds = [(place, encode) for place, column in enumerate(table.columns) if (encode := _encoder(column))]
        query = select(*map(_selected, table.columns)).order_by(*table.primary_key.columns)
        for rows in connection.execution_options(yield_per=AT_ONCE).execute(query).partitions():
            for row in rows:
                values = list(row)
                for place, encode in kinds:
                    if values[place] is not None:
                        values[place] = encode(values[place])
                write(values)
            done += len(rows)
            progress(done, total)
    return contents


def _selected(column: Column[Any]) -> Any:
    # JSON is kept as the text that it is: numbers, order of keys, and null (which is not NULL) stay what they are.
    return cast(column, Text) if isinstance(column.type, JSON) else column


def _encoder(column: Column[Any]) -> Callable[[Any], Any] | None:
    """How values of a column become JSON; none: as they are."""
    if isinstance(column.type, DateTime):
        return lambda time: in_utc(time).astimezone(UTC).isoformat()
    if isinstance(column.type, Float):
        return lambda number: number if math.isfinite(number) else str(number)
    return None


def _decoder(column: Column[Any], connection: Connection) -> Callable[[Any], Any] | None:
    """How values of a file become what the driver takes; none: as they are."""
    if isinstance(column.type, DateTime):
        bind = column.type.dialect_impl(connection.dialect).bind_processor(connection.dialect)
        return (lambda time: bind(datetime.fromisoformat(time))) if bind else datetime.fromisoformat
    if isinstance(column.type, Float):
        return float
    return None


def restore(url: str, file: Path, progress: Progress) -> Contents:
    """Put what `file` holds into the empty database at `url`, all of it or nothing.

    A dump of an older schema is brought to this version's. Raises StoreError and its kinds.
    """
    contents = verify(file)
    engine = connect(url)
    try:
        with translate_errors(engine), engine.begin() as connection:
            lock_schema(connection)
            _make_room(connection, contents.revision)
            _fill(connection, file, contents, progress)
            move_schema(connection, "head")
            _set_sequences(connection)
    finally:
        engine.dispose()
    return contents


def _make_room(connection: Connection, revision: str) -> None:
    """Give an empty database the tables of a schema; raises StoreError where it is not empty."""
    where = shown(connection.engine.url)
    current = require_known(connection, revisions())
    tables = tables_of(connection) if current else []
    if tables and connection.dialect.name == "postgresql":
        # Nobody writes between the look and the rows.
        connection.exec_driver_sql(f"LOCK TABLE {', '.join(table.name for table in tables)} IN EXCLUSIVE MODE")
    held = {name: rows for name, rows in row_counts(connection, tables).items() if rows}
    if held:
        holds = ", ".join(f"{name} {rows:,}" for name, rows in held.items())
        raise StoreError(
            f"the database {where} is not empty: it has rows of {holds}",
            remedy="name an empty one in FLAGRELEASE_STORE: nothing is merged or overwritten",
        )
    if current != revision:
        if current:
            move_schema(connection, "base", down=True)
        move_schema(connection, revision)


def _fill(connection: Connection, file: Path, contents: Contents, progress: Progress) -> None:
    tables = {table.name: table for table in tables_of(connection)}
    total, done = sum(contents.rows.values()), 0
    lines = read(file)
    for heading in lines:
        name, rows = heading["table"], contents.rows[heading["table"]]
        require(
            name in tables and {*heading["columns"]} == {*tables[name].columns.keys()}, file, "it names other columns"
        )
        table = tables[name]
        columns = [table.columns[name] for name in heading["columns"]]
        while rows:
            some = list(islice(lines, min(rows, AT_ONCE)))
            require(len(some) == min(rows, AT_ONCE), file, "it has fewer rows than it says")
            _insert(connection, table, columns, some)
            rows -= len(some)
            done += len(some)
            progress(done, total)


def _insert(connection: Connection, table: Table, columns: list[Column[Any]], rows: list[list[Any]]) -> None:
    """Insert by the driver's own statement, as for items (store.py)."""
    for place, column in enumerate(columns):
        if decode := _decoder(column, connection):
            for row in rows:
                if row[place] is not None:
                    row[place] = decode(row[place])
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    names, marks = ", ".join(column.name for column in columns), ", ".join([mark] * len(columns))
    try:
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) VALUES ({marks})",  # noqa: S608 - our own names
            [tuple(row) for row in rows],
        )
    except (DataError, IntegrityError) as error:
        cause = str(error.orig).splitlines()[0]
        raise StoreError(
            f"a row of {table.name} has no place in {shown(connection.engine.url)}: {cause}",
            remedy="nothing was changed; restore into the kind of database that the dump is from",
        ) from error


def _set_sequences(connection: Connection) -> None:
    """PostgreSQL numbers rows by counters of their own, which rows that bring their number do not move."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables_of(connection):
        if "id" in table.columns and isinstance(table.columns["id"].type, Integer):
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), "  # noqa: S608 - our own names
                f"coalesce(max(id), 1), max(id) IS NOT NULL) FROM {table.name}"
            )
