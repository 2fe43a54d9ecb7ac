"""The gate's policy: every threshold with its name, its unit and its reason (docs/gate.md explains them)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from flagrelease.entry import Entry, Key

Reason = Annotated[str, StringConstraints(min_length=10, strip_whitespace=True)]
Tier = Literal["canary", "speed", "fidelity"]


class CanaryPolicy(Entry):
    """Tier 0: next-token distributions on the baseline's own texts, before any benchmark."""

    prompts: int = Field(ge=8, description="texts")
    tokens: int = Field(ge=8, description="tokens of each text that the baseline wrote")
    positions: int = Field(ge=1, description="tokens of each text that are scored where every one costs a request")
    factor: float = Field(ge=1, description="how many times the baseline's distance from itself is allowed")
    reason: Reason

    @model_validator(mode="after")
    def _positions_are_tokens(self) -> Self:
        if self.positions > self.tokens:
            msg = f"positions ({self.positions}) cannot exceed tokens ({self.tokens})"
            raise ValueError(msg)
        return self


class Workload(Entry):
    """One load on the server."""

    input: int = Field(ge=1, description="tokens of each prompt")
    output: int = Field(ge=1, description="tokens of each answer")
    concurrency: int = Field(ge=1, description="requests in flight")
    requests: int = Field(ge=1, description="requests of one repeat")


class SpeedPolicy(Entry):
    """Tier 2: throughput against the baseline."""

    floor: float = Field(gt=0, le=1, description="smallest accepted ratio of output throughput to the baseline's")
    repeats: int = Field(ge=5, description="timed repeats of each workload, after a warm-up")
    max_variation: float = Field(gt=0, description="coefficient of variation above which repeats are warned about")
    workloads: list[Workload] = Field(min_length=1)
    reason: Reason


class FidelityPolicy(Entry):
    """Tier 3: tool calls against the baseline."""

    min_drop_points: float = Field(ge=0, le=100, description="drop allowed even where the baseline never varies")
    reason: Reason


class EarlyStop(Entry):
    """Stopping a benchmark when it is decided (Haybittle–Peto)."""

    from_items: int = Field(ge=100, description="benchmarks with fewer items are asked whole")
    looks: int = Field(ge=2, le=100, description="how often, evenly spread")
    z: float = Field(ge=2.5, description="standard errors that an interim look takes to decide")
    reason: Reason


class Escalation(Entry):
    """More repeats where a verdict is undecided, and one confirmation of a loss."""

    max_repeats: int = Field(ge=1, description="of an item, in all")
    budget_minutes: float = Field(ge=0, description="time for added repeats of one cell; 0: only the confirmation")
    reason: Reason


class Override(Entry):
    """Thresholds that hold for one suite or one model only, and why."""

    margin_points: float | None = Field(default=None, gt=0, le=100)
    margin_points_small: float | None = Field(default=None, gt=0, le=100)
    pooled_margin_points: float | None = Field(default=None, gt=0, le=100)
    canary: CanaryPolicy | None = None
    speed: SpeedPolicy | None = None
    fidelity: FidelityPolicy | None = None
    early_stop: EarlyStop | None = None
    escalation: Escalation | None = None
    without: list[Tier] = Field(default_factory=list, description="tiers that are left out")
    reason: Reason


class Policy(Entry):
    """Thresholds of the gate. Points are percentage points."""

    alpha: float = Field(gt=0, lt=0.5, description="one-sided error rate, share")
    power: float = Field(gt=0, lt=1, description="chance of clearing an equal system that is planned for")
    margin_points: float = Field(gt=0, le=100, description="per benchmark, from large_n items on, points")
    margin_points_small: float = Field(gt=0, le=100, description="per benchmark, below large_n items, points")
    large_n: int = Field(ge=1, description="items")
    min_items: int = Field(ge=2, description="benchmarks with fewer items are advisory")
    pooled_margin_points: float = Field(gt=0, le=100, description="mean over the gated benchmarks, points")
    max_missing: float = Field(ge=0, le=1, description="largest share of unanswered items; above it: INVALID")
    max_length_shift: float = Field(
        gt=0, le=1, description="largest change of answer length, and of the share of cut answers"
    )
    reasons: dict[str, Reason] = Field(description="why each threshold is what it is")
    canary: CanaryPolicy | None = None
    speed: SpeedPolicy | None = None
    fidelity: FidelityPolicy | None = None
    early_stop: EarlyStop | None = None
    escalation: Escalation | None = None
    suites: dict[Key, Override] = Field(default_factory=dict)
    models: dict[Key, Override] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _every_threshold_has_its_reason(self) -> Self:
        thresholds = {name for name in type(self).model_fields if _number(getattr(self, name))}
        if missing := sorted(thresholds - self.reasons.keys()):
            msg = f"a reason is missing for {', '.join(missing)}: say under `reasons` why it is what it is"
            raise ValueError(msg)
        if stray := sorted(self.reasons.keys() - thresholds):
            msg = f"reasons are given for what is not set here: {', '.join(stray)}"
            raise ValueError(msg)
        return self

    def thresholds(self) -> dict[str, Any]:
        """What decides, as JSON: everything but the reasons."""
        tiers = ("canary", "speed", "fidelity", "early_stop", "escalation")
        return self.model_dump(mode="json", exclude={"reasons": True} | {tier: {"reason"} for tier in tiers})

    def of_cell(self, suite: str, model: str) -> tuple[Policy, list[str]]:
        """The policy that holds for a cell (the suite's overrides, then the model's), and what they change in words."""
        policy, notes = self, []
        for kind, name, known in (("suite", suite, self.suites), ("model", model, self.models)):
            if name in known:
                policy, said = _overridden(policy, f"{kind} {name}", known[name])
                notes.append(said)
        return policy.model_copy(update={"suites": {}, "models": {}}), notes


def _overridden(policy: Policy, whose: str, override: Override) -> tuple[Policy, str]:
    """`policy` with one override, and what it changes in words."""
    changed: Mapping[str, object] = {
        name: getattr(override, name)
        for name in override.model_fields_set - {"reason", "without"}
        if getattr(override, name) is not None
    }
    words = [f"{name} {getattr(policy, name):g} → {value:g}" for name, value in changed.items() if _number(value)]
    words += [f"{name} of its own" for name, value in changed.items() if not _number(value)]
    words += [f"without {tier}" for tier in override.without]
    dropped: dict[str, object] = dict.fromkeys(override.without)
    return policy.model_copy(update={**changed, **dropped}), f"{whose}: {', '.join(words)} ({override.reason})"


def _number(value: object) -> bool:
    return isinstance(value, int | float)
