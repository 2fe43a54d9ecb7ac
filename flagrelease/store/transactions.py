"""The store's database, opened, and its transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from flagrelease.store.database import open_database, translate_errors


class Transactions:
    """An open database; the classes that are made of this one say what is kept in it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the store at a SQLAlchemy URL; raises StoreError and its kinds."""
        return cls(open_database(url))

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction; committed at the end, rolled back on an exception."""
        with translate_errors(self._engine), Session(self._engine) as session, session.begin():
            yield session
