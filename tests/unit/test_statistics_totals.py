"""Findings from totals agree with independent implementations and with what the items would have said."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from evaluation.statistics import allow_for_unseen, loss_p_value, paired_difference, t_loss_p_value
from evaluation.totals import difference_from_summary, unpaired_difference, unpaired_loss_p_value

relaxed = settings(deadline=None, max_examples=60)

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, counts, st.sampled_from((0.01, 0.05, 0.2)))
@relaxed
def test_unpaired_difference_agrees_with_statsmodels(b: tuple[int, int], c: tuple[int, int], alpha: float) -> None:
    found = unpaired_difference(b[0] / b[1], b[1], c[0] / c[1], c[1], alpha)
    oracle = confint_proportions_2indep(*c, *b, method="wald", compare="diff", alpha=2 * alpha)
    assert (found.lower, found.upper) == pytest.approx(oracle, rel=1e-9, abs=1e-12)
    assert (found.n, found.units) == (c[1], min(b[1], c[1]))


@given(counts, counts)
@relaxed
def test_unpaired_p_value_agrees_with_statsmodels(b: tuple[int, int], c: tuple[int, int]) -> None:
    found = unpaired_loss_p_value(b[0] / b[1], b[1], c[0] / c[1], c[1])
    if b[0] / b[1] == c[0] / c[1] in (0, 1):
        assert found == 1.0
        return
    oracle = proportions_ztest([c[0], b[0]], [c[1], b[1]], alternative="smaller")[1]
    assert found == pytest.approx(oracle, rel=1e-9, abs=1e-12)


def test_perfect_scores_do_not_give_certainty() -> None:
    found = unpaired_difference(1.0, 300, 1.0, 40, 0.05)
    assert found.standard_error == 0.0
    assert allow_for_unseen(found, 0.05).lower == pytest.approx(-(1 - 0.05 ** (1 / 40)))


def test_one_item_each_shows_no_loss() -> None:
    assert unpaired_loss_p_value(1.0, 1, 0.0, 1) > 0.05
    assert unpaired_loss_p_value(1.0, 500, 0.0, 500) < 1e-100


@given(st.lists(st.integers(-100, 100), min_size=2, max_size=60).map(lambda d: np.array(d) / 100))
@relaxed
def test_a_summary_says_what_its_items_say(d: np.ndarray) -> None:
    found = difference_from_summary(float(d.mean()), float(np.square(d).mean()), d.size, 0.05)
    items = paired_difference(d, 0.05)
    # The discordance is over n, the standard deviation over n - 1.
    assert found.standard_error == pytest.approx(items.standard_error * math.sqrt((d.size - 1) / d.size), abs=1e-7)
    assert (found.n, found.units) == (d.size, d.size)
    assert found.upper - found.mean == pytest.approx(found.standard_error * stats.t.ppf(0.95, d.size - 1), abs=1e-12)


def test_the_summary_p_value_is_the_t_test_of_many_items() -> None:
    d = np.clip(np.random.default_rng(2).normal(-0.01, 0.2, 5000), -1, 1)
    found = difference_from_summary(float(d.mean()), float(np.square(d).mean()), d.size, 0.05)
    assert t_loss_p_value(found) == pytest.approx(loss_p_value(d, False), rel=0.01)


@pytest.mark.parametrize(
    ("mean", "discordance", "n", "lower", "upper"),
    [
        (-0.0172, 0.281, 756, -0.049, 0.0145),
        (-0.0278, 0.086, 900, -0.044, -0.012),
        (-0.014, 0.159, 1000, -0.035, 0.007),
    ],
)
def test_published_scores_give_their_illustrative_intervals(
    mean: float, discordance: float, n: int, lower: float, upper: float
) -> None:
    """MUSR of MiniMax-M2, CMMMU of MiniCPM-V-4 and LiveBench of Qwen3-8B, with the discordance of published pairs."""
    found = difference_from_summary(mean, discordance, n, 0.05)
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=0.0006)


def test_summaries_without_variance() -> None:
    assert difference_from_summary(0.0, 0.0, 300, 0.05) == (300, 0.0, 0.0, 0.0, 0.0, 300)
    # 0.1² is not exactly 0.01 in floating point.
    assert difference_from_summary(-0.1, 0.01, 9, 0.05).standard_error == 0.0
    assert difference_from_summary(-1.0, 1.0, 5, 0.05).lower == -1.0
    assert difference_from_summary(0.5, 0.25, 1, 0.05) == (1, 0.5, 1.0, -1.0, 1.0, 1)
    assert t_loss_p_value(difference_from_summary(-1.0, 1.0, 5, 0.05)) == 0.5**5


@pytest.mark.parametrize(
    "call",
    [
        lambda: unpaired_difference(math.nan, 10, 0.5, 10, 0.05),
        lambda: unpaired_difference(0.5, 0, 0.5, 10, 0.05),
        lambda: unpaired_difference(0.5, 10, 50.0, 10, 0.05),
        lambda: unpaired_loss_p_value(0.5, 10, -0.1, 10),
        lambda: unpaired_loss_p_value(0.5, 10, 0.5, 0),
        lambda: difference_from_summary(0.3, 0.08, 100, 0.05),
        lambda: difference_from_summary(math.nan, 0.08, 100, 0.05),
        lambda: difference_from_summary(0.1, math.nan, 100, 0.05),
        lambda: difference_from_summary(0.0, 0.1, 0, 0.05),
        lambda: difference_from_summary(-2.0, 4.0, 10, 0.05),
    ],
)
def test_meaningless_input_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()
