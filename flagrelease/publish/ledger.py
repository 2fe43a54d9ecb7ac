"""What this host has begun to publish and does not know the end of: one small file for each target, while that is so.

The hub says what is published, and the store says what was; neither tells that a commit is on its way. A commit may
show only seconds after it was sent, so a process that begins anew would send it twice. That is why the file lies on
this host, reaches the disk before the request leaves, and is deleted when the outcome is known. Without it (another
host, a deleted work folder) nothing is lost but that patience: the hub is read first in any case.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flagrelease.errors import OutputError


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A commit whose outcome is not known."""

    manifest: str
    """Hash of the manifest of what was sent."""
    base: str
    """State of the target when the commit was sent."""


class Ledger:
    """The open attempts of this host, in a folder; within `opened` no other process of the host publishes there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def opened(self, publisher: str, target: str) -> Iterator[Entry]:
        """The entry of a target, alone. OutputError: the folder cannot be written."""
        path = self.folder / f"{publisher}--{target.replace('/', '--')}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Entry(path)
        finally:
            os.close(lock)


class Entry:
    """The open attempt of one target, if there is one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Attempt | None:
        """The open attempt; what cannot be read is none."""
        try:
            return Attempt(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def begin(self, attempt: Attempt) -> None:
        """Note that a commit is about to be sent; it is on the disk when this returns."""
        aside = self._path.with_suffix(".new")
        try:
            with aside.open("w") as file:
                json.dump(asdict(attempt), file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._path)
        except OSError as error:
            raise _unwritable(self._path.parent, error) from error

    def end(self) -> None:
        """Note that the outcome is known."""
        self._path.unlink(missing_ok=True)


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot note in {folder} what is being published: {error.strerror}",
        remedy="free space or change the folder's permissions (FLAGRELEASE_HOME), then publish again",
    )
