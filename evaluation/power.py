"""The chance that the gate clears an equal system, before anything is asked: arithmetic of the planner.

Normal approximation of `evaluation.accuracy`: the difference found on a benchmark is taken as normal around 0 with the
variance that its repeats leave. Differences and margins are shares. Nothing here reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from evaluation.planning import detectable_difference, required_repeats
from evaluation.statistics import Floats, power_quantile, required_items
from flagrelease.policy import Policy

DRAWS = 20_000
"""Simulated cells; the error of a chance is then at most 0.4 points (one standard error)."""
SEED = 20_261_121
"""Fixed, so that the same plan always has the same chance; and the same draws for each plan make plans comparable."""


class Expected(NamedTuple):
    """One benchmark as the gate would find it for an equal system."""

    key: str
    n: int
    units: int
    """Independent units: clusters, else items."""
    within: float
    """ψ: mean square of the difference between two repeats of one system."""
    margin: float
    repeats: int
    baseline_repeats: int
    may_decide: bool
    """Whether the benchmark's own role is gated."""

    @property
    def spread(self) -> float:
        """Standard deviation of the difference: √(ψ/2 · (1/K_C + 1/K_B) / n) (see `planning.required_repeats`)."""
        variance = self.within / 2 * (1 / self.repeats + 1 / self.baseline_repeats)
        return math.sqrt(variance / self.n)

    def standard_error(self, alpha: float) -> float:
        """What the gate takes for the spread: never less than what its units leave unseen.

        As `statistics.allow_for_unseen`, with the normal quantile: (1 − alpha^(1/units)) / z(1 − alpha).
        """
        return max(self.spread, (1 - math.pow(alpha, 1 / self.units)) / _z(alpha))

    def detectable(self, policy: Policy) -> float:
        """The smallest margin that would be cleared with the policy's power."""
        discordance = self.n * self.standard_error(policy.alpha) ** 2
        return detectable_difference(discordance, self.n, policy.alpha, policy.power)

    def resolution(self, policy: Policy) -> float:
        """q = n / n* at these repeats: below 1 the benchmark can support, not decide."""
        discordance = self.n * self.standard_error(policy.alpha) ** 2
        return self.n / required_items(discordance, min(1.0, self.margin), policy.alpha, policy.power)

    def decides(self, policy: Policy) -> bool:
        """Whether the gate lets it take part in the verdict."""
        enough = self.units >= policy.min_items or (self.repeats > 1 and self.resolution(policy) >= 1)
        return self.may_decide and enough

    def chance(self, policy: Policy) -> float:
        """Probability that a loss of the margin is excluded: P(Δ − z·SE > −margin), Δ normal around 0."""
        room = self.margin - _z(policy.alpha) * self.standard_error(policy.alpha)
        if self.spread == 0:
            return float(room > 0)
        return float(scipy.special.ndtr(room / self.spread))

    def repeats_needed(self, policy: Policy, baseline_repeats: int | None) -> int | None:
        """The candidate's repeats for q ≥ 1, with so many of the baseline (none: as many as the candidate's).

        None where no number of them suffices.
        """
        unseen = self._replace(within=0.0).standard_error(policy.alpha)
        if unseen * power_quantile(policy.alpha, policy.power) > self.margin:
            return None
        return required_repeats(
            0.0,
            self.within,
            self.n,
            margin=min(1.0, self.margin),
            alpha=policy.alpha,
            power=policy.power,
            baseline_repeats=baseline_repeats,
        )


class Cell:
    """The gated benchmarks of a cell together. `blank`: gated ones of which not even the size is known.

    Of those nothing is known but that they can only add to the error, so with them every chance is an upper bound.
    """

    def __init__(self, policy: Policy, blank: int = 0) -> None:
        self.policy = policy
        self.blank = blank
        self._draws: dict[str, Floats] = {}

    def gated(self, rows: Sequence[Expected]) -> list[Expected]:
        """Those that take part in the verdict."""
        return [row for row in rows if row.decides(self.policy)]

    def standard_error(self, rows: Sequence[Expected]) -> float | None:
        """Of the pooled difference: √(Σ SE²)/m; none where no benchmark is gated."""
        gated = self.gated(rows)
        squares = sum(row.standard_error(self.policy.alpha) ** 2 for row in gated)
        return math.sqrt(squares) / (len(gated) + self.blank) if gated else None

    def chance(self, rows: Sequence[Expected], pooled_margin: float | None = None) -> float:
        """Probability that an equal system is CONSISTENT: the pooled mean non-inferior, no benchmark REGRESSED.

        By simulation (`DRAWS`, `SEED`); `pooled_margin` where it is not the policy's.
        """
        alpha, gated, pooled = self.policy.alpha, self.gated(rows), self.standard_error(rows)
        if pooled is None:
            return float(self.blank > 0)
        spread = np.array([row.spread for row in gated])
        found = np.column_stack([self._normal(row.key) for row in gated]) * spread
        margin = self.policy.pooled_margin_points / 100 if pooled_margin is None else pooled_margin
        cleared = found.sum(axis=1) / (len(gated) + self.blank) - _z(alpha) * pooled > -margin
        # Without spread nothing is lost, so nothing can look lost.
        p_values = scipy.special.ndtr(found / np.where(spread > 0, spread, np.inf))
        p_values[:, spread == 0] = 1.0
        errors = np.array([row.standard_error(alpha) for row in gated])
        open_ = found - _z(alpha) * errors <= -np.array([row.margin for row in gated])
        regressed = (open_ & rejected_by_holm(p_values, alpha)).any(axis=1)
        return float((cleared & ~regressed).mean())

    def escalated(self, rows: Sequence[Expected], max_repeats: int) -> list[Expected]:
        """`rows` with as many repeats as make the chance the policy's power, or as repeats can at most do.

        As the gate does it (`evaluation.escalation`): of the gated benchmarks the noisiest is asked once more.
        """
        found = {row.key: row for row in rows}
        asked = {row.key for row in self.gated(rows)}
        while self.chance(list(found.values())) < self.policy.power:
            left = [row for row in found.values() if row.key in asked and row.within > 0 and row.repeats < max_repeats]
            if not left:
                break
            worst = max(left, key=lambda row: row.standard_error(self.policy.alpha))
            found[worst.key] = worst._replace(repeats=worst.repeats + 1)
        return list(found.values())

    def _normal(self, key: str) -> Floats:
        """Standard normal draws of a benchmark, the same whichever others there are."""
        if key not in self._draws:
            self._draws[key] = np.random.default_rng([SEED, *key.encode()]).standard_normal(DRAWS)
        return self._draws[key]


def rejected_by_holm(p_values: Floats, alpha: float) -> NDArray[np.bool_]:
    """Which p-values of each row are below `alpha` after Holm's correction (`statistics.holm`, for many rows)."""
    ascending = np.sort(p_values, axis=1)
    stands = np.logical_and.accumulate(ascending * np.arange(ascending.shape[1], 0, -1) < alpha, axis=1)
    rejected: NDArray[np.bool_] = p_values <= np.where(stands, ascending, -1.0).max(axis=1, keepdims=True)
    return rejected


def smallest(low: int, high: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest number from `low` to `high` that is enough, if a number above one that is enough is so too."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _z(alpha: float) -> float:
    return float(scipy.special.ndtri(1 - alpha))
