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
from flagrelease.bisect.judge import exceedance, threshold
from flagrelease.bisect.records import Measured, Status
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
