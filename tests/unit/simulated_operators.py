"""A stand-in for served stacks whose faults are known: what a bisect is to find, without a server."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flagrelease.bisect.journal import Journal
from flagrelease.bisect.records import BisectResult, Measured
from flagrelease.bisect.search import bisect


class CutError(Exception):
    """The bisect was killed."""


def names(count: int) -> list[str]:
    """Operators of several groups, as `group_of` tells."""
    return [f"op{number}_{number % 7}" for number in range(count)]


def group_of(name: str) -> str:
    return name.partition("_")[2]


@dataclass
class SimulatedStack:
    """Statistic of a server by the operators that run: 0.5 without a fault, with noise, and what each fault adds."""

    operators: Sequence[str]
    bad: Collection[str] = ()
    """Each adds `size`."""
    crashing: Collection[str] = ()
    needed: str | None = None
    """Nothing but the server without any operator starts without it."""
    together: Iterable[Collection[str]] = ()
    """Each set adds `size` where all of it runs."""
    noise: float = 0.03
    """Standard deviation from run to run."""
    floor: float = 0.5
    size: float = 5.0
    seed: int = 0
    cut_after: int | None = None
    starts: int = 0
    said: list[str] = field(default_factory=list)

    def measure(self, removed: frozenset[str], run: int) -> Measured:
        if self.cut_after is not None and self.starts >= self.cut_after:
            raise CutError
        self.starts += 1
        running = set(self.operators) - removed
        if running & set(self.crashing) or (running and self.needed in removed) or "engine" in self.crashing:
            return Measured(statistic=None, seconds=1, error="ended by signal SIGSEGV")
        faults = len(running & set(self.bad)) + sum(set(some) <= running for some in self.together)
        # The same set and run give the same number, in whatever order they are measured.
        draw = random.Random(f"{self.seed} {run} {sorted(removed)}")
        value = self.floor + draw.gauss(0, self.noise) + self.size * faults
        return Measured(statistic=max(0.0, value), seconds=1)

    def bisect(self, path: Path) -> BisectResult:
        with Journal(path, {"operators": list(self.operators)}) as journal:
            return bisect(self.operators, self.measure, journal, self.said.append, group_of)
