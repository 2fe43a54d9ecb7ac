"""The statistics agree with independent implementations, also where input is degenerate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from evaluation.statistics import (
    Floats,
    allow_for_unseen,
    holm,
    loss_p_value,
    mcnemar_exact,
    paired_difference,
    pooled_difference,
    required_items,
    score_interval,
    t_loss_p_value,
)

# The first call loads scipy.stats, which takes longer than Hypothesis grants a test.
relaxed = settings(deadline=None, max_examples=60)

ALPHAS = (0.01, 0.05, 0.2)

graded_differences = st.lists(st.integers(-100, 100), min_size=2, max_size=60).map(lambda d: np.array(d) / 100)
p_value_lists = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def near(value: Any) -> Any:
    """`value` within rounding; the absolute bound only lets 0 be met."""
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def binary(lost: int, won: int, ties: int) -> Floats:
    return np.repeat([-1.0, 1.0, 0.0], [lost, won, ties])


def graded(n: int, shift: float = 0.0, seed: int = 1) -> Floats:
    return np.clip(np.random.default_rng(seed).normal(shift, 0.2, n), -1, 1)


@given(graded_differences, st.sampled_from(ALPHAS))
@relaxed
def test_paired_difference_agrees_with_statsmodels(d: Floats, alpha: float) -> None:
    found, oracle = paired_difference(d, alpha), DescrStatsW(d)
    assert found.n == d.size
    assert found.mean == near(oracle.mean)
    if np.ptp(d) > 0:
        assert found.standard_error == near(oracle.std_mean)
        assert (found.lower, found.upper) == near(oracle.tconfint_mean(alpha=2 * alpha))


def test_paired_difference_of_one_item_excludes_nothing() -> None:
    assert paired_difference([0.5], 0.05) == (1, 0.5, 1.0, -1.0, 1.0, 1)


@pytest.mark.parametrize("value", [0.0, -1.0, 1.0, 0.1])
def test_paired_difference_without_variance_is_a_point(value: float) -> None:
    assert paired_difference([value] * 300, 0.05) == (300, value, 0.0, value, value, 300)


@pytest.mark.parametrize("n", [2, 250, 14_042])
def test_equal_answers_do_not_give_certainty(n: int) -> None:
    found = allow_for_unseen(paired_difference(np.zeros(n), 0.05), 0.05)
    unseen = proportion_confint(0, n, alpha=0.1, method="beta")[1]
    assert (found.mean, found.lower, found.upper) == near((0.0, -unseen, unseen))
    assert found.upper == near(found.standard_error * stats.t.ppf(0.95, n - 1))


@pytest.mark.parametrize("n", [200, 250, 1000])
def test_losing_an_item_never_improves_the_bound(n: int) -> None:
    bounds = [
        allow_for_unseen(paired_difference([-1.0] * lost + [0.0] * (n - lost), 0.05), 0.05).lower for lost in range(30)
    ]
    assert bounds == sorted(bounds, reverse=True)


def test_many_differences_keep_their_t_interval() -> None:
    found = paired_difference([1.0, -1.0] * 20 + [0.0] * 960, 0.05)
    assert allow_for_unseen(found, 0.05) == found


clustered_differences = st.lists(
    st.tuples(st.integers(-100, 100).map(lambda d: d / 100), st.integers(0, 6)), min_size=3, max_size=60
)


@given(clustered_differences, st.sampled_from(ALPHAS))
@relaxed
def test_clustered_error_agrees_with_statsmodels(items: list[tuple[float, int]], alpha: float) -> None:
    d, clusters = np.array([d for d, _ in items]), [cluster for _, cluster in items]
    units = len(set(clusters))
    found = paired_difference(d, alpha, clusters)
    assert (found.n, found.units) == (d.size, units)
    if units == 1 or np.ptp(d) == 0 or found.standard_error == 0:
        return
    oracle = OLS(d, np.ones(d.size)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    # With use_correction, its default, statsmodels scales by C/(C - 1) · (n - 1)/(n - k), and k is 1 here.
    assert found.mean == near(oracle.params[0])
    assert found.standard_error == near(oracle.bse[0])
    half = stats.t.ppf(1 - alpha, units - 1) * oracle.bse[0]
    assert (found.lower, found.upper) == near((oracle.params[0] - half, oracle.params[0] + half))


@given(graded_differences, st.booleans())
@relaxed
def test_clusters_of_one_item_change_nothing(d: Floats, single: bool) -> None:
    own = [f"passage {number}" for number in range(d.size)]
    assert paired_difference(d, 0.05, own) == paired_difference(d, 0.05)
    assert loss_p_value(d, single, own) == loss_p_value(d, single)


def test_one_cluster_excludes_nothing() -> None:
    found = paired_difference([-1.0, -1.0, 0.0, 0.0], 0.05, ["a"] * 4)
    assert found == (4, -0.5, 1.0, -1.0, 1.0, 1)
    assert allow_for_unseen(found, 0.05) == found
    assert t_loss_p_value(found) == loss_p_value([-1.0, -1.0, 0.0, 0.0], True, ["a"] * 4) == 0.5


def test_copies_of_items_are_not_more_items() -> None:
    d = graded(250, -0.01)
    copies, owner = np.tile(d, 3), [*range(250)] * 3
    once, thrice = paired_difference(d, 0.05), paired_difference(copies, 0.05, owner)
    assert thrice.n == 750
    assert thrice[1:] == near(once[1:])
    assert loss_p_value(copies, False, owner) == near(loss_p_value(d, False))


def test_differences_that_cancel_within_each_cluster_have_no_spread_between_them() -> None:
    # 0.1 + 0.2 - 0.3 is not exactly 0 in floating point.
    d, clusters = [-0.1] * 80 + [-0.2] * 80 + [0.3] * 80, [*range(80)] * 3
    found = paired_difference(d, 0.05, clusters)
    assert found.standard_error == 0.0
    assert loss_p_value(d, False, clusters) == 1.0
    assert allow_for_unseen(found, 0.05).upper == near(proportion_confint(0, 80, alpha=0.1, method="beta")[1])


def test_equal_answers_in_clusters_leave_more_unseen() -> None:
    found = allow_for_unseen(paired_difference(np.zeros(300), 0.05, [*range(100)] * 3), 0.05)
    assert found.upper == near(proportion_confint(0, 100, alpha=0.1, method="beta")[1])
    assert found.upper == near(found.standard_error * stats.t.ppf(0.95, 99))


def clustered_sample(rng: np.random.Generator, clusters: int, mean: float) -> tuple[Floats, list[int]]:
    """Differences of right-or-wrong answers; four fifths of the items of a passage share its outcome."""
    sizes = rng.integers(1, 8, clusters)
    owner = np.repeat(range(clusters), sizes)
    lost_won = [0.1 - mean / 2, 0.1 + mean / 2, 0.8]
    outcomes = rng.choice([-1.0, 1.0, 0.0], clusters, p=lost_won)[owner]
    own = rng.choice([-1.0, 1.0, 0.0], owner.size, p=lost_won)
    return np.where(rng.random(owner.size) < 0.8, outcomes, own), owner.tolist()


def test_the_clustered_interval_covers_the_truth_and_the_plain_one_does_not() -> None:
    rng = np.random.default_rng(11)
    samples = [clustered_sample(rng, 100, -0.02) for _ in range(1000)]
    intervals = [paired_difference(d, 0.05, clusters) for d, clusters in samples]
    covered = np.mean([found.lower <= -0.02 <= found.upper for found in intervals])
    plain = [paired_difference(d, 0.05) for d, _ in samples]
    # 0.9 is promised; the standard error of 1000 draws is 0.01.
    assert covered == pytest.approx(0.9, abs=0.03)
    assert np.mean([found.lower <= -0.02 <= found.upper for found in plain]) < 0.8


@pytest.mark.parametrize(("clusters", "draws"), [(250, 1000), (10, 150)])
def test_equal_systems_rarely_lose_clusters(clusters: int, draws: int) -> None:
    rng = np.random.default_rng(12)
    samples = [clustered_sample(rng, clusters, 0.0) for _ in range(draws)]
    # McNemar's test is what would be taken for these answers without clusters.
    alarms = [loss_p_value(d, True, owner) <= 0.05 for d, owner in samples]
    assert np.mean(alarms) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize("single", [True, False])
def test_few_clusters_are_flipped_as_a_whole(single: bool) -> None:
    d, clusters = [-0.5, -0.25, 0.25, -1.0, -0.5, 0.0, 1.0, 0.5], list("aabbccdd")
    sums = np.array([-0.75, -0.75, -0.5, 1.5])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    expected = float(((signs * sums[:, None]).sum(axis=0) <= sums.sum() + 1e-12).mean())
    assert loss_p_value(d, single, clusters) == near(expected)


def test_clusters_all_lost_are_a_sign_test() -> None:
    assert loss_p_value([-1.0] * 30, True, [*range(10)] * 3) == near(0.5**10)
    assert loss_p_value([-1.0] * 600, True, [*range(300)] * 2) == near(0.5**300)


def test_t_loss_p_value_is_the_t_test() -> None:
    d = graded(300, -0.01)
    assert t_loss_p_value(paired_difference(d, 0.05)) == near(stats.ttest_1samp(d, 0, alternative="less").pvalue)
    assert t_loss_p_value(paired_difference([0.0] * 9, 0.05)) == 1.0
    assert t_loss_p_value(paired_difference([-0.1] * 9, 0.05)) == 0.5**9


@given(st.integers(0, 400), st.integers(0, 400))
@relaxed
def test_mcnemar_agrees_with_scipy_and_statsmodels(lost: int, won: int) -> None:
    found = mcnemar_exact(lost, won)
    if lost + won == 0:
        assert found == 1.0
        return
    assert found == near(stats.binomtest(lost, lost + won, 0.5, alternative="greater").pvalue)
    if lost > won:
        two_sided = mcnemar([[0, lost], [won, 0]], exact=True).pvalue
        assert found == near(two_sided / 2)


def test_mcnemar_where_every_item_was_lost() -> None:
    assert mcnemar_exact(30, 0) == near(0.5**30)
    assert mcnemar_exact(0, 30) == 1.0


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 500))
@relaxed
def test_binary_loss_is_mcnemar_whatever_the_ties(lost: int, won: int, ties: int) -> None:
    assert loss_p_value(binary(lost, won, ties), binary_single_repeat=True) == mcnemar_exact(lost, won)


@pytest.mark.parametrize(("n", "shift"), [(200, 0.0), (200, -0.03), (1000, -0.01), (1000, 0.02)])
def test_graded_loss_of_many_items_is_the_t_test(n: int, shift: float) -> None:
    d = graded(n, shift)
    found = loss_p_value(d, binary_single_repeat=False)
    assert found == near(stats.ttest_1samp(d, 0, alternative="less").pvalue)
    assert found == near(DescrStatsW(d).ttest_mean(0, alternative="smaller")[1])


def test_graded_loss_of_few_items_enumerates_all_sign_flips() -> None:
    d = graded(9, -0.1, seed=4)
    signs = np.array(np.meshgrid(*[[-1, 1]] * d.size)).reshape(d.size, -1)
    expected = float(((signs * d[:, None]).mean(axis=0) <= d.mean() + 1e-12).mean())
    assert loss_p_value(d, binary_single_repeat=False) == near(expected)


def test_drawn_sign_flips_are_close_to_t_and_do_not_depend_on_the_order() -> None:
    d = graded(120, -0.02, seed=3)
    p = loss_p_value(d, binary_single_repeat=False)
    assert p == pytest.approx(stats.ttest_1samp(d, 0, alternative="less").pvalue, abs=0.02)
    assert loss_p_value(np.random.default_rng(9).permutation(d), binary_single_repeat=False) == p


@pytest.mark.parametrize("n", [1, 5, 199, 200, 2000])
@pytest.mark.parametrize("single", [True, False])
def test_loss_without_variance(n: int, single: bool) -> None:
    assert loss_p_value(np.zeros(n), single) == 1.0
    assert loss_p_value(np.full(n, 0.25), single) == 1.0
    assert loss_p_value(np.full(n, -0.25), single) == near(0.5**n)


@given(p_value_lists)
@relaxed
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    # It collects garbage in each call, which takes long beside other tests.
    with patch("gc.collect"):
        oracle = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == near(oracle)


def test_holm_of_ties_and_extremes() -> None:
    assert holm([0.01, 0.01, 0.01]).tolist() == pytest.approx([0.03] * 3)
    assert holm([0.2]).tolist() == [0.2]
    assert holm([1.0, 0.0]).tolist() == [1.0, 0.0]


def test_pooled_difference_is_the_formula() -> None:
    means, errors = [0.01, -0.02, 0.03], [0.01, 0.02, 0.005]
    found = pooled_difference(means, errors, 0.05)
    assert found.mean == near(np.mean(means))
    assert found.standard_error == near(math.sqrt(sum(e * e for e in errors)) / 3)
    assert found.lower == near(found.mean - stats.norm.ppf(0.95) * found.standard_error)
    assert pooled_difference([0.0], [0.0], 0.05) == (0.0, 0.0, 0.0)


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from(ALPHAS))
@relaxed
def test_binary_score_interval_is_wilsons(right: int, wrong: int, alpha: float) -> None:
    if right + wrong == 0:
        return
    scores = np.repeat([1.0, 0.0], [right, wrong])
    oracle = proportion_confint(right, right + wrong, alpha=alpha, method="wilson")
    assert score_interval(scores, alpha) == near(oracle)


@given(st.lists(st.integers(0, 100), min_size=2, max_size=60).map(lambda s: np.array([*s, 50]) / 100))
@relaxed
def test_graded_score_interval_is_the_cut_t_interval(scores: Floats) -> None:
    low, high = DescrStatsW(scores).tconfint_mean(alpha=0.05)
    if np.ptp(scores) == 0:
        low = high = scores[0]
    assert score_interval(scores, 0.05) == near((max(0, low), min(1, high)))


def test_score_interval_of_one_item() -> None:
    assert score_interval([0.5], 0.05) == (0.0, 1.0)
    assert score_interval([1.0], 0.05) == near(proportion_confint(1, 1, alpha=0.05, method="wilson"))


@pytest.mark.parametrize(("discordance", "items"), [(0.02, 310), (0.06, 928), (0.25, 3865), (0.0, 1)])
def test_required_items_at_two_points(discordance: float, items: int) -> None:
    assert required_items(discordance, margin=0.02, alpha=0.05, power=0.8) == items


def test_required_items_give_the_power_they_promise() -> None:
    n = required_items(0.05, margin=0.02, alpha=0.05, power=0.8)
    rng = np.random.default_rng(7)
    lost, won, _ = rng.multinomial(n, [0.025, 0.025, 0.95], size=4000).T
    mean = (won - lost) / n
    error = np.sqrt(((lost + won) / n - mean**2) / (n - 1))
    cleared = float((mean - stats.t.ppf(0.95, n - 1) * error > -0.02).mean())
    assert cleared == pytest.approx(0.8, abs=0.03)


nan = math.nan


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired_difference([0.0, nan], 0.05),
        lambda: paired_difference([], 0.05),
        lambda: paired_difference([2.0, 0.0], 0.05),
        lambda: paired_difference([[0.0], [0.1]], 0.05),
        lambda: paired_difference([0.0, 0.1], 0.05, ["a"]),
        lambda: loss_p_value([0.0, nan], True),
        lambda: loss_p_value([0.0, 0.1], False, ["a", "a", "b"]),
        lambda: loss_p_value([nan] * 300, False),
        lambda: holm([0.5, nan]),
        lambda: holm([1.5]),
        lambda: holm([]),
        lambda: pooled_difference([nan], [0.1], 0.05),
        lambda: pooled_difference([0.1], [nan], 0.05),
        lambda: pooled_difference([0.1, 0.2], [0.1], 0.05),
        lambda: pooled_difference([0.1], [-0.1], 0.05),
        lambda: score_interval([nan, 1.0], 0.05),
        lambda: score_interval([1.5], 0.05),
        lambda: mcnemar_exact(-1, 2),
        lambda: required_items(nan, 0.02, 0.05, 0.8),
        lambda: required_items(-0.1, 0.02, 0.05, 0.8),
        lambda: required_items(0.1, 0.0, 0.05, 0.8),
        lambda: required_items(0.1, nan, 0.05, 0.8),
        lambda: required_items(0.1, 0.02, 0.0, 0.8),
        lambda: required_items(0.1, 0.02, 0.05, 1.0),
        lambda: required_items(0.1, 0.02, 0.3, 0.2),
    ],
)
def test_meaningless_input_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()
