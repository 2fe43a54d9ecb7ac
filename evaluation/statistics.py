"""Statistics of the consistency gate: pure functions on arrays, each with its source.

For differences `alpha` is one-sided: at alpha = 0.05 the interval is the two-sided 90 % one, so that its lower bound
alone is a one-sided 95 % bound. Only `score_interval`, which decides nothing, is an ordinary 1 − alpha interval. There
is no bootstrap: the t interval on paired differences is adequate at the sizes that decide, and far faster.

Beside this module: `floors` (the baseline against itself), `totals` (where only scores are known), `planning` (how much
to ask), `sequential` (when to stop asking), `ratios` (speed and length).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

# `scipy` alone imports in milliseconds; `scipy.stats` (about a second) is loaded by its first use.
import scipy
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

T_TEST_FROM = 200
"""Independent units from which the t test is used: the central limit theorem misleads below a few hundred (Bowyer et
al. 2025, arXiv 2503.01747)."""

PERMUTATIONS = 9_999
"""Sign flips drawn where 2^n is larger; the smallest p-value is then 1/10,000."""

PERMUTATION_SEED = 20_240_607
"""Fixed, so that the same answers always give the same verdict."""

ROUNDING = 1e-12
"""Differences of scores below this come from floating point."""


class Difference(NamedTuple):
    """Mean difference between two systems with its interval, in the unit of the scores.

    `n` items in `units` that are independent of each other: the clusters where items share one, else the items.
    """

    n: int
    mean: float
    standard_error: float
    lower: float
    upper: float
    units: int


class PooledDifference(NamedTuple):
    """Mean over benchmarks with its standard error and one-sided lower bound, in the unit of the scores."""

    mean: float
    standard_error: float
    lower: float


class Interval(NamedTuple):
    """Bounds of an interval, in the unit of the scores."""

    low: float
    high: float


def checked(values: ArrayLike, what: str, low: float = -math.inf, high: float = math.inf) -> Floats:
    """`values` as a vector of floats; ValueError where it is empty, not finite or outside [low, high]."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        msg = f"{what} must be a vector with at least one element"
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"{what} must be finite: NaN or infinity found"
        raise ValueError(msg)
    if array.min() < low or array.max() > high:
        msg = f"{what} must lie in [{low:g}, {high:g}]"
        raise ValueError(msg)
    return array


def _clustered(array: Floats, clusters: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """Per independent unit the sum of its differences and its number of items."""
    if clusters is None:
        return array, np.ones(array.size)
    if len(clusters) != array.size:
        msg = f"{array.size} differences but {len(clusters)} clusters"
        raise ValueError(msg)
    numbers: dict[Hashable, int] = {}
    unit = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    if len(numbers) == array.size:
        return array, np.ones(array.size)
    sums: Floats = np.bincount(unit, array).astype(np.float64)
    return sums, np.bincount(unit).astype(np.float64)


@cache
def t_quantile(alpha: float, degrees: int) -> float:
    """t(1 − alpha) with so many degrees of freedom; kept, as scipy takes longer for it than for a mean of 10,000."""
    return float(scipy.stats.t.ppf(1 - alpha, degrees))


def paired_difference(d: ArrayLike, alpha: float, clusters: Sequence[Hashable] | None = None) -> Difference:
    """Mean of the per-item differences `d` (in [-1, 1]) with its two-sided 1 − 2·alpha t interval.

    mean ± t(1 − alpha, n − 1) · SE with SE = sd(d)/√n, sd over n − 1. Items are a sample of possible questions, and
    pairing removes their common difficulty: Miller 2024, arXiv 2411.00640 (paired differences).

    `clusters` names for each item what it shares with others, such as a passage. Then whole clusters are the sample:
    SE² = C/(C − 1) · Σ_c (Σ_{i in c} (d_i − mean))² / n² over C clusters, and t has C − 1 degrees of freedom: Miller
    2024 (clustered standard errors), after Liang and Zeger 1986, Biometrika 73. With one item a cluster this is sd²/n.

    One unit says nothing of the spread: SE is then 1, the largest sd a difference of shares can have, and the interval
    is everything possible, [-1, 1]. Where all differences are equal, SE is 0 and the interval is the point; see
    `allow_for_unseen`. ValueError where `d` and `clusters` differ in length.
    """
    array = checked(d, "differences", -1.0, 1.0)
    sums, sizes = _clustered(array, clusters)
    n, units, mean = array.size, sums.size, float(array.mean())
    if units == 1:
        return Difference(n, mean, 1.0, -1.0, 1.0, 1)
    if array.min() == array.max():
        # Exactly zero, where rounding of the mean would leave 1e-18.
        return Difference(n, float(array[0]), 0.0, float(array[0]), float(array[0]), units)
    if units == n:
        standard_error = float(array.std(ddof=1)) / math.sqrt(n)
    else:
        residuals = sums - sizes * mean
        # Exactly zero also where the differences within each cluster cancel out.
        residuals[np.abs(residuals) < ROUNDING * sizes] = 0.0
        standard_error = math.sqrt(units / (units - 1) * float(np.square(residuals).sum())) / n
    half = t_quantile(alpha, units - 1) * standard_error
    return Difference(n, mean, standard_error, mean - half, mean + half, units)


def allow_for_unseen(found: Difference, alpha: float) -> Difference:
    """`found` with an interval no narrower than what its units leave unseen.

    With confidence 1 − alpha, an outcome that none of n units shows has a rate of at most 1 − alpha^(1/n), about 3/n
    (Hanley and Lippman-Hand 1983, JAMA 249). Where few differences are other than zero, the t interval claims more
    than that; where none is, it claims certainty. SE becomes what gives the wider interval.
    """
    unseen = 1 - alpha ** (1 / found.units)
    if found.units == 1 or found.mean - found.lower >= unseen:
        return found
    quantile = t_quantile(alpha, found.units - 1)
    lower, upper = max(found.mean - unseen, -1.0), min(found.mean + unseen, 1.0)
    return found._replace(standard_error=unseen / quantile, lower=lower, upper=upper)


def mcnemar_exact(lost: int, won: int) -> float:
    """One-sided p-value that nothing was lost, from the items lost and won between two right-or-wrong runs.

    P(X ≥ lost) with X ~ Binomial(lost + won, 1/2); items on which both agree carry no information. McNemar 1947,
    Psychometrika 12; for language models Kübler et al. 2026, arXiv 2602.10144. 1 where no item differs.
    """
    if lost < 0 or won < 0:
        msg = f"counts cannot be negative: lost {lost}, won {won}"
        raise ValueError(msg)
    return float(scipy.stats.binom.sf(lost - 1, lost + won, 0.5))


def t_loss_p_value(found: Difference) -> float:
    """One-sided p-value of Student's t test that the mean is not below 0: P(T ≤ mean/SE), units − 1 degrees of freedom.

    Where t is undefined, which is where all units agree or there is one, that of the sign test: 0.5^units for a loss.
    """
    if found.units == 1 or found.standard_error == 0:
        return 0.5**found.units if found.mean < 0 else 1.0
    return float(scipy.stats.t.cdf(found.mean / found.standard_error, found.units - 1))


def loss_p_value(d: ArrayLike, binary_single_repeat: bool, clusters: Sequence[Hashable] | None = None) -> float:
    """One-sided p-value of the hypothesis that the mean of the per-item differences `d` is not below 0.

    Exact McNemar where items are right or wrong, asked once and independent. Otherwise Student's t on the means over
    repeats (averaged first: Kübler et al. 2026, arXiv 2602.10144) from 200 units on, and below that the sign-flip
    test: under the hypothesis each difference is as likely to have the other sign (Fisher 1935, The Design of
    Experiments, §21), enumerated where 2^n ≤ 9,999 and else drawn with a fixed seed.

    Items that share one of `clusters` (see `paired_difference`) are lost together, which McNemar's test does not know:
    then t has the clustered SE, and the signs of whole clusters are flipped.
    """
    array = checked(d, "differences", -1.0, 1.0)
    sums, _ = _clustered(array, clusters)
    independent = sums.size == array.size
    if not independent:
        # What adds up to nothing is neither lost nor won, in whatever order it was added.
        sums = np.round(sums / ROUNDING) * ROUNDING
    lost, won = int((sums < 0).sum()), int((sums > 0).sum())
    # t is undefined without variance; there the sign test, which is McNemar's, is exact.
    if (binary_single_repeat and independent) or sums.min() == sums.max():
        return mcnemar_exact(lost, won)
    if sums.size >= T_TEST_FROM:
        # No interval is asked for, so any level does.
        return t_loss_p_value(paired_difference(array, 0.05, clusters))
    test = scipy.stats.permutation_test(
        (np.sort(sums),),  # sorted: the draws, and so the p-value, do not depend on the order of the items
        np.mean,
        permutation_type="samples",
        alternative="less",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        random_state=np.random.default_rng(PERMUTATION_SEED),
    )
    return float(test.pvalue)


def holm(p_values: ArrayLike) -> Floats:
    """P-values adjusted so that the chance of any false claim among them is at most the level they are compared with.

    Sorted ascending, p̃(i) = max over j ≤ i of min(1, (m − j + 1)·p(j)); returned in the given order. Valid under any
    dependence. Holm 1979, Scandinavian Journal of Statistics 6.
    """
    array = checked(p_values, "p-values", 0.0, 1.0)
    order = np.argsort(array, kind="stable")
    stepped = np.maximum.accumulate(array[order] * np.arange(array.size, 0, -1))
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def pooled_difference(means: ArrayLike, standard_errors: ArrayLike, alpha: float) -> PooledDifference:
    """Unweighted mean of the benchmarks' differences, so that a large benchmark does not drown the others.

    mean = Σ mean_b / m, SE = √(Σ SE_b²)/m, lower = mean − z(1 − alpha)·SE; the benchmarks' items are independent.
    Aggregation over tasks: Kübler et al. 2026, arXiv 2602.10144.
    """
    centres = checked(means, "means")
    errors = checked(standard_errors, "standard errors", 0.0)
    if centres.size != errors.size:
        msg = f"{centres.size} means but {errors.size} standard errors"
        raise ValueError(msg)
    mean = float(centres.mean())
    standard_error = float(np.sqrt(np.square(errors).sum())) / centres.size
    return PooledDifference(mean, standard_error, mean - float(scipy.stats.norm.ppf(1 - alpha)) * standard_error)


def score_interval(scores: ArrayLike, alpha: float) -> Interval:
    """Two-sided 1 − alpha interval of one system's mean score, from one score in [0, 1] an item.

    Scores that are all 0 or 1: Wilson 1927, JASA 22: (p̂ + z²/2n ± z·√(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n), z at
    1 − alpha/2; it keeps its width at 0 and 1. Graded scores, or means over repeats: the t interval cut to [0, 1]; all
    of [0, 1] where there is one item.
    """
    array = checked(scores, "scores", 0.0, 1.0)
    n, mean = array.size, float(array.mean())
    if bool(np.isin(array, (0.0, 1.0)).all()):
        z2 = float(scipy.stats.norm.ppf(1 - alpha / 2)) ** 2
        centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
        half = math.sqrt(z2 * (mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n)
        return Interval(max(0.0, centre - half), min(1.0, centre + half))
    if n == 1:
        return Interval(0.0, 1.0)
    half = float(scipy.stats.t.ppf(1 - alpha / 2, n - 1)) * float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(max(0.0, mean - half), min(1.0, mean + half))


@cache
def power_quantile(alpha: float, power: float) -> float:
    """z(1 − alpha) + z(power): the standard errors between what is excluded at level `alpha` and what is true."""
    if not 0 < alpha < power < 1:
        msg = f"alpha and power must lie in (0, 1), and power above alpha, not {alpha} and {power}"
        raise ValueError(msg)
    return float(scipy.stats.norm.ppf(1 - alpha) + scipy.stats.norm.ppf(power))


def check_share(value: float, what: str) -> None:
    """ValueError where `value` lies outside (0, 1]."""
    if not 0 < value <= 1:
        msg = f"{what} must lie in (0, 1], not {value}"
        raise ValueError(msg)


def check_variance(value: float, what: str) -> None:
    """ValueError where `value` is negative or not finite."""
    if not 0 <= value < math.inf:
        msg = f"{what} must be a number from 0 on, not {value}"
        raise ValueError(msg)


def required_items(discordance: float, margin: float, alpha: float, power: float) -> int:
    """Items that clear an equal system of a loss of `margin` (share) with probability `power`.

    n* = (z(1 − alpha) + z(power))²·ψ/margin², rounded up, with the discordance ψ: the mean square of the differences,
    which for right-or-wrong answers is the share of items that differ. Sample size of paired proportions: Miller 2024,
    arXiv 2411.00640 (power analysis); n/n* is the resolution of Kotawala 2026, arXiv 2605.30315.
    """
    check_variance(discordance, "discordance")
    check_share(margin, "margin")
    return max(1, math.ceil(power_quantile(alpha, power) ** 2 * discordance / margin**2))
