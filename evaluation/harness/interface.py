"""A harness asks a served model a benchmark's questions and returns items; its own words stay inside its adapter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from evaluation.catalogue import Prepared
from flagrelease.records import BenchmarkRun, Item

Progress = Callable[[str, int, int], None]
"""Told (benchmark, answered, of) before the first request and after every answer, in requests.

Answers kept from an earlier run count as answered; an item of a log-likelihood benchmark takes several requests."""


class Endpoint(NamedTuple):
    """A served model."""

    base_url: str
    served_name: str
    concurrency: int
    """Requests in flight, at most; how many there are is found (`evaluation.concurrency`)."""
    failure: Callable[[], str | None]
    """Why the server is gone; none while it runs."""


class Question(NamedTuple):
    """A question of a benchmark, before it is asked."""

    item: str
    """Hash of its content: the item's name."""
    stratum: str
    """Its subject, or the part of the benchmark that it belongs to; empty where there is only one."""


class Selection(NamedTuple):
    """What of a benchmark is asked."""

    repeats: Sequence[int] = (0,)
    """Numbers of the repeats; each has its own seed where answers are sampled."""
    items: Collection[str] | None = None
    """Hashes of the questions; none: all of them."""


class Measured(NamedTuple):
    """How a benchmark was asked, and what was answered. `run.repeats` is the number of repeats in `items`."""

    run: BenchmarkRun
    items: list[Item]


class Harness(Protocol):
    """One evaluation harness. Adding one is a new file here and a line in `evaluation.run`."""

    name: str

    def version(self) -> str:
        """Version of the installed harness; raises PreflightError saying how to install it."""
        ...

    def questions(self, prepared: Prepared) -> list[Question]:
        """The benchmark's questions, without asking anything."""
        ...

    def measure(
        self, prepared: Prepared, endpoint: Endpoint, journal: Path, progress: Progress, selection: Selection
    ) -> Measured:
        """Ask every selected question that `journal` (a file of answers so far) does not have.

        Raises ServerError where the server died, HarnessError for everything else; answers so far are kept.
        """
        ...
