"""Tier 3, fidelity of tool calls: does the candidate still call tools where it should, with arguments that fit?

The method is that of the K2 Vendor Verifier (Moonshot AI 2025, github.com/MoonshotAI/K2-Vendor-Verifier): schema
validity and the F1 of triggering a tool call, against how far the reference differs from itself (A/A). Its questions
have no known answer, so the reference's decisions stand in for one, and the reference's own repeats agree with each
other with an F1 of 0.76 to 0.84 only. Ours are made so that the right decision is known, and the verdict uses F1
against that: both sides are measured by the same rule, a change has a sign, and a candidate is not blamed for deciding
better than the baseline. Changed decisions that cancel out are seen elsewhere: every question is an item of the
benchmark too, and the gate compares its changed items with the A/A floor.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from evaluation.floors import discordance_within
from flagrelease.policy import FidelityPolicy
from flagrelease.records import Item, NoiseFloor, Record
from flagrelease.verdicts import FidelityVerdict

Answers = Mapping[str, Sequence["Decision"]]
"""Decisions by item: one each repeat that was answered."""


class Decision(Record):
    """What a model did with the tools of one question: `Item.extracted` of the harness tool_calls."""

    expected: str | None
    """Name of the tool that should be called; None: no call."""
    called: list[str]
    """Names of the tools that were called."""
    valid: bool | None
    """Whether all calls name an offered tool and their arguments fit its schema; None: no call."""

    @property
    def right(self) -> bool:
        """Exactly the expected call with arguments that fit, or no call where none is expected."""
        return self.called == ([] if self.expected is None else [self.expected]) and self.valid is not False


class Counts(NamedTuple):
    """Decisions of one side, over all its repeats."""

    needed: int
    """Questions that need a tool."""
    called: int
    """Answers that call one."""
    hits: int
    """Answers that call one where one is needed, whichever it is."""
    valid: int
    """Answers whose calls all fit their schemas."""

    @property
    def trigger_f1(self) -> float:
        """F1 of calling a tool where one is needed: 2 · hits / (called + needed). 1 where none is needed nor called."""
        total = self.called + self.needed
        return 2 * self.hits / total if total else 1.0

    @property
    def schema_validity(self) -> float:
        """Share of the answers with calls that fit their schemas. 1 without calls: none of them is wrong."""
        return self.valid / self.called if self.called else 1.0


class _Value(NamedTuple):
    """One of the two values that are judged."""

    name: str
    baseline: float
    candidate: float
    allowed: float

    @property
    def excess(self) -> float:
        """How far the drop goes beyond what is allowed; negative: not beyond it."""
        return self.baseline - self.candidate - self.allowed

    def __str__(self) -> str:
        return f"{self.name} {self.candidate:.1%} against {self.baseline:.1%} (drop allowed: {100 * self.allowed:.1f})"


def judge(  # noqa: PLR0917 - two sides, and what they are judged by
    benchmark: str,
    candidate_items: Iterable[Item],
    baseline_items: Iterable[Item],
    floor: NoiseFloor | None,
    policy: FidelityPolicy,
    alpha: float,
) -> FidelityVerdict:
    """Compare the tool calls of two evaluations of the same questions; passed: no value drops beyond what is allowed.

    The drop allowed of a value is what two evaluations of the baseline itself exceed with probability `alpha` only, and
    at least `policy.min_drop_points`. If ψ is the share of items that the baseline changes against itself (`floor`, or
    its own repeats where there is no floor; 0 where there is neither), then among n items asked K and K' times the net
    number of changed items has a standard deviation of √(ψ n (1/K + 1/K')/2) (Miller 2024, arXiv 2411.00640); times the
    most that one changed item moves the value, times the normal quantile of 1 − alpha. The range (largest minus least)
    of the baseline's repeats, the plainer choice, is too small where repeats are few and grows with them: with 2 to 5
    repeats at ψ = 0.03 to 0.2 it failed up to 30 % of simulated equal systems, this up to 4 % (alpha = 0.05).
    `FidelityVerdict.allowed_drop` is that of the value nearest to failing; `reason` names both.

    An item of the baseline that the candidate left unanswered counts as no call. Schema validity is judged only where
    both sides call. Where the baseline never calls, F1 cannot drop, so a candidate fails if it calls on more than
    `policy.min_drop_points` percent of the items; where neither calls, it passes, and the reason says that nothing was
    learned. ValueError where the baseline has no items.
    """
    baseline = _answers(baseline_items)
    candidate = {item: decisions for item, decisions in _answers(candidate_items).items() if item in baseline}
    if not baseline:
        msg = f"the baseline has no items of {benchmark}"
        raise ValueError(msg)
    n, needed = len(baseline), sum(decisions[0].expected is not None for decisions in baseline.values())
    repeats, ours = (max(map(len, answers.values()), default=1) for answers in (baseline, candidate))
    theirs, own = _counted(baseline, needed * repeats), _counted(candidate, needed * ours)
    least = policy.min_drop_points / 100
    changed = math.sqrt(_discordance(baseline, floor) * n * (1 / repeats + 1 / ours) / 2)
    noise = NormalDist().inv_cdf(1 - alpha) * changed * repeats
    # A call that is no longer made where it is needed moves F1 most: by (2 − F1) / (called + needed).
    per_item = (2 - theirs.trigger_f1) / max(theirs.called + theirs.needed, 1)
    values = [_Value("trigger F1", theirs.trigger_f1, own.trigger_f1, max(least, noise * per_item))]
    if theirs.called and own.called:
        allowed = max(least, noise / theirs.called)
        values.append(_Value("schema validity", theirs.schema_validity, own.schema_validity, allowed))
    nearest = max(values, key=lambda value: value.excess)
    # Rounded, so that a drop of exactly what is allowed is not a little more.
    passed = round(nearest.excess, 9) <= 0
    reason = "; ".join(map(str, values)) + _agreement(candidate, baseline)
    if not theirs.called:
        passed = own.called / (n * ours) <= least
        reason = f"the baseline called no tool in {n} questions, the candidate in {own.called / ours:g}"
        if not own.called:
            reason = f"neither side called a tool in {n} questions: nothing is known of tool calls"
    return FidelityVerdict(
        benchmark=benchmark,
        n=n,
        schema_validity=(theirs.schema_validity, own.schema_validity),
        trigger_f1=(theirs.trigger_f1, own.trigger_f1),
        allowed_drop=nearest.allowed,
        passed=passed,
        reason=reason,
    )


def _answers(items: Iterable[Item]) -> dict[str, list[Decision]]:
    answers = defaultdict(list)
    for item in items:
        answers[item.item].append(Decision.model_validate_json(item.extracted))
    return dict(answers)


def _counted(answers: Answers, needed: int) -> Counts:
    calls = [decision for decisions in answers.values() for decision in decisions if decision.called]
    hits = sum(decision.expected is not None for decision in calls)
    return Counts(needed, len(calls), hits, sum(decision.valid is True for decision in calls))


def _discordance(baseline: Answers, floor: NoiseFloor | None) -> float:
    """ψ: the share of items whose score changes between two evaluations of the baseline."""
    if floor:
        return floor.discordance
    repeats = max(map(len, baseline.values()))
    scores = [[float(one.right) for one in decisions] for decisions in baseline.values() if len(decisions) == repeats]
    return discordance_within(scores) if repeats > 1 else 0.0


def _agreement(candidate: Answers, baseline: Answers) -> str:
    """F1 of the candidate's decisions against the baseline's, as the K2 Vendor Verifier counts it, for people."""
    shares = [(_share(candidate.get(item, [])), _share(decisions)) for item, decisions in baseline.items()]
    total = sum(map(sum, shares))
    f1 = 2 * sum(ours * theirs for ours, theirs in shares) / total if total else 1.0
    return f"; F1 of calling where the baseline does: {f1:.2f}"


def _share(decisions: Sequence[Decision]) -> float:
    """Share of the repeats of one item that call a tool."""
    return sum(bool(one.called) for one in decisions) / max(len(decisions), 1)
