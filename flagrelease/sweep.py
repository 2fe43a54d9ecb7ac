"""A sweep over the matrix as types: what the matrix asks for, and what became of each cell."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import Field

from flagrelease.entry import Entry
from flagrelease.operators.known_issues import KnownIssue, recognised
from flagrelease.records import Record, Stack
from flagrelease.schedules import Schedule


class Sweep(Entry):
    """A sweep of the matrix with a name: which cells, how much time, and when it starts by itself."""

    chips: list[str] = Field(default_factory=list, description="of these chips only; names or patterns such as meta*")
    models: list[str] = Field(default_factory=list, description="of these models only; names or patterns")
    suites: list[str] = Field(default_factory=list, description="of models with these suites only")
    tags: list[str] = Field(default_factory=list, description="only cells with one of these tags")
    failed: bool = Field(default=False, description="only cells whose newest release failed or was interrupted")
    hours: float | None = Field(default=None, gt=0, description="budget: hours that each slot of a chip may be used")
    gpu_hours: float | None = Field(default=None, gt=0, description="budget: hours of devices, for each chip")
    publish: bool = Field(default=True, description="whether what the gate lets out is published")
    schedule: Schedule | None = None


State = Literal["unchanged", "waiting", "running", "released", "failed", "blocked", "left"]
"""Of a cell in a sweep. `blocked`: it cannot be released as the matrix is; `left`: not begun, out of budget."""
NAMED = 12
"""Cells of one cause that are named; the others are counted."""
ENDED = frozenset({"unchanged", "released", "failed", "blocked", "left"})


class Outcome(Record):
    """What became of a cell in a sweep, so far."""

    cell: str
    model: str
    chip: str
    stack: Stack | None = Field(default=None, description="none: noted by an older FlagRelease")
    state: State
    release: int | None = None
    verdict: str | None = None
    stage: str | None = Field(default=None, description="in which it failed")
    cause: str | None = Field(default=None, description="why it failed, is blocked, or was left")
    remedy: str | None = None


class SweepView(Record):
    """A sweep as the store has it."""

    id: int
    key: str = Field(description="id of its flow run in Prefect")
    state: Literal["running", "completed", "failed", "interrupted"]
    asked: dict[str, Any] = Field(description="its parameters")
    started_at: datetime
    finished_at: datetime | None
    outcomes: list[Outcome]

    @property
    def summary(self) -> str:
        """`12 cells: 8 released, 2 unchanged, 2 failed`."""
        return summary(self.outcomes)


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many cells there are of each state."""
    counts = Counter(outcome.state for outcome in outcomes)
    order: Iterable[State] = ("released", "unchanged", "running", "waiting", "failed", "blocked", "left")
    said = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    return f"{len(outcomes)} cell{'s' * (len(outcomes) != 1)}{f': {said}' if said else ''}"


class Cause(NamedTuple):
    """One cause, and the cells that it kept from being released."""

    state: State
    text: str
    """As the first of the cells has it."""
    remedy: str | None
    cells: list[str]


def causes(outcomes: Iterable[Outcome], known: Sequence[KnownIssue] = ()) -> list[Cause]:
    """Why cells were not released, the cause of the most cells first.

    The same cause on several cells is one: numbers, paths, hashes, and the names of cell, model and chip may differ.
    What an issue of `known` recognises is one cause, whatever else the messages say.
    """
    groups: dict[tuple[State, str | None, str], list[Outcome]] = defaultdict(list)
    issues: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.cause is None:
            continue
        if issue := known_cause(outcome, known):
            issues[issue.id].append(outcome)
        else:
            groups[outcome.state, outcome.stage, _likeness(outcome)].append(outcome)
    found = [
        Cause(state, f"{stage}: {group[0].cause}" if stage else str(group[0].cause), group[0].remedy, _cells(group))
        for (state, stage, _), group in groups.items()
    ]
    for issue in known:
        if issue.id in issues:
            text = f"known issue {issue.id}: {issue.symptom.rstrip('.')}"
            found.append(Cause("failed", text, issue.next_step, _cells(issues[issue.id])))
    return sorted(found, key=lambda cause: (cause.state != "failed", -len(cause.cells), cause.cells))


def known_cause(outcome: Outcome, known: Iterable[KnownIssue]) -> KnownIssue | None:
    """The known issue of FlagGems that a cell failed of."""
    if outcome.state != "failed" or outcome.stack is Stack.NATIVE:
        return None
    return recognised(known, outcome.chip, str(outcome.cause))


def _cells(outcomes: Iterable[Outcome]) -> list[str]:
    return [outcome.cell for outcome in outcomes]


def _likeness(outcome: Outcome) -> str:
    """The cause without what differs from cell to cell."""
    text = str(outcome.cause)
    for name in (outcome.cell, outcome.model, outcome.chip):
        text = re.sub(rf"\b{re.escape(name)}\b", "…", text, flags=re.IGNORECASE)
    text = re.sub(r"(?:\w+:/)?/[^\s:,;)]+", "…", text)
    text = re.sub(r"\b[0-9a-f]{8,}\b", "…", text)
    return re.sub(r"\d+(?:\.\d+)?", "…", text)


def line_of(cause: Cause) -> str:
    """`2 cells failed: evaluate: the server died (a-x, b-x)`."""
    number, more = len(cause.cells), len(cause.cells) - NAMED
    named = ", ".join(cause.cells[:NAMED]) + (f" and {more} more" if more > 0 else "")
    text = " ".join(cause.text.split())
    return f"{number} cell{'s' * (number != 1)} {cause.state}: {text} ({named})"
