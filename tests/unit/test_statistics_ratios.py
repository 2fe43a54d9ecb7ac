"""Intervals of ratios agree with independent implementations, on whatever scale the quantities come."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from evaluation.ratios import coefficient_of_variation, log_length_shift, log_ratio_interval

relaxed = settings(deadline=None, max_examples=60)

speeds = st.lists(st.integers(100, 9000), min_size=2, max_size=12)


@given(speeds, speeds, st.sampled_from((0.01, 0.05)))
@relaxed
def test_speed_ratio_agrees_with_statsmodels(ours: list[int], theirs: list[int], alpha: float) -> None:
    found = log_ratio_interval(ours, theirs, alpha)
    assert found.ratio == pytest.approx(stats.gmean(ours) / stats.gmean(theirs), rel=1e-9)
    if np.ptp(ours) == np.ptp(theirs) == 0:
        assert found.lower == found.upper == found.ratio
        return
    means = CompareMeans(DescrStatsW(np.log(ours)), DescrStatsW(np.log(theirs)))
    oracle = means.tconfint_diff(alpha=2 * alpha, usevar="unequal")
    assert (math.log(found.lower), math.log(found.upper)) == pytest.approx(oracle, rel=1e-9, abs=1e-9)


def test_a_speed_ratio_does_not_depend_on_the_unit() -> None:
    ours, theirs = np.array([90.0, 95.0, 91.0]), np.array([100.0, 101.0])
    assert log_ratio_interval(ours / 3600, theirs / 3600, 0.05) == pytest.approx(log_ratio_interval(ours, theirs, 0.05))


def test_the_lower_bound_of_speed_holds_as_often_as_promised() -> None:
    rng = np.random.default_rng(9)
    ours, theirs = 80 * np.exp(rng.normal(0, 0.06, (500, 5))), 100 * np.exp(rng.normal(0, 0.01, (500, 5)))
    passed = np.mean([log_ratio_interval(c, b, 0.05).lower > 0.8 for c, b in zip(ours, theirs, strict=True)])
    assert passed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)


def test_coefficient_of_variation() -> None:
    assert coefficient_of_variation([95, 100, 105]) == pytest.approx(stats.variation([95, 100, 105], ddof=1))
    assert coefficient_of_variation([7, 7]) == 0.0


lengths = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 4000)), min_size=2, max_size=60)


@given(lengths, st.sampled_from((0.01, 0.05)))
@relaxed
def test_length_shift_agrees_with_statsmodels(items: list[tuple[int, int]], alpha: float) -> None:
    ours, theirs = np.array(items).T
    found = log_length_shift(ours, theirs, alpha)
    logs = DescrStatsW(np.log((ours + 1) / (theirs + 1)))
    assert math.log(found.ratio) == pytest.approx(logs.mean, rel=1e-9, abs=1e-12)
    if logs.std_mean > 1e-12:
        oracle = logs.tconfint_mean(alpha=2 * alpha)
        assert (math.log(found.lower), math.log(found.upper)) == pytest.approx(oracle, rel=1e-9, abs=1e-9)


def test_lengths_without_variance_and_of_one_item() -> None:
    assert log_length_shift([0, 9], [0, 9], 0.05) == (1.0, 1.0, 1.0)
    assert log_length_shift([19] * 3, [9] * 3, 0.05) == pytest.approx((2.0, 2.0, 2.0))
    assert log_length_shift([19], [9], 0.05) == pytest.approx((2.0, 0.0, math.inf))


def test_pairing_sees_a_shift_that_the_lengths_themselves_hide() -> None:
    rng = np.random.default_rng(10)
    theirs = np.exp(rng.normal(5, 1.5, 300))
    found = log_length_shift(theirs * np.exp(rng.normal(math.log(1.15), 0.2, 300)), theirs, 0.05)
    assert 1.1 < found.lower < 1.15 < found.upper


@pytest.mark.parametrize(
    "call",
    [
        lambda: log_ratio_interval([1.0], [1.0, 2.0], 0.05),
        lambda: log_ratio_interval([1.0, 2.0], [1.0], 0.05),
        lambda: log_ratio_interval([0.0, 1.0], [1.0, 2.0], 0.05),
        lambda: log_ratio_interval([1.0, 2.0], [-1.0, 2.0], 0.05),
        lambda: log_ratio_interval([1.0, math.nan], [1.0, 2.0], 0.05),
        lambda: log_ratio_interval([], [1.0, 2.0], 0.05),
        lambda: coefficient_of_variation([1.0]),
        lambda: coefficient_of_variation([0.0, 1.0]),
        lambda: log_length_shift([1, 2], [1], 0.05),
        lambda: log_length_shift([-1, 2], [1, 2], 0.05),
        lambda: log_length_shift([math.nan, 2], [1, 2], 0.05),
        lambda: log_length_shift([], [], 0.05),
    ],
)
def test_meaningless_input_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()
