"""Differences where only totals are known: published scores without their items, so no pairs.

Such findings illustrate; they do not decide, and per-item answers replace them (docs/gate.md).
"""

from __future__ import annotations

import math

import scipy

from evaluation.statistics import Difference


def _check_score(score: float, n: int) -> None:
    if not (0 <= score <= 1 and n >= 1):
        msg = f"a score must lie in [0, 1] and be of at least one item, not {score} of {n}"
        raise ValueError(msg)


def unpaired_difference(score_b: float, n_b: int, score_c: float, n_c: int, alpha: float) -> Difference:
    """Candidate's mean score minus the baseline's, each in [0, 1], with a 1 − 2·alpha interval, from totals alone.

    SE² = p_b(1 − p_b)/n_b + p_c(1 − p_c)/n_c and z(1 − alpha): the unpaired standard error of Miller 2024, arXiv
    2411.00640. p(1 − p) is the variance of right-or-wrong answers and the largest of any scores in [0, 1] with mean p,
    so graded scores and means over repeats get too wide an interval, never too narrow a one; so does, as a rule, a
    baseline that was asked the same items, as common difficulty is not removed.

    `n` are the candidate's items, `units` the fewer of the two, for `allow_for_unseen`: at scores of 0 or 1 SE is 0.
    """
    _check_score(score_b, n_b)
    _check_score(score_c, n_c)
    mean = score_c - score_b
    standard_error = math.sqrt(score_b * (1 - score_b) / n_b + score_c * (1 - score_c) / n_c)
    half = float(scipy.stats.norm.ppf(1 - alpha)) * standard_error
    return Difference(n_c, mean, standard_error, mean - half, mean + half, min(n_b, n_c))


def unpaired_loss_p_value(score_b: float, n_b: int, score_c: float, n_c: int) -> float:
    """One-sided p-value that the candidate's score is not below the baseline's, from totals alone.

    Φ((p_c − p_b)/√(p(1 − p)(1/n_b + 1/n_c))) with the pooled share p: the score test (Pearson's χ² with a sign), as the
    hypothesis says that both shares are one. Unlike an exact test it takes graded scores, whose sums are no counts. 1
    where all scores are 0 or all 1.
    """
    _check_score(score_b, n_b)
    _check_score(score_c, n_c)
    pooled = (score_b * n_b + score_c * n_c) / (n_b + n_c)
    if score_b == score_c in (0, 1):
        return 1.0
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_b + 1 / n_c))
    return float(scipy.stats.norm.cdf((score_c - score_b) / error))
