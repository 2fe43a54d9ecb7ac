"""Locks between processes of one host."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flagrelease.errors import PreflightError


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Within the block no other process of this host does `what`; the lock on the file at `path` ends with the process.

    Raises PreflightError at once where another one does it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PreflightError(
                f"another process on this host is {what}",
                remedy="wait for it to end; then the same command goes on from what it finished",
            ) from error
        yield
