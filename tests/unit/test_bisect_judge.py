"""The judge of the bisect, against scipy's own tests and by simulated canaries."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluation.canary import distances, judge, statistics
from evaluation.canary_probes import Answer
from flagrelease.bisect.journal import Journal
from flagrelease.bisect.judge import allowed_wrong, bound, can_tell, exceedance, most_wrong, threshold
from flagrelease.bisect.records import JudgedBy, Judging, Measured, Status
from flagrelease.bisect.search import bisect
from flagrelease.policy import CanaryPolicy
from flagrelease.records import CanaryPrompt, CanaryStatistics, TopToken
from flagrelease.verdicts import CanaryResult

POLICY = CanaryPolicy(prompts=8, tokens=8, positions=8, factor=1, reason="as strict as can be, for tests")
TEXTS, POSITIONS, TOKENS = 8, 8, 8


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_where_a_two_sample_t_test_with_a_sample_of_one_turns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    floors = list(draw.normal(3, draw.uniform(0.01, 1), 2 + seed % 5))
    for alpha in (0.05, 0.01, 0.05 / 17):
        bound = threshold(floors, alpha)
        if bound > 1:
            found = stats.ttest_ind([bound], floors, alternative="greater").pvalue
            assert found == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_one_more_run_lies_above_the_threshold_as_often_as_it_says(runs: int) -> None:
    draw = np.random.default_rng(runs)
    values = draw.normal(5, 0.3, (2000, runs + 1))
    above = [row[-1] > threshold(list(row[:-1]), 0.05) for row in values]
    assert stats.binomtest(sum(above), len(above), 0.05).pvalue > 0.001


def test_runs_that_agree_to_the_last_bit_leave_the_gates_own_bar() -> None:
    assert threshold([0.4, 0.4], 0.003) == 1
    assert threshold([1.7, 1.7, 1.7], 0.003) == pytest.approx(1.7)
    with pytest.raises(ValueError, match="two A/A runs"):
        threshold([0.4], 0.05)


def result(logprob: float, agreement: float, kl: float, passed: bool) -> CanaryResult:
    bars = CanaryStatistics(positions=9, mean_abs_logprob=0.1, top1_agreement=0.9, kl=0.01)
    found = CanaryStatistics(positions=9, mean_abs_logprob=logprob, top1_agreement=agreement, kl=kl)
    return CanaryResult(found=found, bars=bars, passed=passed, reasons=[], worst=[])


def test_the_statistic_is_the_worst_of_the_canarys_distances_by_its_bar() -> None:
    assert exceedance(result(0.05, 0.95, 0.002, True)) == pytest.approx(0.5)
    assert exceedance(result(0.3, 0.95, 0.002, False)) == pytest.approx(3)
    assert exceedance(result(0.05, 0.5, 0.002, False)) == pytest.approx(5)
    assert exceedance(result(0.05, 0.95, 0.08, False)) == pytest.approx(8)
    # Tokens without a number alone made it fail.
    assert exceedance(result(0.05, 0.95, 0.002, False)) == math.inf


class SimulatedCanary:
    """A model that knows a distribution for each position, served with rounding noise on its logits."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.logits = self.draw.normal(0, 2.5, (TEXTS, POSITIONS, TOKENS))
        own = self.logits.argmax(axis=2)
        ways = self.logits - np.logaddexp.reduce(self.logits, axis=2, keepdims=True)
        self.prompts = [
            CanaryPrompt(
                prompt=[0],
                continuation=[int(token) for token in own[text]],
                positions=list(range(POSITIONS)),
                logprobs=[float(ways[text, at, own[text, at]]) for at in range(POSITIONS)],
                top=[self._top(ways[text, at])[:5] for at in range(POSITIONS)],
            )
            for text in range(TEXTS)
        ]
        self.floor = statistics(distances(self.prompts, self.read(0.05)))

    @staticmethod
    def _top(logprobs: np.ndarray) -> list[TopToken]:
        order = np.argsort(-logprobs)
        return [TopToken(token=int(token), logprob=float(logprobs[token])) for token in order]

    def read(self, noise: float) -> list[list[Answer]]:
        noisy = self.logits + self.draw.normal(0, noise, self.logits.shape)
        ways = noisy - np.logaddexp.reduce(noisy, axis=2, keepdims=True)
        return [
            [
                Answer(self._top(ways[text, at]), float(ways[text, at, self.prompts[text].continuation[at]]))
                for at in range(POSITIONS)
            ]
            for text in range(TEXTS)
        ]

    def measure(self, noise: float) -> Measured:
        canary = judge(self.prompts, self.read(noise), self.floor, POLICY)
        return Measured(statistic=exceedance(canary), seconds=1, canary=canary)


@pytest.mark.slow
def test_false_alarms_over_simulated_canaries_of_a_sound_model_are_rare(tmp_path: Path) -> None:
    """The bar is the distance of a single A/A run, so that every second sound server lies beyond it."""
    operators, alarms, beyond = [f"op{number}" for number in range(40)], 0, 0
    for seed in range(120):
        served = SimulatedCanary(seed)
        with Journal(tmp_path / f"{seed}.jsonl", {}) as journal:
            found = bisect(operators, lambda _removed, _run, s=served: s.measure(0.05), journal, lambda _said: None)  # type: ignore[misc]
        alarms += found.status is Status.CULPRITS
        beyond += len(found.steps) > 1
    assert beyond > 40
    assert alarms / 120 <= 0.05


def test_a_fault_as_large_as_four_times_the_rounding_is_found_through_the_canary(tmp_path: Path) -> None:
    operators = [f"op{number}" for number in range(40)]
    for seed in range(6):
        served, culprit = SimulatedCanary(seed), random.Random(seed).choice(operators)

        def measure(removed: frozenset[str], _run: int, s: SimulatedCanary = served, c: str = culprit) -> Measured:
            return s.measure(0.05 if c in removed else 0.2)

        with Journal(tmp_path / f"{seed}.jsonl", {}) as journal:
            assert bisect(operators, measure, journal, lambda _said: None).remove == [culprit]


@pytest.mark.parametrize(("floors", "asked"), [([0, 0], 30), ([3, 1, 2], 12), ([9, 12, 10, 11], 40), ([5, 5], 5)])
def test_the_most_wrong_answers_are_where_fishers_exact_test_turns(floors: list[int], asked: int) -> None:
    for alpha in (0.05, 0.05 / 17):
        most = most_wrong(floors, asked, alpha)

        def p_value(wrong: int) -> float:
            rest = sum(floors)
            table = [[wrong, asked - wrong], [rest, len(floors) * asked - rest]]
            return float(stats.fisher_exact(table, alternative="greater").pvalue)

        assert p_value(most) > alpha
        assert most == asked or p_value(most + 1) <= alpha


def test_what_the_gate_allows_is_no_fault_and_half_is_too_much() -> None:
    assert allowed_wrong(60, 1000, 2) == 20
    assert allowed_wrong(16, 1000, 2) == 8
    judging = Judging(by=JudgedBy.ITEMS, asked=60, allowed=20)
    assert bound(judging, [0, 0, 1 / 20], 0.003) == 1
    assert bound(judging, [20 / 20, 22 / 20], 0.003) == most_wrong([20, 22], 60, 0.003) / 20 > 1.5
    with pytest.raises(ValueError, match="two A/A runs"):
        bound(judging, [0], 0.05)


def test_a_handful_of_items_tells_nothing() -> None:
    assert [can_tell(asked, 40) for asked in (1, 2, 3, 100)] == [False, False, True, True]


class SimulatedItems:
    """Flipped items of a model that answers each wrongly with a chance of its own, whatever operators run."""

    def __init__(self, seed: int, asked: int, allowed: float, mean: float) -> None:
        self.draw = np.random.default_rng(seed)
        self.judging = Judging(by=JudgedBy.ITEMS, asked=asked, allowed=allowed)
        # Some nearly never wrong, some nearly always.
        self.chances = self.draw.beta(0.5 * mean, 0.5 * (1 - mean), asked)

    def measure(self, culprit: bool = False) -> Measured:
        wrong = np.ones(self.judging.asked) if culprit else self.draw.random(self.judging.asked) < self.chances
        return Measured(statistic=float(wrong.sum()) / self.judging.allowed, seconds=1)


@pytest.mark.slow
@pytest.mark.parametrize("alike", [False, True])
def test_false_alarms_over_flipped_items_of_a_sound_model_are_rare(tmp_path: Path, alike: bool) -> None:
    """As many are wrong as may be, on average, so that every second sound server lies beyond it."""
    operators, alarms, beyond, bisects = [f"op{number}" for number in range(40)], 0, 0, 300
    for seed in range(bisects):
        served = SimulatedItems(seed, asked=60, allowed=20, mean=1 / 3)
        if alike:
            served.chances[:] = 1 / 3
        with Journal(tmp_path / f"{seed}.jsonl", {}) as journal:

            def measure(_removed: frozenset[str], _run: int, s: SimulatedItems = served) -> Measured:
                return s.measure()

            found = bisect(operators, measure, journal, lambda _said: None, judging=served.judging)
        alarms += found.status is Status.CULPRITS
        beyond += len(found.steps) > 1
    assert beyond > bisects / 3
    assert alarms / bisects <= 0.05


def test_a_fault_is_found_through_flipped_items_some_of_which_come_and_go(tmp_path: Path) -> None:
    operators = [f"op{number}" for number in range(40)]
    for seed in range(20):
        served, culprit = SimulatedItems(seed, asked=40, allowed=12, mean=0.2), random.Random(seed).choice(operators)

        def measure(removed: frozenset[str], _run: int, s: SimulatedItems = served, c: str = culprit) -> Measured:
            return s.measure(c not in removed)

        with Journal(tmp_path / f"{seed}.jsonl", {}) as journal:
            found = bisect(operators, measure, journal, lambda _said: None, judging=served.judging)
            assert found.remove == [culprit]
            assert found.judging == served.judging
