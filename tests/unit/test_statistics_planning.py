"""Plans keep what they promise: the margin is detected, the repeats suffice, and fewer do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation.planning import detectable_difference, required_repeats, variance_between_items
from evaluation.statistics import paired_difference, required_items

relaxed = settings(deadline=None, max_examples=100)


@given(st.floats(0.001, 1), st.floats(0.005, 0.2))
@relaxed
def test_detectable_difference_is_the_inverse_of_required_items(discordance: float, margin: float) -> None:
    n = required_items(discordance, margin, 0.05, 0.8)
    assert detectable_difference(discordance, n, 0.05, 0.8) <= margin * (1 + 1e-9)
    if n > 1:
        assert detectable_difference(discordance, n - 1, 0.05, 0.8) >= margin * (1 - 1e-9)


def test_nothing_differs_so_everything_is_detectable() -> None:
    assert detectable_difference(0.0, 1, 0.05, 0.8) == 0.0


@given(
    between=st.floats(0, 0.2),
    within=st.floats(0, 0.5),
    n=st.integers(1, 3000),
    margin=st.floats(0.005, 0.1),
    baseline=st.none() | st.integers(1, 8),
)
@relaxed
def test_repeats_are_the_fewest_that_suffice(
    between: float, within: float, n: int, margin: float, baseline: int | None
) -> None:
    def enough(repeats: float, slack: float) -> bool:
        variance = between + within / 2 * (1 / repeats + 1 / (baseline or repeats))
        z = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)
        return bool(z**2 * variance / n <= margin**2 * (1 + slack))

    found = required_repeats(between, within, n, margin=margin, alpha=0.05, power=0.8, baseline_repeats=baseline)
    if found is None:
        assert not enough(10**9, -1e-7)
        return
    assert enough(found, 1e-9)
    assert found == 1 or not enough(found - 1, -1e-9)


def test_one_baseline_limits_what_repeats_of_the_candidate_bring() -> None:
    def repeats(n: int, baseline: int | None) -> int | None:
        return required_repeats(0.0, 0.25, n, margin=0.02, alpha=0.05, power=0.8, baseline_repeats=baseline)

    assert [repeats(n, None) for n in (3900, 2000, 1000)] == [1, 2, 4]
    assert [repeats(n, 1) for n in (3900, 2000, 1900)] == [1, 29, None]
    assert repeats(1000, 4) == 4


def test_planned_repeats_give_the_power_they_promise() -> None:
    n, rng = 600, np.random.default_rng(6)
    p = rng.choice([0.05, 0.5, 0.95], n, p=[0.3, 0.4, 0.3])
    within = float(2 * (p * (1 - p)).mean())
    k = required_repeats(0.0, within, n, margin=0.03, alpha=0.05, power=0.8, baseline_repeats=8)
    assert k is not None
    assert k > 1
    ours, theirs = rng.binomial(k, p, (1500, n)) / k, rng.binomial(8, p, (1500, n)) / 8
    cleared = np.mean([paired_difference(d, 0.05).lower > -0.03 for d in ours - theirs])
    assert 0.78 <= cleared <= 0.9


def test_what_repeats_do_not_remove_is_found_again() -> None:
    rng = np.random.default_rng(8)
    n, within = 50_000, 0.1
    true, noise = rng.normal(0, 0.2, n), math.sqrt(within / 2)
    d = true + rng.normal(0, noise, (3, n)).mean(axis=0) - rng.normal(0, noise, (2, n)).mean(axis=0)
    assert variance_between_items(float(d.var()), within, 3, 2) == pytest.approx(0.04, rel=0.05)
    assert variance_between_items(0.01, within, 1, 1) == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: detectable_difference(math.nan, 10, 0.05, 0.8),
        lambda: detectable_difference(0.1, 0, 0.05, 0.8),
        lambda: detectable_difference(0.1, 10, 0.8, 0.05),
        lambda: required_repeats(-0.1, 0.1, 10, margin=0.02, alpha=0.05, power=0.8),
        lambda: required_repeats(0.1, math.nan, 10, margin=0.02, alpha=0.05, power=0.8),
        lambda: required_repeats(0.1, 0.1, 0, margin=0.02, alpha=0.05, power=0.8),
        lambda: required_repeats(0.1, 0.1, 10, margin=0.0, alpha=0.05, power=0.8),
        lambda: required_repeats(0.1, 0.1, 10, margin=0.02, alpha=0.05, power=0.8, baseline_repeats=0),
        lambda: variance_between_items(-0.1, 0.1, 1, 1),
        lambda: variance_between_items(0.1, 0.1, 0, 1),
        lambda: variance_between_items(0.1, 0.1, 1, 0),
    ],
)
def test_meaningless_input_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()
