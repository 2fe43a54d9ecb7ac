"""A harness asks a served model a benchmark's questions and returns items; its own words stay inside its adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from evaluation.catalogue import Prepared
from flagrelease.records import BenchmarkRun, Item

Progress = Callable[[str, int, int], None]
"""Told (benchmark, answered, of) after every answer; kept answers of an earlier run count as answered."""


class Endpoint(NamedTuple):
    """A served model."""

    base_url: str
    served_name: str
    concurrency: int
    failure: Callable[[], str | None]
    """Why the server is gone; none while it runs."""


class Measured(NamedTuple):
    """How a benchmark was asked, and what was answered."""

    run: BenchmarkRun
    items: list[Item]


class Harness(Protocol):
    """One evaluation harness. Adding one is a new file here and a line in `evaluation.run`."""

    name: str

    def version(self) -> str:
        """Version of the installed harness."""
        ...

    def measure(self, prepared: Prepared, endpoint: Endpoint, journal: Path, progress: Progress) -> Measured:
        """Ask every question that `journal` (a file of answers so far) does not have.

        Raises ServerError where the server died, HarnessError for everything else; answers so far are kept.
        """
        ...
