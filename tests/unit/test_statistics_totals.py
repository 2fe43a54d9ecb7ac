"""Findings from totals agree with independent implementations and with what the items would have said."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from evaluation.statistics import allow_for_unseen
from evaluation.totals import unpaired_difference, unpaired_loss_p_value

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


@pytest.mark.parametrize(
    "call",
    [
        lambda: unpaired_difference(math.nan, 10, 0.5, 10, 0.05),
        lambda: unpaired_difference(0.5, 0, 0.5, 10, 0.05),
        lambda: unpaired_difference(0.5, 10, 50.0, 10, 0.05),
        lambda: unpaired_loss_p_value(0.5, 10, -0.1, 10),
        lambda: unpaired_loss_p_value(0.5, 10, 0.5, 0),
    ],
)
def test_meaningless_input_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()
