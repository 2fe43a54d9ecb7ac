"""The gate's rules on right-or-wrong answers, for many releases at once.

They are those of `evaluation.accuracy`, `evaluation.sequential` and `evaluation.escalation`, which judge one release
and would take hours here. `gate_check` holds the two to give the same verdicts on the same answers.

Arrays are releases × benchmarks unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from benchmarks.gate_simulation import Counts, Ints, Population, Trial
from evaluation import escalation
from evaluation.accuracy import from_scores, margin_points
from evaluation.planning import variance_between_items
from evaluation.power import rejected_by_holm
from evaluation.statistics import Floats, required_items
from flagrelease.verdicts import BenchmarkVerdict, GateResult, Verdict

Bools = NDArray[np.bool_]
Z_95 = 1.96


class Found(NamedTuple):
    """What is found on one benchmark, each by release: `evaluation.accuracy.from_scores`."""

    n: Ints
    mean: Floats
    standard_error: Floats
    lower: Floats
    p_value: Floats
    candidate: Floats
    baseline: Floats
    errors: tuple[Floats, Floats]
    """Standard errors of the scores of (candidate, baseline)."""
    within: tuple[Floats, Floats]
    """`floors.discordance_within` of each; 0 with one repeat."""
    changed: Bools
    """Whether an item was lost or won."""


OTHERS: Mapping[str, Callable[[Found], Bools]] = {
    "5 points": lambda found: found.mean >= -0.05,
    "99 %": lambda found: found.candidate >= 0.99 * found.baseline,
    "rtol 5 %": lambda found: np.abs(found.mean) <= 0.05 * found.baseline,
    "unpaired z": lambda found: np.abs(found.mean) < Z_95 * np.hypot(*found.errors),
}
"""Whether a benchmark passes: FlagRelease's public rule, MLPerf's, a relative tolerance, lm-eval's comparator."""


class _Differences(NamedTuple):
    n: Ints
    mean: Floats
    sd: Floats
    lost: Ints
    won: Ints
    whole: Bools
    """Whether no item is gained or lost in part."""


def _differences(counts: Counts, ours: Ints, theirs: int) -> _Differences:
    """Per-item differences of mean scores: `counts` releases × right answers × right answers, repeats of each side."""
    n = counts.sum(axis=(1, 2))
    right = np.arange(counts.shape[1])[:, np.newaxis]
    # By release, as repeats are; whole numbers, so that no difference is exactly none.
    steps = right * theirs - ours[:, np.newaxis, np.newaxis] * np.arange(counts.shape[2])
    scale = ours * theirs
    total, squares = (counts * steps).sum(axis=(1, 2)), (counts * steps**2).sum(axis=(1, 2))
    variance = (squares - total**2 / n) / (n - 1) / scale**2
    part = (np.abs(steps) > 0) & (np.abs(steps) < scale[:, np.newaxis, np.newaxis])
    return _Differences(
        n,
        total / n / scale,
        np.sqrt(np.maximum(0.0, variance)),
        (counts * (steps < 0)).sum(axis=(1, 2)),
        (counts * (steps > 0)).sum(axis=(1, 2)),
        (counts * part).sum(axis=(1, 2)) == 0,
    )


def _interval(d: _Differences, alpha: float) -> tuple[Floats, Floats]:
    """Standard error and lower bound: `statistics.paired_difference` and `allow_for_unseen`."""
    error = d.sd / np.sqrt(d.n)
    quantile, unseen = scipy.stats.t.ppf(1 - alpha, d.n - 1), 1 - alpha ** (1 / d.n)
    narrow = quantile * error < unseen
    lower = np.where(narrow, np.maximum(d.mean - unseen, -1.0), d.mean - quantile * error)
    return np.where(narrow, unseen / quantile, error), lower


def _p_value(d: _Differences, exact: Bools) -> Floats:
    """`statistics.loss_p_value`, McNemar's where `exact` or without variance, for 200 items and more."""
    plain = exact | (d.sd == 0)
    error = np.where(d.sd > 0, d.sd, 1.0) / np.sqrt(d.n)
    p = scipy.stats.t.cdf(d.mean / error, d.n - 1)
    p[plain] = scipy.stats.binom.sf(d.lost[plain] - 1, d.lost[plain] + d.won[plain], 0.5)
    found: Floats = p
    return found


def find(counts: Counts, ours: Ints, theirs: int, alpha: float) -> Found:
    """What the gate finds on one benchmark; `ours` repeats of the candidate, by release, `theirs` of the baseline."""
    by_right = counts.sum(axis=1)
    d = _differences(by_right, ours, theirs)
    error, lower = _interval(d, alpha)
    sides = [_side(by_right.sum(axis=2), ours), _side(by_right.sum(axis=1), np.full(len(ours), theirs))]
    return Found(
        n=d.n,
        mean=d.mean,
        standard_error=error,
        lower=lower,
        p_value=_p_value(d, (ours == 1) & (theirs == 1)),
        candidate=sides[0][0],
        baseline=sides[1][0],
        errors=(sides[0][1], sides[1][1]),
        within=(sides[0][2], sides[1][2]),
        changed=d.lost + d.won > 0,
    )


def _side(counts: Ints, repeats: Ints) -> tuple[Floats, Floats, Floats]:
    """Of one side (releases × right answers) the mean score, its standard error, and ψ within."""
    n, right = counts.sum(axis=1), np.arange(counts.shape[1])
    total, squares = counts @ right, counts @ right**2
    error = np.sqrt((squares - total**2 / n) / (n - 1) / n) / repeats
    within = 2 * (repeats * total - squares) / np.maximum(1, repeats * (repeats - 1)) / n
    return total / n / repeats, error, np.where(repeats > 1, within, 0.0)


def stop(parts: Sequence[Counts], who: Population, trial: Trial) -> tuple[Counts, Ints]:
    """`parts` of a benchmark up to the look at which it is stopped (`sequential.stop_at_look`), and that look."""
    known = np.cumsum(np.array(parts), axis=0)
    at = np.full(known.shape[1], len(parts) - 1)
    policy, limit = trial.policy, trial.largest_error
    if limit is not None and policy.early_stop is not None:
        margin = margin_points(who.n, policy, who.benchmark) / 100
        level = float(scipy.stats.norm.sf(policy.early_stop.z))
        ours = np.full(len(at), trial.repeats[0])
        # Backwards, so that the first look that decides is what remains.
        for look in reversed(range(len(parts) - 1)):
            d = _differences(known[look].sum(axis=1), ours, trial.repeats[1])
            if d.n[0] < policy.min_items:
                # Stopped with fewer items than decide, it would take no part in the verdict, however much it lost.
                break
            cleared = (_interval(d, level)[1] > -margin) & (_interval(d, policy.alpha)[0] <= limit)
            lost = (d.mean < -margin) & (_p_value(d, d.whole) <= level / len(trial.members))
            at[cleared | lost] = look
    return known[at, np.arange(len(at))], at


class Judged(NamedTuple):
    """`evaluation.accuracy.judge` of many releases."""

    found: list[Found]
    lost: Bools
    cleared: Bools
    verdicts: NDArray[np.str_]
    """By release."""


def judge(found: list[Found], trial: Trial) -> Judged:
    """The verdict on each release, all benchmarks gated."""
    policy = trial.policy
    cleared = np.column_stack([each.lower for each in found]) > -trial.margins
    lost = ~cleared & rejected_by_holm(np.column_stack([each.p_value for each in found]), policy.alpha)
    mean = np.mean([each.mean for each in found], axis=0)
    error = np.sqrt(np.sum([each.standard_error**2 for each in found], axis=0)) / len(found)
    pooled = mean - float(scipy.stats.norm.ppf(1 - policy.alpha)) * error > -policy.pooled_margin_points / 100
    verdicts = np.where(pooled, Verdict.CONSISTENT.value, Verdict.INCONCLUSIVE.value)
    verdicts = np.where(lost.any(axis=1), Verdict.REGRESSED.value, verdicts)
    return Judged(found, lost, cleared, verdicts)


def wanted(judged: Judged, asked: Ints, trial: Trial) -> Ints:
    """Repeats in all that each release asks for next (`escalation.next_repeats`): `asked` where nothing more."""
    after, planned = asked.copy(), trial.procedure.repeats
    if trial.procedure.again:
        after[judged.lost & (asked <= planned)] = 2 * planned
    if trial.procedure.more:
        scores = np.ones((2, 1))
        blank = from_scores("", scores, scores, trial.policy).model_copy(update={"role": "gated"})
        for release in np.flatnonzero(judged.verdicts == Verdict.INCONCLUSIVE.value):
            for key, count in _more(judged, int(release), asked[release], trial, blank).items():
                after[release, [who.benchmark.key for who in trial.members].index(key)] = count
    return after


def _more(judged: Judged, release: int, asked: Ints, trial: Trial, blank: BenchmarkVerdict) -> Mapping[str, int]:
    """What an undecided release asks for: `evaluation.escalation` itself, on what it reads of a benchmark's row."""
    policy, theirs = trial.policy, trial.repeats[1]
    rows, splits = [], {}
    for number, (who, found) in enumerate(zip(trial.members, judged.found, strict=True)):
        error, mean, n = float(found.standard_error[release]), float(found.mean[release]), int(found.n[release])
        repeats, margin = int(asked[number]), float(trial.margins[number])
        discordance = (n - 1) * error**2 + mean**2
        read = {
            "benchmark": who.benchmark.key,
            "verdict": Verdict.CONSISTENT if judged.cleared[release, number] else Verdict.INCONCLUSIVE,
            "n": n,
            "repeats": repeats,
            "difference": mean,
            "standard_error": error,
            "margin_points": 100 * margin,
            "resolution": n / required_items(discordance, margin, policy.alpha, policy.power),
        }
        rows.append(blank.model_copy(update=read))
        splits[who.benchmark.key] = _noise(found, release, n * error**2, (repeats, theirs))
    result = GateResult(
        verdict=Verdict.INCONCLUSIVE,
        rule="undecided",
        baseline_id="simulated",
        needs=escalation.needs(rows, splits, policy),
        hygiene=[],
        benchmarks=rows,
        pooled=None,
        reasons=[],
    )
    planned = dict.fromkeys(splits, trial.procedure.repeats)
    # Repeats cost no time here.
    free = dict.fromkeys(splits, 0.0)
    return escalation.next_repeats(result, planned, policy, seconds=free, left_s=0.0)


def _noise(found: Found, release: int, variance: float, repeats: tuple[int, int]) -> escalation.Noise:
    """`escalation.noise`, from repeats where there are some."""
    ours, theirs = repeats
    known = [float(each[release]) for each, count in zip(found.within, repeats, strict=True) if count > 1]
    if known:
        within = math.fsum(known) / len(known)
    else:
        within = variance / (0.5 * (1 / ours + 1 / theirs)) if found.changed[release] else 0.0
    return escalation.Noise(variance_between_items(variance, within, ours, theirs), within, theirs)
