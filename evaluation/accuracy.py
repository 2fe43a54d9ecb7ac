"""Tier 1 of the gate: accuracy per benchmark and pooled over the gated ones (docs/gate.md explains the rules)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

# `scipy.stats` is loaded by its first use.
import scipy

from evaluation import statistics
from evaluation.catalogue import Benchmark
from evaluation.floors import excess_p_value
from evaluation.sides import Pair
from flagrelease.policy import Policy
from flagrelease.records import NoiseFloor
from flagrelease.verdicts import BenchmarkVerdict, GateResult, PooledVerdict, Verdict


class Cell(NamedTuple):
    """Verdict, judged benchmarks, pooled mean and reasons of a cell whose comparison is sound."""

    verdict: Verdict
    rule: str
    benchmarks: list[BenchmarkVerdict]
    pooled: PooledVerdict | None
    reasons: list[str]


def margin_points(n: int, policy: Policy, benchmark: Benchmark | None) -> float:
    """Largest accepted loss on a benchmark of n items, in points."""
    if benchmark is not None and benchmark.margin_points is not None:
        return benchmark.margin_points
    return policy.margin_points if n >= policy.large_n else policy.margin_points_small


def discordance(found: BenchmarkVerdict) -> float:
    """Mean square of the differences, from their mean and standard error; never less than what n items leave unseen."""
    return max(1, found.n - 1) * found.standard_error**2 + found.difference**2


def measure(pair: Pair, policy: Policy, benchmark: Benchmark | None, floor: NoiseFloor | None) -> BenchmarkVerdict:
    """The numbers of one benchmark; its verdict is INVALID until it is judged."""
    names = pair.baseline.names
    return from_scores(
        pair.benchmark,
        pair.candidate.scores(names),
        pair.baseline.scores(names),
        policy,
        benchmark,
        clusters=pair.baseline.clusters(names),
        floor=floor,
        missing=len(pair.missing()),
        stopped_of=pair.candidate.run.stopped_of,
    )


def from_scores(
    name: str,
    candidate: statistics.Floats,
    baseline: statistics.Floats,
    policy: Policy,
    benchmark: Benchmark | None = None,
    *,
    clusters: Sequence[Hashable] | None = None,
    floor: NoiseFloor | None = None,
    missing: int = 0,
    stopped_of: int | None = None,
) -> BenchmarkVerdict:
    """As `measure`, from scores in [0, 1] as items × repeats: the same items in the same order, repeats of each side.

    `clusters` names for each item what it shares with others; `missing`: items without an answer, which score 0.
    """
    # Rounded, so that the same graded scores in another order are no difference.
    d = np.round(candidate.mean(axis=1) - baseline.mean(axis=1), 12)
    binary = all(scores.shape[1] == 1 and np.isin(scores, (0, 1)).all() for scores in (candidate, baseline))
    p_value = statistics.loss_p_value(d, binary_single_repeat=binary, clusters=clusters)
    found = statistics.allow_for_unseen(statistics.paired_difference(d, policy.alpha, clusters), policy.alpha)
    flips = int((candidate[:, 0] != baseline[:, 0]).sum())
    rate, excess = _excess(flips, d.size, baseline, floor)
    return _row(
        found,
        policy,
        name,
        benchmark,
        p_value=p_value,
        repeats=candidate.shape[1],
        baseline=float(baseline.mean()),
        candidate=float(candidate.mean()),
        lost=int((d < 0).sum()),
        won=int((d > 0).sum()),
        missing=missing,
        stopped_of=stopped_of,
        floor=rate,
        excess_p=excess,
        flips=flips,
    )


def from_totals(
    found: statistics.Difference, p_value: float, policy: Policy, benchmark: Benchmark, scores: tuple[float, float]
) -> BenchmarkVerdict:
    """A row from (baseline, candidate) scores whose items are not known, with the difference that was worked out."""
    return _row(found, policy, benchmark.key, benchmark, p_value=p_value, baseline=scores[0], candidate=scores[1])


def _row(
    found: statistics.Difference,
    policy: Policy,
    name: str,
    benchmark: Benchmark | None,
    *,
    p_value: float,
    baseline: float,
    candidate: float,
    repeats: int = 1,
    lost: int = 0,
    won: int = 0,
    missing: int = 0,
    stopped_of: int | None = None,
    floor: float | None = None,
    excess_p: float | None = None,
    flips: int = 0,
) -> BenchmarkVerdict:
    points = margin_points(stopped_of or found.n, policy, benchmark)
    row = BenchmarkVerdict(
        benchmark=name,
        display=benchmark.display if benchmark else name,
        role="gated",
        verdict=Verdict.INVALID,
        n=found.n,
        units=found.units,
        repeats=repeats,
        stopped_of=stopped_of,
        baseline=baseline,
        candidate=candidate,
        difference=found.mean,
        standard_error=found.standard_error,
        lower=found.lower,
        upper=found.upper,
        margin_points=points,
        p_value=p_value,
        p_adjusted=p_value,
        lost=lost,
        won=won,
        missing=missing,
        different=found.upper > points / 100 and found.lower > 0,
        resolution=0,
        floor=floor,
        excess_p=excess_p,
        flips=flips,
        reason="not judged, as the two runs are not comparable",
    )
    needed = statistics.required_items(discordance(row), points / 100, policy.alpha, policy.power)
    resolution = found.n / needed
    # Clusters, not items, are what the t interval needs many of.
    enough = found.units >= policy.min_items or (repeats > 1 and resolution >= 1)
    decides = enough and (benchmark is None or benchmark.role == "gated")
    return row.model_copy(update={"resolution": resolution, "role": "gated" if decides else "advisory"})


def _excess(
    flips: int, n: int, baseline: statistics.Floats, floor: NoiseFloor | None
) -> tuple[float | None, float | None]:
    """The baseline's rate of changed answers against itself, and p of no more changes than that."""
    if floor is not None:
        return floor.flips / floor.n, excess_p_value(flips, n, floor.flips, floor.n)
    if baseline.shape[1] > 1:
        changed = int((baseline[:, 0] != baseline[:, 1]).sum())
        return changed / n, excess_p_value(flips, n, changed, n)
    return None, None


def in_points(share: float) -> str:
    """A share as signed points."""
    return f"{100 * share:+.2f}".replace("-", "−")


def _enough(psi: float, n: int, margin: float, policy: Policy) -> str:
    """What would decide an INCONCLUSIVE finding."""
    needed = statistics.required_items(psi, margin / 100, policy.alpha, policy.power)
    if needed > n:
        return f"to clear an equal system takes about {needed} items at this rate of changed answers, here are {n}"
    return f"{n} items suffice to clear an equal system, so the observed loss is the obstacle"


def _judge(b: BenchmarkVerdict, p_adjusted: float, policy: Policy) -> BenchmarkVerdict:
    """`b` with its verdict, and why in one sentence."""
    interval = f"{100 * (1 - 2 * policy.alpha):g} % interval {in_points(b.lower)} to {in_points(b.upper)}"
    margin, p = f"{b.margin_points:g} points", f"p = {p_adjusted:.2g}"
    if b.lower > -b.margin_points / 100:
        verdict, what = Verdict.CONSISTENT, f"a loss of {margin} is excluded"
    elif p_adjusted < policy.alpha:
        verdict, what = Verdict.REGRESSED, f"a loss is shown ({p}), and one of {margin} is not excluded"
    else:
        enough = _enough(discordance(b), b.n, b.margin_points, policy)
        verdict, what = Verdict.INCONCLUSIVE, f"a loss of {margin} is neither excluded nor shown ({p}); {enough}"
    size = f"{b.n} items" if b.units == b.n else f"{b.n} items in {b.units} clusters"
    size += f", stopped early of {b.stopped_of}" if b.stopped_of else ""
    note = ""
    if b.role == "advisory":
        few = f"it has fewer than {policy.min_items} {'items' if b.units == b.n else 'clusters'}"
        note = f"; advisory only, as {few if b.units < policy.min_items else 'its benchmark is'}"
    reason = f"{in_points(b.difference)} points ({interval}, {size}): {what}{note}"
    return b.model_copy(update={"verdict": verdict, "p_adjusted": p_adjusted, "reason": reason})


def pool(gated: Sequence[BenchmarkVerdict], policy: Policy) -> tuple[PooledVerdict, str]:
    """The mean over the gated benchmarks, and what it says in one sentence."""
    means, errors = [b.difference for b in gated], [b.standard_error for b in gated]
    mean, se, lower = statistics.pooled_difference(means, errors, policy.alpha)
    margin = policy.pooled_margin_points
    passed = lower > -margin / 100
    pooled = PooledVerdict(difference=mean, standard_error=se, lower=lower, margin_points=margin, non_inferior=passed)
    bound = f"{100 * (1 - policy.alpha):g} % bound {in_points(lower)}"
    found = f"mean over the gated benchmarks {in_points(mean)} points, {bound}"
    if passed:
        return pooled, f"{found}: a loss of {margin:g} points is excluded"
    items = sum(b.n for b in gated)
    # items · SE² is the discordance at which one benchmark of as many items has this standard error.
    enough = _enough(min(1.0, items * se**2), items, margin, policy)
    return pooled, f"{found}: a loss of {margin:g} points is not excluded; {enough}"


def judge(found: Sequence[BenchmarkVerdict], policy: Policy) -> Cell:
    """Per benchmark, then pooled.

    A benchmark is CONSISTENT if the lower bound of the difference lies above −margin; REGRESSED if it does not and the
    one-sided p-value of a loss, Holm-adjusted over the gated benchmarks, is below alpha; else INCONCLUSIVE. The cell is
    REGRESSED if a gated benchmark is, CONSISTENT if the pooled mean is non-inferior, else INCONCLUSIVE.
    """
    gated = [b for b in found if b.role == "gated"]
    if not gated:
        sizes = ", ".join(f"{b.display} {b.n}" for b in found) or "none was compared"
        reason = f"no benchmark has the {policy.min_items} items that deciding takes ({sizes})"
        judged = [_judge(b, b.p_value, policy) for b in found]
        return Cell(Verdict.INCONCLUSIVE, "undecided", judged, None, [reason])
    adjusted = dict(zip([b.benchmark for b in gated], statistics.holm([b.p_value for b in gated]), strict=True))
    judged = [_judge(b, float(adjusted.get(b.benchmark, b.p_value)), policy) for b in found]
    pooled, reason = pool(gated, policy)
    said = [(b.verdict, f"{b.display}: {b.reason}") for b in judged if b.role == "gated"]
    if regressed := [sentence for verdict, sentence in said if verdict is Verdict.REGRESSED]:
        return Cell(Verdict.REGRESSED, "benchmark", judged, pooled, regressed)
    undecided = [sentence for verdict, sentence in said if verdict is Verdict.INCONCLUSIVE]
    if pooled.non_inferior:
        return Cell(Verdict.CONSISTENT, "pooled", judged, pooled, [reason, *undecided])
    return Cell(Verdict.INCONCLUSIVE, "undecided", judged, pooled, [reason, *undecided])


def losses_over_matrix(gates: Mapping[str, GateResult], rate: float = 0.05) -> dict[str, list[str]]:
    """Of each cell the gated benchmarks whose loss stands among all cells of a matrix, by display name.

    Benjamini–Hochberg over the p-values of all gated benchmarks of all cells: of the losses named, at most the share
    `rate` is expected to be false (Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57). For a
    dashboard; the verdict of each cell stands on its own.
    """
    rows = [(cell, row) for cell, gate in gates.items() for row in gate.benchmarks if row.role == "gated"]
    losses: dict[str, list[str]] = {}
    if rows:
        adjusted = scipy.stats.false_discovery_control([row.p_value for _, row in rows])
        for (cell, row), q in zip(rows, adjusted, strict=True):
            if q < rate:
                losses.setdefault(cell, []).append(row.display)
    return losses
