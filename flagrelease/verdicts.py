"""What the gate finds, and why, as types: of a release, of each benchmark, of canary, speed and tool calls."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from flagrelease.records import CanaryStatistics, OperatorEvidence, Record


class Verdict(StrEnum):
    """What the gate says of a benchmark or a cell."""

    CONSISTENT = "CONSISTENT"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


class CanaryResult(Record):
    """Tier 0: the candidate's next-token distributions against the baseline's."""

    found: CanaryStatistics
    bars: CanaryStatistics = Field(description="what was allowed")
    passed: bool
    reasons: list[str]
    worst: list[int] = Field(
        description="prompts that differ most, by number, worst first: where to look for an operator"
    )


class SpeedVerdict(Record):
    """Tier 2: one workload against the baseline. Ratios are candidate / baseline."""

    workload: str
    baseline: float = Field(description="output tokens a second")
    candidate: float
    ratio: float
    lower: float = Field(description="lower bound of the ratio's 90 % interval")
    upper: float
    floor: float
    passed: bool
    warnings: list[str]


class FidelityVerdict(Record):
    """Tier 3: tool calls against the baseline. Values are shares in [0, 1]."""

    benchmark: str
    n: int
    schema_validity: tuple[float, float] = Field(
        description="baseline, candidate: calls whose arguments fit the schema"
    )
    trigger_f1: tuple[float, float] = Field(description="baseline, candidate: F1 of calling where a tool is needed")
    allowed_drop: float = Field(description="of the value nearest to failing; `reason` names both")
    passed: bool
    reason: str


class HygieneCheck(Record):
    """One condition without which the comparison says nothing; a failed one makes the verdict INVALID."""

    name: str
    passed: bool
    detail: str


class BenchmarkVerdict(Record):
    """The gate's finding on one benchmark. Scores and differences are shares in [0, 1], margins in points."""

    benchmark: str
    display: str
    role: Literal["gated", "advisory"]
    verdict: Verdict
    n: int = Field(description="items compared")
    repeats: int
    baseline: float
    candidate: float
    difference: float = Field(description="candidate − baseline, mean over items")
    standard_error: float
    lower: float = Field(description="lower bound of the 90 % interval of the difference")
    upper: float
    margin_points: float = Field(description="largest loss accepted, in percentage points")
    p_value: float = Field(description="one-sided, of no loss")
    p_adjusted: float = Field(description="after Holm over the gated benchmarks; p_value for advisory ones")
    lost: int = Field(description="items on which the candidate scores below the baseline")
    won: int
    missing: int = Field(description="items the candidate left unanswered; they count as wrong")
    different: bool = Field(description="a gain beyond the margin: usually a difference in prompt or limits")
    reason: str
    units: int = Field(description="independent units: clusters, or items where none share a passage or picture")
    stopped_of: int | None = Field(default=None, description="items of the benchmark, where it was stopped early")
    resolution: float = Field(description="n / n*: below 1 a run of this size cannot clear an equal system")
    flips: int = Field(default=0, description="items whose first answer scores otherwise than the baseline's first")
    floor: float | None = Field(default=None, description="share of items that the baseline changes against itself")
    excess_p: float | None = Field(default=None, description="one-sided p of no more changed items than that")


class PooledVerdict(Record):
    """Mean difference over the gated benchmarks."""

    difference: float
    standard_error: float
    lower: float = Field(description="one-sided 95 % bound")
    margin_points: float
    non_inferior: bool


class Need(Record):
    """What would decide a benchmark that is undecided."""

    benchmark: str
    repeats: int | None = Field(description="of the candidate, in all; none: no number of repeats would")
    items: int = Field(description="items that would, asked once")
    varies: bool = Field(default=True, description="whether answers vary from repeat to repeat")


class GateResult(Record):
    """The verdict on a cell with its whole derivation."""

    verdict: Verdict
    rule: str = Field(description="which rule fired: hygiene, canary, benchmark, pooled, undecided, unpaired, …")
    baseline_id: str
    paired: bool = Field(default=True, description="false: the baseline is published scores without items")
    overrides: list[str] = Field(default_factory=list, description="thresholds of this cell's own, with their reasons")
    canary: CanaryResult | None = None
    speed: list[SpeedVerdict] = Field(default_factory=list)
    fidelity: list[FidelityVerdict] = Field(default_factory=list)
    needs: list[Need] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    operators: OperatorEvidence | None = Field(
        default=None, description="of FlagGems, as the candidate's server listed them; none: its stack has none to run"
    )
    hygiene: list[HygieneCheck]
    benchmarks: list[BenchmarkVerdict]
    pooled: PooledVerdict | None
    reasons: list[str]
