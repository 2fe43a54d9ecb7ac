"""Bringing a store to this version's schema, with a copy of an SQLite file as it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from flagrelease.errors import StoreError
from flagrelease.store.database import connect, migrate, revisions, shown, translate_errors


class Upgrade(NamedTuple):
    """What `upgrade` did."""

    database: str
    """Its URL, without the password."""
    before: str | None
    """Schema that it had; none: it was new."""
    after: str
    copy: Path | None
    """The SQLite file as it was, where something was changed."""


def upgrade(url: str) -> Upgrade:
    """Bring the database at `url` to this version's schema, or make a new one. Raises StoreError and its kinds."""
    engine = connect(url)
    kept: list[Path] = []

    def keep(revision: str) -> None:
        path = engine.url.database
        if engine.dialect.name == "sqlite" and path and path != ":memory:":
            kept.append(_copy(Path(path), revision))

    try:
        with translate_errors(engine):
            before = migrate(engine, keep)
        return Upgrade(shown(engine.url), before, revisions()[-1], kept[0] if kept else None)
    finally:
        engine.dispose()


def _copy(path: Path, revision: str) -> Path:
    """Copy an SQLite database beside itself; one that is there already is another time's, and stays."""
    names = (path.with_name(f"{path.name}.{revision}{suffix}") for suffix in ("", *(f".{n}" for n in range(1, 1000))))
    target = next(name for name in names if not name.exists())
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        # Readers are let in while the migration holds the writer's lock.
        source, copy = sqlite3.connect(path), sqlite3.connect(partial)
        try:
            source.backup(copy)
        finally:
            source.close()
            copy.close()
        partial.rename(target)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"cannot keep a copy of {path} as {target}: {error}",
            remedy="nothing was changed; free space, or make the folder writable",
        ) from error
    return target
