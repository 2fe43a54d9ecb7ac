"""What would decide an undecided cell, and which repeats are asked for next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evaluation import statistics
from evaluation.accuracy import discordance
from evaluation.floors import discordance_within
from evaluation.planning import required_repeats, variance_between_items
from evaluation.sides import Pair
from flagrelease.policy import Policy
from flagrelease.records import BenchmarkRun, NoiseFloor
from flagrelease.verdicts import BenchmarkVerdict, GateResult, Need, Verdict

MOST_REPEATS = 64
"""Above this, repeats are no practical answer; more items are."""


class Noise(NamedTuple):
    """How the differences of one benchmark split into what repeats remove and what they do not. Squares of shares."""

    between: float
    """Variance over the items of the true differences."""
    within: float
    """ψ_AA: mean square of the difference between two repeats of one system."""
    baseline_repeats: int

    def variance(self, repeats: int) -> float:
        """Variance of a difference where the candidate answers so often (see `planning.required_repeats`)."""
        return self.between + self.within / 2 * (1 / repeats + 1 / self.baseline_repeats)


def noise(pair: Pair, found: BenchmarkVerdict, floor: NoiseFloor | None) -> Noise:
    """The split for one benchmark, ψ_AA from repeats where there are some, else from the baseline's A/A run.

    Where neither is known all of it is taken for noise within the items, which repeats remove: the first added repeat
    tells. A candidate that repeats its answers (greedy, one request at a time) has no such noise that repeats remove.
    """
    before = pair.baseline.run.repeats
    names = pair.baseline.names
    repeated = [
        discordance_within(side.scores(names)) for side in (pair.candidate, pair.baseline) if side.run.repeats > 1
    ]
    variance = found.n * found.standard_error**2
    if repeated:
        within = sum(repeated) / len(repeated)
    elif _repeats_itself(pair.candidate.run):
        within = 0.0
    elif floor is not None:
        within = floor.discordance
    elif found.lost == found.won == 0:
        # The width is what few items leave unseen, and only more items narrow it.
        within = 0.0
    else:
        within = variance / (0.5 * (1 / found.repeats + 1 / before))
    return Noise(variance_between_items(variance, within, found.repeats, before), within, before)


def _repeats_itself(run: BenchmarkRun) -> bool:
    """Whether the same question surely gets the same answer again. Log-likelihoods have no settings of generation."""
    temperature = float(run.generation.get("temperature", 1 if run.generation else 0))
    return temperature == 0 and run.concurrency == 1


def needs(rows: Sequence[BenchmarkVerdict], splits: Mapping[str, Noise], policy: Policy) -> list[Need]:
    """What would decide the undecided gated benchmarks, and the pooled mean, for an equal system.

    The chance of clearing one is the policy's power. For the pooled mean the benchmark with the largest standard error
    is repeated, again and again, until Σ SE²/m² is small enough.
    """
    gated = {row.benchmark: row for row in rows if row.role == "gated" and row.benchmark in splits}
    undecided = [name for name, row in gated.items() if row.verdict is Verdict.INCONCLUSIVE]
    wanted: dict[str, int | None] = {name: _alone(gated[name], splits[name], policy) for name in undecided}
    repeats = {name: max(row.repeats, wanted.get(name) or 0) for name, row in gated.items()}
    # Compared with √Σ SE², which is m times the pooled standard error.
    quantile = statistics.power_quantile(policy.alpha, policy.power)
    limit = policy.pooled_margin_points / 100 / quantile * len(gated)
    excess = math.sqrt(sum(row.standard_error**2 for row in gated.values())) / limit if gated else 0.0

    def square(name: str, count: int) -> float:
        return splits[name].variance(count) / gated[name].n

    def unresolved(counts: Mapping[str, int]) -> bool:
        return math.sqrt(sum(square(name, count) for name, count in counts.items())) > limit

    varying = [name for name in gated if splits[name].within > 0]
    if unresolved(repeats | {name: max(repeats[name], MOST_REPEATS) for name in varying}):
        wanted = dict.fromkeys(gated)
    else:
        while unresolved(repeats):
            left = [name for name in varying if repeats[name] < MOST_REPEATS]
            worst = max(left, key=lambda name: square(name, repeats[name]))
            repeats[worst] += 1
            wanted[worst] = repeats[worst]
    # Where repeats decide the pooled mean, they decide the cell: what they cannot do for one benchmark does not matter.
    wanted = {name: count for name, count in wanted.items() if count is not None} or wanted
    return [
        Need(
            benchmark=name,
            repeats=count,
            items=_items(gated[name], excess, policy),
            varies=splits[name].within > 0,
        )
        for name, count in sorted(wanted.items(), key=lambda pair: gated[pair[0]].resolution)
    ]


def _items(row: BenchmarkVerdict, pooled_excess: float, policy: Policy) -> int:
    """Items that clear an equal system on the benchmark, and as part of the pooled mean."""
    psi = min(1.0, discordance(row))
    alone = statistics.required_items(psi, row.margin_points / 100, policy.alpha, policy.power)
    return max(alone, math.ceil(row.n * pooled_excess**2))


def _alone(row: BenchmarkVerdict, split: Noise, policy: Policy) -> int | None:
    count = required_repeats(
        split.between,
        split.within,
        row.n,
        margin=row.margin_points / 100,
        alpha=policy.alpha,
        power=policy.power,
        baseline_repeats=split.baseline_repeats,
    )
    if count is not None and count <= row.repeats:
        # As many would clear an equal system, so what was observed is the obstacle: one more look at it.
        return row.repeats + 1 if split.within > 0 else None
    return count if count is None or count <= MOST_REPEATS else None


def next_repeats(
    result: GateResult, planned: Mapping[str, int], policy: Policy, *, seconds: Mapping[str, float], left_s: float
) -> dict[str, int]:
    """Repeats in all of each benchmark that is to be asked again; empty where nothing is to be done.

    A benchmark that is REGRESSED on its planned repeats is asked as often once more, whatever the budget: the
    confirmation. One that is undecided gets what it needs, least resolved first, as far as `left_s` goes; `seconds` is
    what one repeat of each benchmark took. Where no number of repeats clears an equal system with the policy's power
    (the baseline was asked too seldom), as many as are allowed of each benchmark that cannot resolve its margin still
    make a decision likelier; all at once, as each further judgement is a further chance to be wrong.
    """
    rules = policy.escalation
    if rules is None or result.rule not in ("benchmark", "undecided"):
        return {}
    rows = {row.benchmark: row for row in result.benchmarks}
    if result.rule == "benchmark":
        lost = [b.benchmark for b in result.benchmarks if b.role == "gated" and b.verdict is Verdict.REGRESSED]
        return {name: 2 * planned[name] for name in lost if rows[name].repeats <= planned[name]}
    chosen = {}
    for need in result.needs:
        row = rows[need.benchmark]
        likelier = rules.max_repeats if need.varies and row.resolution < 1 else row.repeats
        wanted = min(need.repeats or likelier, rules.max_repeats)
        cost = (wanted - row.repeats) * seconds[need.benchmark]
        if wanted > row.repeats and cost <= left_s:
            chosen[need.benchmark] = wanted
            left_s -= cost
    return chosen
