"""Statistics of the consistency gate: pure functions on arrays, each with its source.

For differences `alpha` is one-sided: at alpha = 0.05 the interval is the two-sided 90 % one, so that its lower bound
alone is a one-sided 95 % bound. Only `score_interval`, which decides nothing, is an ordinary 1 − alpha interval. There
is no bootstrap: the t interval on paired differences is adequate at the sizes that decide, and far faster.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# `scipy` alone imports in milliseconds; `scipy.stats` (about a second) is loaded by its first use.
import scipy
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

T_TEST_FROM = 200
"""Items from which the t test is used: the central limit theorem misleads below a few hundred (Bowyer et al. 2025,
arXiv 2503.01747)."""

PERMUTATIONS = 9_999
"""Sign flips drawn where 2^n is larger; the smallest p-value is then 1/10,000."""

PERMUTATION_SEED = 20_240_607
"""Fixed, so that the same answers always give the same verdict."""


class PairedDifference(NamedTuple):
    """Mean of paired differences with its interval, in the unit of the scores."""

    n: int
    mean: float
    standard_error: float
    lower: float
    upper: float


class PooledDifference(NamedTuple):
    """Mean over benchmarks with its standard error and one-sided lower bound, in the unit of the scores."""

    mean: float
    standard_error: float
    lower: float


class Interval(NamedTuple):
    """Bounds of an interval, in the unit of the scores."""

    low: float
    high: float


def _checked(values: ArrayLike, what: str, low: float = -math.inf, high: float = math.inf) -> Floats:
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


def paired_difference(d: ArrayLike, alpha: float) -> PairedDifference:
    """Mean of the per-item differences `d` (in [-1, 1]) with its two-sided 1 − 2·alpha t interval.

    mean ± t(1 − alpha, n − 1) · SE with SE = sd(d)/√n, sd over n − 1. Items are a sample of possible questions, and
    pairing removes their common difficulty: Miller 2024, arXiv 2411.00640 (paired differences).

    One item says nothing of the spread: SE is then 1, the largest sd a difference of shares can have, and the
    interval is everything possible, [-1, 1]. Where all differences are equal, SE is 0 and the interval is the point;
    see `allow_for_unseen`.
    """
    array = _checked(d, "differences", -1.0, 1.0)
    n, mean = array.size, float(array.mean())
    if n == 1:
        return PairedDifference(1, mean, 1.0, -1.0, 1.0)
    if array.min() == array.max():
        # Exactly zero, where rounding of the mean would leave 1e-18.
        return PairedDifference(n, float(array[0]), 0.0, float(array[0]), float(array[0]))
    standard_error = float(array.std(ddof=1)) / math.sqrt(n)
    half = float(scipy.stats.t.ppf(1 - alpha, n - 1)) * standard_error
    return PairedDifference(n, mean, standard_error, mean - half, mean + half)


def allow_for_unseen(found: PairedDifference, alpha: float) -> PairedDifference:
    """`found` with an interval no narrower than what n items leave unseen.

    With confidence 1 − alpha, an outcome that none of n items shows has a rate of at most 1 − alpha^(1/n), about 3/n
    (Hanley and Lippman-Hand 1983, JAMA 249). Where few differences are other than zero, the t interval claims more
    than that; where none is, it claims certainty. SE becomes what gives the wider interval.
    """
    unseen = 1 - alpha ** (1 / found.n)
    if found.n == 1 or found.mean - found.lower >= unseen:
        return found
    quantile = float(scipy.stats.t.ppf(1 - alpha, found.n - 1))
    lower, upper = max(found.mean - unseen, -1.0), min(found.mean + unseen, 1.0)
    return PairedDifference(found.n, found.mean, unseen / quantile, lower, upper)


def mcnemar_exact(lost: int, won: int) -> float:
    """One-sided p-value that nothing was lost, from the items lost and won between two right-or-wrong runs.

    P(X ≥ lost) with X ~ Binomial(lost + won, 1/2); items on which both agree carry no information. McNemar 1947,
    Psychometrika 12; for language models Kübler et al. 2026, arXiv 2602.10144. 1 where no item differs.
    """
    if lost < 0 or won < 0:
        msg = f"counts cannot be negative: lost {lost}, won {won}"
        raise ValueError(msg)
    return float(scipy.stats.binom.sf(lost - 1, lost + won, 0.5))


def loss_p_value(d: ArrayLike, binary_single_repeat: bool) -> float:
    """One-sided p-value of the hypothesis that the mean of the per-item differences `d` is not below 0.

    Exact McNemar where items are right or wrong and asked once. Otherwise Student's t on the means over repeats
    (averaged first: Kübler et al. 2026, arXiv 2602.10144) from 200 items on, and below that the sign-flip test: under
    the hypothesis each difference is as likely to have the other sign (Fisher 1935, The Design of Experiments, §21),
    enumerated where 2^n ≤ 9,999 and else drawn with a fixed seed.
    """
    array = _checked(d, "differences", -1.0, 1.0)
    lost, won = int((array < 0).sum()), int((array > 0).sum())
    # t is undefined without variance; there the sign test, which is McNemar's, is exact.
    if binary_single_repeat or array.min() == array.max():
        return mcnemar_exact(lost, won)
    if array.size >= T_TEST_FROM:
        return float(scipy.stats.ttest_1samp(array, 0.0, alternative="less").pvalue)
    test = scipy.stats.permutation_test(
        (np.sort(array),),  # sorted: the draws, and so the p-value, do not depend on the order of the items
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
    array = _checked(p_values, "p-values", 0.0, 1.0)
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
    centres = _checked(means, "means")
    errors = _checked(standard_errors, "standard errors", 0.0)
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
    array = _checked(scores, "scores", 0.0, 1.0)
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


def required_items(discordance: float, margin: float, alpha: float, power: float) -> int:
    """Items that clear an equal system of a loss of `margin` (share) with probability `power`.

    n* = (z(1 − alpha) + z(power))²·ψ/margin², rounded up, with the discordance ψ: the mean square of the differences,
    which for right-or-wrong answers is the share of items that differ. Sample size of paired proportions: Miller 2024,
    arXiv 2411.00640 (power analysis); n/n* is the resolution of Kotawala 2026, arXiv 2605.30315.
    """
    if not 0 <= discordance < math.inf:
        msg = f"discordance must be a number from 0 on, not {discordance}"
        raise ValueError(msg)
    if not 0 < margin <= 1:
        msg = f"margin must lie in (0, 1], not {margin}"
        raise ValueError(msg)
    if not (0 < alpha < 1 and 0 < power < 1):
        msg = f"alpha and power must lie in (0, 1), not {alpha} and {power}"
        raise ValueError(msg)
    z = float(scipy.stats.norm.ppf(1 - alpha) + scipy.stats.norm.ppf(power))
    return max(1, math.ceil(z * z * discordance / margin**2))
