"""When a server is bad: a statistic of the canary or of flipped items, and its threshold from A/A runs.

The statistic of the canary (`exceedance`) says how many times the canary's allowance a server lies from the baseline,
on the texts that the baseline wrote: the largest of three ratios, so that it is above 1 exactly where the gate's canary
fails.

The threshold is the one-sided upper prediction bound for one further run of the same stack, from m A/A runs with mean
x̄ and standard deviation s (over m − 1):

    x̄ + t(1 − α′, m − 1) · s · √(1 + 1/m)

(Hahn and Meeker 1991, *Statistical Intervals*; the same as a two-sample t test with a sample of one, Sokal and Rohlf
1995, *Biometry*). One more run of the same stack lies above it with probability α′, whatever m ≥ 2, if runs vary
normally; a statistic that is a mean over hundreds of tokens does, nearly. It is never below 1: operators that round
differently are no fault, and how much of that is allowed the gate's canary says.

The statistic of flipped items (those that the baseline answered rightly and the release wrongly) is how many of the n
are still wrong, divided by how many may be (`allowed_wrong`). With W of them wrong in m A/A runs together, one more run
of the same stack has k or more wrong with a probability of at most

    P(X ≥ k),  X hypergeometric: n drawn from (m + 1) · n, of which W + k are wrong

(Fisher's exact test, which is the conservative prediction bound for a binomial count: Thatcher 1964, *Journal of the
Royal Statistical Society B* 26). The threshold is the largest k for which that is above α′. Items that are not equally
likely to be wrong vary less than a binomial count does, so it holds for them as well.

A bisect judges up to K servers, and one false alarm sends it astray. So α′ = α/K (Bonferroni), where K is the bound
of server starts for one culprit; α = 5 % then holds for the whole bisect, not for one step. It says nothing of the
opposite mistake: a fault that is smaller than the noise of the stack is not found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from flagrelease.bisect.records import JudgedBy, Judging
from flagrelease.verdicts import CanaryResult

ALPHA = 0.05
"""Chance that a bisect of a sound model takes any server for bad."""


def exceedance(canary: CanaryResult) -> float:
    """How many times the allowed distance a server lies from the baseline; at most 1 where its canary passed.

    The largest of: mean |Δ log p| and KL divergence by their bars; share of positions where the likeliest token
    changed, by the share that may change. Infinite where only missing log-probabilities made the canary fail.
    """
    found, bars = canary.found, canary.bars
    ratio = max(
        found.mean_abs_logprob / bars.mean_abs_logprob,
        found.kl / bars.kl,
        (1 - found.top1_agreement) / (1 - bars.top1_agreement),
    )
    if canary.passed:
        # Passed by the gate's own comparison, which must not turn on the last bit of a quotient.
        return min(ratio, 1.0)
    return ratio if ratio > 1 else math.inf


def most_starts(count: int) -> int:
    """Most server starts that one culprit among `count` operators may cost: 2 · log2(n) + 4."""
    return math.floor(2 * math.log2(count) + 4)


def floor_starts(count: int) -> int:
    """A/A runs for `count` operators: from two to four, as many as `most_starts` leaves room for.

    Beside them a search for one culprit starts a server with every operator, one each halving, one without the culprit
    and one with the culprit only.
    """
    return min(4, max(2, most_starts(count) - halvings(count) - 3))


def halvings(count: int) -> int:
    """Server starts that tell one of `count` apart: ⌈log2(n)⌉."""
    return (count - 1).bit_length()


def step_alpha(count: int) -> float:
    """Chance of a false alarm at one step of a bisect over `count` operators."""
    return ALPHA / most_starts(count)


def bound(judging: Judging, floors: Sequence[float], alpha: float) -> float:
    """Largest statistic of a good server, from those of at least two A/A runs, at `alpha` a server.

    Never below 1: what the gate allows is no fault. ValueError for fewer runs: one says nothing of how runs vary.
    """
    if judging.by is JudgedBy.CANARY:
        return threshold(floors, alpha)
    wrong = [round(floor * judging.allowed) for floor in floors]
    return max(1.0, most_wrong(wrong, judging.asked, alpha) / judging.allowed)


def _require_two(floors: Sequence[float]) -> None:
    if len(floors) < 2:  # noqa: PLR2004 - as the message says
        msg = f"a threshold needs two A/A runs, not {len(floors)}"
        raise ValueError(msg)


def allowed_wrong(flipped: int, compared: int, margin_points: float) -> float:
    """How many of a benchmark's flipped items may still be wrong.

    As many lost items as the gate's margin accepts among those compared, and at most half: a server that has more of
    them wrong is nearer to the release than to the baseline.
    """
    return min(compared * margin_points / 100, flipped / 2)


def most_wrong(floors: Sequence[int], asked: int, alpha: float) -> int:
    """Most wrong answers of a good server, out of `asked`, by those of A/A runs, at `alpha` a server."""
    _require_two(floors)
    import numpy as np
    from scipy.stats import hypergeom

    counts = np.arange(asked + 1)
    found = hypergeom.sf(counts - 1, (len(floors) + 1) * asked, sum(floors) + counts, asked)
    return int(counts[found > alpha].max())


def can_tell(asked: int, operators: int) -> bool:
    """Whether so many flipped items are enough to tell a server that has all wrong from A/A runs that have none."""
    return most_wrong([0] * floor_starts(operators), asked, step_alpha(operators)) < asked


def threshold(floors: Sequence[float], alpha: float) -> float:
    """The bound for the canary; as `bound`."""
    _require_two(floors)
    from scipy.special import stdtrit

    runs = len(floors)
    spread = statistics.stdev(floors) * math.sqrt(1 + 1 / runs)
    # Runs that agree to the last bit leave no room, however far out the quantile lies.
    bound = statistics.fmean(floors) + (float(stdtrit(runs - 1, 1 - alpha)) * spread if spread else 0.0)
    return max(1.0, bound)
