"""Ratios of positive quantities, on the log scale: speed of repeats, length of answers.

As for differences, `alpha` is one-sided: each bound alone is a one-sided 1 − alpha bound.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from evaluation.statistics import Floats, checked


class Ratio(NamedTuple):
    """Candidate divided by baseline, as a ratio of geometric means, with its interval; 1 is equal."""

    ratio: float
    lower: float
    upper: float


def _repeats(values: ArrayLike, what: str) -> Floats:
    array = checked(values, what, 0.0)
    if array.size == 1 or array.min() == 0:
        msg = f"{what} must be at least two positive numbers"
        raise ValueError(msg)
    return array


def log_ratio_interval(candidate: ArrayLike, baseline: ArrayLike, alpha: float) -> Ratio:
    """How many times as fast the candidate is, from timed repeats of each, such as tokens per second.

    exp of mean(log c) − mean(log b) ± t(1 − alpha, ν)·√(s_c²/n_c + s_b²/n_b), variances of the logs, ν by Welch 1947,
    Biometrika 34, since two chips need not be equally steady. A point where neither side varies. ValueError with fewer
    than two values on a side or one that is not positive.
    """
    ours, theirs = _repeats(candidate, "candidate's values"), _repeats(baseline, "baseline's values")
    ratio = math.exp(float(np.log(ours).mean() - np.log(theirs).mean()))
    if np.ptp(ours) == np.ptp(theirs) == 0:
        return Ratio(ratio, ratio, ratio)
    # Squared standard error of each side; SciPy's own test warns where one side does not vary.
    parts = np.array([np.log(values).var(ddof=1) / values.size for values in (ours, theirs)])
    freedom = parts.sum() ** 2 / (np.square(parts) / (ours.size - 1, theirs.size - 1)).sum()
    half = float(scipy.stats.t.ppf(1 - alpha, freedom) * np.sqrt(parts.sum()))
    return Ratio(ratio, ratio * math.exp(-half), ratio * math.exp(half))


def coefficient_of_variation(values: ArrayLike) -> float:
    """Standard deviation (over n − 1) divided by the mean of repeats, as a share; ValueError as for the interval."""
    array = _repeats(values, "values")
    return float(array.std(ddof=1) / array.mean())


def log_length_shift(candidate_tokens: ArrayLike, baseline_tokens: ArrayLike, alpha: float) -> Ratio:
    """How many times as long the candidate's answers are, from output tokens per item, in the same order of items.

    exp of the mean of log((c + 1)/(b + 1)) with its paired t interval; + 1 lets an empty answer count. Where an item
    was asked several times, its tokens are averaged before. The log keeps a few runaway answers from deciding. One item
    says nothing of the spread: from 0 to infinity. ValueError where the items are not as many, or counts negative.
    """
    ours = checked(candidate_tokens, "candidate's tokens", 0.0)
    theirs = checked(baseline_tokens, "baseline's tokens", 0.0)
    if ours.size != theirs.size:
        msg = f"{ours.size} items cannot be paired with {theirs.size}"
        raise ValueError(msg)
    logs = np.log1p(ours) - np.log1p(theirs)
    ratio = math.exp(float(logs.mean()))
    if logs.size == 1:
        return Ratio(ratio, 0.0, math.inf)
    if np.ptp(logs) == 0:
        return Ratio(ratio, ratio, ratio)
    half = float(scipy.stats.t.ppf(1 - alpha, logs.size - 1) * logs.std(ddof=1)) / math.sqrt(logs.size)
    return Ratio(ratio, ratio * math.exp(-half), ratio * math.exp(half))
