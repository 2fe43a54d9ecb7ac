"""The plan of a sweep as types: what would be done per cell and stage and why, how long it takes, what is shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from flagrelease.operators.known_issues import IssueOfCell
from flagrelease.records import Record, Stack, Stage
from flows.plan_changes import in_words

Action = Literal["reuse", "run", "skip"]
Origin = Literal["cell", "model", "chip"]
"""Whose past runs a time is estimated from."""


class Reason(Record):
    """Why a stage runs, or why it is not asked."""

    kind: Literal[
        "first release", "inputs", "failed", "unfinished", "not reached", "code", "upstream", "publication", "canary"
    ]
    text: str
    what: str | None = Field(default=None, description="of inputs: image inputs, engine settings, policy, …")
    key: str | None = Field(default=None, description="of inputs: the innermost key that changed")
    old: Any = None
    new: Any = None
    release: int | None = Field(default=None, description="release that this is told of, or compared with")


class StagePlan(Record):
    """What becomes of one stage of a cell."""

    stage: Stage
    action: Action
    release: int | None = Field(default=None, description="whose result is reused")
    reasons: list[Reason] = Field(default_factory=list, description="most important first; none where it is reused")
    seconds: float | None = Field(default=None, description="estimate of what runs; none: not known")
    seconds_from: Origin | None = None

    @property
    def follows(self) -> bool:
        """Whether it runs only because a stage before it does."""
        return self.action == "run" and all(reason.kind == "upstream" for reason in self.reasons)

    @property
    def text(self) -> str:
        """In words: `reuse (from release 12)`, `run (image inputs changed: flaggems 3.0 → 3.1)`."""
        why = f"from release {self.release}" if self.action == "reuse" else "; ".join(said(self.reasons))
        return f"{self.action} ({why})"


class Blocked(Record):
    """Why a cell cannot be released, and what to do."""

    cause: str
    remedy: str


class CellPlan(Record):
    """What becomes of one cell."""

    cell: str
    model: str
    chip: str
    stack: Stack | None = None
    suite: str
    engine: str
    baseline: str | None
    action: Literal["unchanged", "run", "blocked"]
    blocked: Blocked | None = None
    stages: list[StagePlan] = Field(default_factory=list, description="in their order; none where it is blocked")
    seconds: float = Field(default=0.0, description="estimate of all that runs, as far as it is known")
    timed: bool = Field(default=True, description="whether it is known of all that runs")
    newest: int | None = Field(default=None, description="its newest release")
    image: str | None = Field(default=None, description="what its image is made of, as a hash; none: no container")
    lacks: list[str] = Field(
        default_factory=list, description="what this host lacks to know a version; that of the newest release is taken"
    )
    flag_gems: str | None = Field(default=None, description="its version of FlagGems; none: not known, or not used")
    known_issues: list[IssueOfCell] = Field(default_factory=list, description="of FlagGems, that it may meet")
    leave_out: str | None = Field(
        default=None, description="what to write into matrix.yaml so that the operators of these issues do not run"
    )

    @property
    def runs(self) -> list[StagePlan]:
        """The stages that run."""
        return [stage for stage in self.stages if stage.action == "run"]


class PoolPlan(Record):
    """The work of a chip's hosts."""

    chip: str
    slots: int
    cells: int = Field(description="that run")
    seconds: float = Field(description="of work, as far as it is known")
    untimed: int = Field(description="cells whose time is not known, or not wholly")


class Shared(Record):
    """An image that is made once, or a baseline that is measured once, for several cells that run."""

    id: str
    cells: list[str]
    there: bool = Field(description="whether the store knows of one that was made")


class MatrixPlan(Record):
    """What a sweep would do."""

    cells: list[CellPlan]
    pools: list[PoolPlan] = Field(description="of cells that run, the most work first")
    images: list[Shared] = Field(description="of cells whose stage build runs")
    baselines: list[Shared] = Field(description="of cells that run")
    at_least: float = Field(
        description="seconds that no order can beat: the longest cell with what it waits for, or the busiest chip's "
        "work ÷ its slots; times that are not known count as 0"
    )
    at_least_by: str | None = Field(description="the cell or the chip that this is of")
    notes: list[str] = Field(default_factory=list, description="what the plan could not look at here")

    @property
    def counts(self) -> Counter[str]:
        """How many cells are unchanged, run, or are blocked."""
        return Counter(cell.action for cell in self.cells)


def said(reasons: Sequence[Reason]) -> list[str]:
    """Reasons in words: what went wrong before, then what changed, then the rest; what it follows only by itself."""
    changed = [(reason.what or "", reason.text) for reason in reasons if reason.kind == "inputs"]
    before = [reason.text for reason in reasons if reason.kind in ("failed", "unfinished")]
    rest = [reason.text for reason in reasons if reason.kind not in ("failed", "unfinished", "inputs", "upstream")]
    own = [*before, *([in_words(changed)] if changed else []), *rest]
    return own or [reason.text for reason in reasons]
