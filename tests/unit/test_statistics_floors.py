"""How much runs differ is measured without bias, and a candidate at the floor raises no alarm."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation.floors import discordance_between, discordance_within, excess_p_value

relaxed = settings(deadline=None, max_examples=60)

tables = st.tuples(st.integers(1, 30), st.integers(2, 6), st.integers(0, 10_000))


@given(tables)
@relaxed
def test_right_or_wrong_repeats_are_the_formula(shape: tuple[int, int, int]) -> None:
    n, k, seed = shape
    scores = np.random.default_rng(seed).integers(0, 2, (n, k)).astype(float)
    p = scores.mean(axis=1)
    assert discordance_within(scores) == pytest.approx(2 * (k / (k - 1) * p * (1 - p)).mean(), rel=1e-9, abs=1e-12)


@given(tables)
@relaxed
def test_it_is_the_mean_square_over_all_pairs_of_repeats(shape: tuple[int, int, int]) -> None:
    n, k, seed = shape
    rng = np.random.default_rng(seed)
    a, b = rng.random((n, k)), rng.random((n, k + 1))
    pairs = [np.square(a[:, i] - a[:, j]).mean() for i in range(k) for j in range(k) if i != j]
    assert discordance_within(a) == pytest.approx(np.mean(pairs), rel=1e-9)
    across = [np.square(a[:, i] - b[:, j]).mean() for i in range(k) for j in range(k + 1)]
    assert discordance_between(a, b) == pytest.approx(np.mean(across), rel=1e-9)


def test_single_runs_of_right_or_wrong_answers_differ_by_the_share_of_flips() -> None:
    assert discordance_between([1, 1, 0, 0], [1, 0, 0, 1]) == 0.5
    assert discordance_between([1, 0], [0, 1]) == 1.0
    assert discordance_between([0.5], [0.5]) == 0.0
    assert discordance_within([[1, 1], [0, 0]]) == 0.0
    assert discordance_within([[1, 0]] * 9) == 1.0


def test_another_run_of_the_same_system_is_at_the_floor() -> None:
    rng = np.random.default_rng(3)
    p = rng.beta(0.3, 0.3, 20_000)[:, np.newaxis]
    a, b = (rng.random((p.size, k)) < p for k in (4, 2))
    truth = float(2 * (p * (1 - p)).mean())
    assert discordance_within(a) == pytest.approx(truth, rel=0.03)
    assert discordance_within(b) == pytest.approx(truth, rel=0.05)
    assert discordance_between(a, b) == pytest.approx(truth, rel=0.03)


counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, counts)
@relaxed
def test_excess_agrees_with_fishers_exact_test(ours: tuple[int, int], floor: tuple[int, int]) -> None:
    (k, n), (floor_k, floor_n) = ours, floor
    table = [[k, n - k], [floor_k, floor_n - floor_k]]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert excess_p_value(k, n, floor_k, floor_n) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_excess_at_the_ends() -> None:
    assert excess_p_value(0, 300, 0, 300) == 1.0
    assert excess_p_value(0, 1, 5, 9) == 1.0
    assert excess_p_value(300, 300, 300, 300) == 1.0
    assert excess_p_value(300, 300, 0, 300) < 1e-100
    assert excess_p_value(5, 300, 0, 300) == pytest.approx(math.comb(300, 5) / math.comb(600, 5))
    assert excess_p_value(900, 14_042, 700, 14_042) < 1e-6


@pytest.mark.parametrize("rate", [0.002, 0.03, 0.2])
def test_equal_rates_raise_few_alarms(rate: float) -> None:
    rng = np.random.default_rng(4)
    draws = rng.binomial(400, rate, (2000, 2))
    alarms = np.mean([excess_p_value(int(k), 400, int(floor), 400) <= 0.05 for k, floor in draws])
    assert alarms <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_a_candidate_that_flips_as_the_baseline_does_raises_few_alarms_on_the_same_items() -> None:
    rng = np.random.default_rng(5)
    p = rng.beta(0.2, 0.2, 400)
    # Two repeats of the baseline and one of the candidate: both counts of flips share the first repeat.
    first, second, candidate = (rng.random((2000, p.size)) < p for _ in range(3))
    flips, floor = (first != candidate).sum(axis=1), (first != second).sum(axis=1)
    alarms = np.mean([excess_p_value(int(k), 400, int(f), 400) <= 0.05 for k, f in zip(flips, floor, strict=True)])
    assert alarms <= 0.05


@pytest.mark.parametrize(
    "call",
    [
        lambda: discordance_within([[1.0], [0.0]]),
        lambda: discordance_within([1.0, 0.0]),
        lambda: discordance_within([[1.0, math.nan]]),
        lambda: discordance_within([[1.0, 0.0], [1.0]]),
        lambda: discordance_within([[1.0, 2.0]]),
        lambda: discordance_within(np.zeros((0, 2))),
        lambda: discordance_within(np.zeros((2, 2, 2))),
        lambda: discordance_between([1.0, 0.0], [1.0]),
        lambda: discordance_between([math.nan], [1.0]),
        lambda: discordance_between([], []),
        lambda: excess_p_value(-1, 10, 0, 10),
        lambda: excess_p_value(11, 10, 0, 10),
        lambda: excess_p_value(0, 10, 11, 10),
        lambda: excess_p_value(0, 0, 0, 10),
        lambda: excess_p_value(0, 10, 0, 0),
    ],
)
def test_meaningless_input_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()
