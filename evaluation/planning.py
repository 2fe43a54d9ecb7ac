"""How much to ask: what a number of items can detect, and how many repeats decide (`required_items`: statistics).

Variances are of per-item differences of scores in [0, 1]; margins are shares.
"""

from __future__ import annotations

import math

from evaluation.statistics import check_share, check_variance, power_quantile


def _check_count(count: int, what: str) -> None:
    if count < 1:
        msg = f"{what} must be at least 1, not {count}"
        raise ValueError(msg)


def detectable_difference(discordance: float, n: int, alpha: float, power: float) -> float:
    """The smallest margin of which `n` items clear an equal system with probability `power`.

    (z(1 − alpha) + z(power))·√(ψ/n), the inverse of `required_items`: Miller 2024, arXiv 2411.00640 (power analysis).
    Above 1 nothing is detectable.
    """
    check_variance(discordance, "discordance")
    _check_count(n, "items")
    return power_quantile(alpha, power) * math.sqrt(discordance / n)


def variance_between_items(
    variance: float, discordance_within: float, candidate_repeats: int, baseline_repeats: int
) -> float:
    """The part of the observed `variance` of the differences of means over repeats that more repeats do not remove.

    Var − ψ_AA/2·(1/K_C + 1/K_B), at least 0: see `required_repeats`.
    """
    check_variance(variance, "variance")
    check_variance(discordance_within, "discordance")
    _check_count(candidate_repeats, "repeats")
    _check_count(baseline_repeats, "repeats")
    return max(0.0, variance - discordance_within / 2 * (1 / candidate_repeats + 1 / baseline_repeats))


def required_repeats(
    between: float,
    discordance_within: float,
    n: int,
    *,
    margin: float,
    alpha: float,
    power: float,
    baseline_repeats: int | None = None,
) -> int | None:
    """The candidate's repeats K_C that clear an equal system of a loss of `margin` with probability `power`.

    The smallest K_C ≥ 1 with (z(1 − alpha) + z(power))²·Var/n ≤ margin², None where no number suffices. Var = between +
    ψ_AA/2·(1/K_C + 1/K_B), as Var(x_A − x_B) + σ_A²/K_A + σ_B²/K_B of Miller 2024, arXiv 2411.00640 (resampling):
    `between` is the variance over the items of the true differences, ψ_AA the mean square between two repeats of one
    system, by which both are taken to vary. `baseline_repeats` is K_B; None: as many as the candidate's.
    """
    check_variance(between, "variance between items")
    check_variance(discordance_within, "discordance")
    check_share(margin, "margin")
    _check_count(n, "items")
    # What the repeats may leave, and what a single repeat of all that repeats leaves.
    room = n * (margin / power_quantile(alpha, power)) ** 2 - between
    single = discordance_within
    if baseline_repeats is not None:
        _check_count(baseline_repeats, "repeats")
        room -= discordance_within / 2 / baseline_repeats
        single = discordance_within / 2
    if single <= room:
        return 1
    return math.ceil(single / room) if room > 0 else None
