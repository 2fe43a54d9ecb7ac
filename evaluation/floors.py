"""The A/A floor: how much answers change between runs of one system, and whether a candidate changes more.

A chip whose answers change as often as the baseline's own repeats changes nothing; equal scores can hide many changed
answers (Dutta et al. 2024, arXiv 2407.09141). Shares and mean squares of scores in [0, 1].
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike

from evaluation.statistics import Floats


def _table(scores: ArrayLike) -> Floats:
    """`scores` as items × repeats; a vector is one repeat."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, np.newaxis]
    if table.ndim != 2 or table.size == 0:  # noqa: PLR2004 - items and repeats
        msg = "scores must be items × repeats, with at least one of each"
        raise ValueError(msg)
    # NaN fails both comparisons.
    if not ((table >= 0) & (table <= 1)).all():
        msg = "scores must lie in [0, 1]: NaN or a value outside found"
        raise ValueError(msg)
    return table


def discordance_within(scores: ArrayLike) -> float:
    """ψ_AA: the mean square of the difference between two repeats of one system, from items × K ≥ 2 repeats.

    2 · mean_i s_i² with the unbiased variance s_i² of the repeats of item i; for right-or-wrong answers
    s_i² = K/(K − 1) · p̂_i(1 − p̂_i), and ψ_AA is the share of items whose answer changes from one repeat to the next.
    σ²/K of Miller 2024, arXiv 2411.00640 (resampling), is ψ_AA/2K. ValueError with fewer than two repeats, repeats that
    are not as many for each item, or scores outside [0, 1].
    """
    table = _table(scores)
    if table.shape[1] == 1:
        msg = "how much repeats differ takes at least two of each item"
        raise ValueError(msg)
    return 2 * float(table.var(axis=1, ddof=1).mean())


def discordance_between(a: ArrayLike, b: ArrayLike) -> float:
    """ψ: the mean square of the difference between one repeat of `a` and one of `b`, each items or items × repeats.

    The mean over all pairs of repeats, so it compares with `discordance_within` whatever the repeats; two repeats each
    do not make two systems look more alike, as averaging them first would. ValueError where the items are not as many.
    """
    ours, theirs = _table(a), _table(b)
    if len(ours) != len(theirs):
        msg = f"{len(ours)} items cannot be paired with {len(theirs)}"
        raise ValueError(msg)
    means = np.square(ours.mean(axis=1) - theirs.mean(axis=1))
    return float((means + ours.var(axis=1) + theirs.var(axis=1)).mean())


def excess_p_value(count: int, n: int, floor_count: int, floor_n: int) -> float:
    """One-sided p-value that `count` of `n` is no larger a share than `floor_count` of `floor_n`.

    Fisher's exact test (Fisher 1935, Journal of the Royal Statistical Society 98): P(X ≥ count) with X hypergeometric,
    given the total of both counts. Exact at any n, which matters because flips and failed extractions can be a handful,
    where score tests, being approximations, exceed their level; it errs on the side of no alarm. It takes the two as
    independent. For the same items they are not: what is unstable in one run is so in the other, which makes the
    difference vary less than supposed, so here too the error is on the side of no alarm. 1 where nothing was counted.
    """
    if not (0 <= count <= n and 0 <= floor_count <= floor_n and n > 0 and floor_n > 0):
        msg = f"counts must lie between 0 and a positive total, not {count} of {n} and {floor_count} of {floor_n}"
        raise ValueError(msg)
    return float(scipy.stats.hypergeom.sf(count - 1, n + floor_n, count + floor_count, n))
