"""A launcher starts a server and hands out a handle; nothing of the server outlives the handle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from runtime.engines.interface import ServerCommand

Log = Callable[[str], None]


class ServerSpec(NamedTuple):
    """What to start, and when it counts as ready."""

    cell: str
    command: ServerCommand
    served_name: str
    host: str
    port: int
    log_path: Path
    ready_timeout_s: float


class Server(Protocol):
    """A server that runs and has answered a completion."""

    base_url: str
    ready_after_s: float
    log_path: Path

    def alive(self) -> bool:
        """Whether the server still runs."""
        ...

    def wait(self) -> None:
        """Return when the server has ended."""
        ...

    def exit_reason(self) -> str:
        """Why it ended, with the last lines of its log."""
        ...

    def read(self, path: str) -> bytes | None:
        """A file that the server wrote, by its path there; none where it wrote none."""
        ...


class Launcher(Protocol):
    """Starts servers in one kind of place."""

    def start(self, spec: ServerSpec, log: Log) -> AbstractContextManager[Server]:
        """Start, wait until a completion is answered, and stop at the end, whatever happens."""
        ...
