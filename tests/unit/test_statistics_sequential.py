"""Looks see the benchmark in small, stop what is clear, and do not clear a loss more often than one look would."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation.sequential import looks, pooled_standard_error_limit, stop_at_look, stopping_order
from evaluation.statistics import Floats, allow_for_unseen, paired_difference, pooled_difference

relaxed = settings(deadline=None, max_examples=60)
USUAL: dict[str, Any] = {"margin": 0.02, "interim_z": 3, "max_standard_error": 1, "alpha": 0.05, "benchmarks": 1}


def stop(d: Sequence[float] | Floats, limit: float = 1.0, clusters: Sequence[int] | None = None) -> str | None:
    return stop_at_look(d, **USUAL | {"max_standard_error": limit}, clusters=clusters)


def differences(rng: np.random.Generator, n: int, mean: float, discordance: float) -> Floats:
    lost, won = (discordance - mean) / 2, (discordance + mean) / 2
    return rng.choice([-1.0, 1.0, 0.0], n, p=[lost, won, 1 - lost - won])


def ask(d: Floats, limit: float) -> tuple[str | None, int]:
    """What ends the questions, and after how many; at the last look the final test decides."""
    for size in looks(d.size)[:-1]:
        if outcome := stop(d[:size], limit):
            return outcome, size
    final = allow_for_unseen(paired_difference(d, 0.05), 0.05)
    return "cleared" if final.lower > -0.02 else None, d.size


@given(st.integers(1, 20_000), st.integers(1, 20))
@relaxed
def test_looks_grow_to_all_items(n: int, count: int) -> None:
    sizes = looks(n, count)
    assert sizes == sorted(set(sizes))
    assert sizes[0] >= 1
    assert sizes[-1] == n
    assert len(sizes) == min(n, count)


def test_looks_are_every_tenth() -> None:
    assert looks(900) == list(range(90, 901, 90))
    assert looks(14_042)[0] == 1405
    assert looks(3) == [1, 2, 3]


strata = st.lists(st.integers(1, 60), min_size=1, max_size=25)


@given(strata, st.integers(0, 5))
@relaxed
def test_each_prefix_holds_each_stratum_in_proportion(sizes: list[int], seed: int) -> None:
    items = [(f"{stratum}-{i}", str(stratum)) for stratum, size in enumerate(sizes) for i in range(size)]
    order = stopping_order(items, seed)
    assert sorted(order) == sorted(item for item, _ in items)
    seen: Counter[str] = Counter()
    for place, item in enumerate(order, start=1):
        seen[item.partition("-")[0]] += 1
        for stratum, size in enumerate(sizes):
            # Compared as integers: the deviation is less than one item.
            assert abs(seen[str(stratum)] * len(items) - place * size) < len(items)


def test_the_order_is_that_of_the_seed_and_not_of_the_input() -> None:
    items = [(f"item {i}", "ab"[i % 3 == 0]) for i in range(200)]
    order = stopping_order(items, 1)
    assert stopping_order(items[::-1], 1) == order
    assert stopping_order(items, 2) != order
    assert stopping_order([], 1) == []
    # Fixed for ever: a stopped evaluation must resume in its order.
    assert stopping_order([("x", ""), ("y", ""), ("z", "")], 7) == ["z", "x", "y"]


def test_subjects_of_a_large_benchmark_come_evenly() -> None:
    sizes = [1534, 895, 783, *[100] * 54]
    items = [(f"{subject}-{i}", str(subject)) for subject, size in enumerate(sizes) for i in range(size)]
    first = Counter(item.partition("-")[0] for item in stopping_order(items, 0)[: looks(len(items))[0]])
    assert [first["0"], first["1"], first["2"]] == pytest.approx([153.4, 89.5, 78.3], abs=1)
    assert {first[str(subject)] for subject in range(3, 57)} <= {9, 10, 11}


def test_the_limit_keeps_the_pool_decidable() -> None:
    limit = pooled_standard_error_limit(0.01, 4, 0.05, 0.8)
    pooled = pooled_difference([0.0] * 4, [limit] * 4, 0.05)
    # An equal system's pooled mean lies above what would not clear it four times in five.
    assert stats.norm.sf((-0.01 - pooled.lower) / pooled.standard_error) == pytest.approx(0.8)
    assert pooled_standard_error_limit(0.01, 1, 0.05, 0.8) == pytest.approx(limit / 2)


@pytest.mark.parametrize("n", [1, 2, 5, 50, 200])
def test_a_few_equal_items_stop_nothing(n: int) -> None:
    assert stop([0.0] * n) is None


def test_many_equal_items_stop() -> None:
    # 0.98^n ≤ 0.00135: as many items as hardly ever hide a loss of 2 points.
    enough = math.ceil(math.log(stats.norm.sf(3)) / math.log(0.98))
    assert stop([0.0] * enough) == "cleared"
    assert stop([0.0] * (enough - 1)) is None
    assert stop([0.0] * enough, limit=0.001) is None
    assert stop([0.0] * 3 * enough, clusters=[*range(enough)] * 3) == "cleared"
    assert stop([0.0] * 3 * enough, clusters=[*range(enough - 1), 0] * 3) is None


def test_lost_items_stop_once_they_cannot_be_chance() -> None:
    assert stop([-1.0] * 9) is None
    assert stop([-1.0] * 10) == "lost"
    assert stop([-1.0] * 30, clusters=[*range(9)] * 3 + [0, 1, 2]) is None
    assert stop([-0.5, -0.25] * 5) == "lost"
    # Certain, but smaller than the margin.
    assert stop([-0.01, -0.012] * 400) == "cleared"
    assert stop([-0.01, -0.012] * 400, limit=1e-5) is None


def test_gains_are_not_lost() -> None:
    assert stop([1.0] * 500, limit=1e-6) is None


def test_a_loss_of_the_margin_is_cleared_hardly_more_often_than_without_looks() -> None:
    rng, draws = np.random.default_rng(20), 600
    # No limit on the standard error: the rule by itself.
    ended = [ask(differences(rng, 1000, -0.02, 0.06), 1.0) for _ in range(draws)]
    cleared = np.mean([outcome == "cleared" for outcome, _ in ended])
    assert cleared <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


def test_a_broken_system_ends_at_the_first_look_and_an_equal_one_early() -> None:
    rng = np.random.default_rng(21)
    limit = pooled_standard_error_limit(0.01, 9, 0.05, 0.8)
    broken = [ask(differences(rng, 3000, -0.2, 0.3), limit) for _ in range(50)]
    assert {outcome for outcome, _ in broken} == {"lost"}
    assert np.mean([size for _, size in broken]) <= 330
    equal = [ask(differences(rng, 3000, 0.0, 0.06), limit) for _ in range(150)]
    assert np.mean([outcome == "cleared" for outcome, _ in equal]) >= 0.98
    assert np.mean([outcome == "lost" for outcome, _ in equal]) <= 0.02
    assert np.mean([size for _, size in equal]) / 3000 < 0.6
    noisy = [ask(differences(rng, 500, 0.0, 0.25), limit) for _ in range(50)]
    assert np.mean([size for _, size in noisy]) / 500 > 0.9


def test_benchmarks_that_are_looked_at_share_the_level_of_a_false_loss() -> None:
    d = np.array([-1.0] * 43 + [1.0] * 17 + [0.0] * 940)
    p_value = stats.binomtest(43, 60, alternative="greater").pvalue
    level = stats.norm.sf(3)
    assert level / 8 < p_value < level / 2
    assert [stop_at_look(d, **USUAL | {"benchmarks": count}) for count in (1, 2, 8)] == ["lost", "lost", None]


@pytest.mark.parametrize(
    "call",
    [
        lambda: looks(0),
        lambda: looks(10, 0),
        lambda: stopping_order([("a", "x"), ("a", "y")], 1),
        lambda: pooled_standard_error_limit(0.01, 0, 0.05, 0.8),
        lambda: pooled_standard_error_limit(1.0 + 1e-9, 1, 0.05, 0.8),
        lambda: pooled_standard_error_limit(0.01, 1, 0.05, 1.0),
        lambda: stop([0.0, math.nan]),
        lambda: stop([]),
        lambda: stop([0.0], limit=0.0),
        lambda: stop([0.0], clusters=[1, 2]),
        lambda: stop_at_look([0.0], **USUAL | {"margin": 0.0}),
        lambda: stop_at_look([0.0], **USUAL | {"interim_z": math.nan}),
        lambda: stop_at_look([0.0], **USUAL | {"benchmarks": 0}),
    ],
)
def test_meaningless_input_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()
