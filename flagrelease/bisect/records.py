"""What a bisect measures and what it finds, as types that can be written as JSON."""

from __future__ import annotations

from enum import StrEnum

from pydantic import ConfigDict, Field

from flagrelease.records import Record
from flagrelease.verdicts import CanaryResult


class Outcome(StrEnum):
    """What one server start showed of the operators that it ran with."""

    GOOD = "good"
    BAD = "bad"
    CRASHED = "crashed"


class Purpose(StrEnum):
    """Why a server was started."""

    ALL = "with every operator"
    FLOOR = "without any operator (A/A)"
    HALVING = "halving"
    CHECK = "without the culprits so far"
    NEEDED = "with one of the culprits again"
    ALONE = "with one culprit only"
    PARTNER = "with a culprit and some others"


class Status(StrEnum):
    """How a bisect ended."""

    CULPRITS = "culprits"
    NO_CULPRIT = "no culprit"
    NOT_OPERATORS = "not the operators"


class JudgedBy(StrEnum):
    """What tells a good server from a bad one."""

    CANARY = "canary"
    ITEMS = "flipped items"


class Judging(Record):
    """What servers are judged by."""

    by: JudgedBy = JudgedBy.CANARY
    asked: int = Field(default=0, description="questions that the baseline answered rightly and the release wrongly")
    allowed: float = Field(default=0, description="how many of them may be wrong; not a whole number")


class Measured(Record):
    """What one server start gave."""

    # A model without finite log-probabilities is infinitely far away.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    statistic: float | None = Field(
        ge=0,
        description="`judge.exceedance` of its canary, or wrong answers by those that are allowed; none: it crashed",
    )
    seconds: float = Field(ge=0, description="from the start of the server to its end")
    error: str | None = Field(default=None, description="of a server that did not start, or died")
    canary: CanaryResult | None = Field(default=None, description="what the statistic was made from")
    wrong: dict[str, list[str]] | None = Field(
        default=None, description="where items judge: those answered wrongly, by benchmark"
    )


class Step(Record):
    """One server start with all that it says: the evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    number: int = Field(ge=1)
    purpose: Purpose
    removed: list[str] = Field(description="operators that did not run")
    outcome: Outcome
    statistic: float | None
    threshold: float = Field(description="above it: bad")
    seconds: float
    error: str | None


class Culprit(Record):
    """An operator whose removal is needed."""

    operator: str
    alone: Outcome = Field(description="of a server in which it is the only operator that is not the vendor's")
    partners: list[str] = Field(description="where `alone` is good: those that it is bad, or crashes, together with")
    statistic: float | None = Field(description="of it alone, or with its partners; none: crashed")
    error: str | None = Field(description="of the crash")


class BisectResult(Record):
    """The smallest set of operators found whose removal brings the candidate back, with the evidence for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    status: Status
    reason: str
    judging: Judging
    operators: list[str] = Field(description="those that were searched, in the order of the search")
    culprits: list[Culprit]
    steps: list[Step]
    floors: list[float] = Field(description="statistic of each A/A run; empty where none was needed")
    threshold: float
    alpha: float = Field(description="chance of a false alarm at one step")
    contradictions: list[str] = Field(description="steps that got worse with fewer operators, for people")

    @property
    def remove(self) -> list[str]:
        """Operators to put on the deny-list."""
        return [culprit.operator for culprit in self.culprits]

    @property
    def seconds(self) -> float:
        """What all server starts took together."""
        return sum(step.seconds for step in self.steps)
