"""The simulation that measures the gate's error rates draws what it says, and judges by the gate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.gate_operating_characteristics import (
    EQUAL,
    FIXED,
    OTHERS,
    RELEASED_4,
    STOPPED,
    Condition,
    Found,
    Requirement,
    conditions,
    report,
    requirements,
    simulate,
)
from benchmarks.gate_simulation import Population, Procedure, answers, draw, populations, release
from evaluation.accuracy import from_scores
from evaluation.catalogue import load_benchmarks
from evaluation.floors import discordance_between, discordance_within
from evaluation.statistics import Floats
from flagrelease.records import Verdict

MANY = Population(load_benchmarks()["gpqa"], n=40_000, psi=0.1, score=0.6)
# Five standard errors of a share among so many items.
NEAR = 5 * math.sqrt(0.25 / MANY.n)


def everywhere(suite: str, loss: float) -> dict[str, float]:
    return {who.benchmark.key: loss for who in populations(suite)[0]}


def simulated(who: Population, loss: float, repeats: tuple[int, int], *, sure: bool = False) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(1)
    ours, theirs = draw(who, loss, rng, sure=sure)
    return answers(ours, repeats[0], rng), answers(theirs, repeats[1], rng)


def test_equal_systems_have_the_score_and_the_discordance_asked_for() -> None:
    ours, theirs = simulated(MANY, 0.0, (2, 3))
    assert (ours.shape, theirs.shape) == ((MANY.n, 2), (MANY.n, 3))
    assert [ours.mean(), theirs.mean()] == pytest.approx([0.6, 0.6], abs=NEAR)
    found = [discordance_between(ours, theirs), discordance_within(ours), discordance_within(theirs)]
    assert found == pytest.approx([0.1] * 3, abs=NEAR)


@pytest.mark.parametrize(
    ("loss", "sure", "discordance"),
    # Of what unsure answers cannot lose, all is discordance; of a loss on any right answer the sure ones' part.
    [(0.05, False, 0.1), (0.2, False, 0.2), (0.06, True, 0.1 + 0.5 * 0.1)],
)
def test_a_loss_is_as_large_as_said(loss: float, sure: bool, discordance: float) -> None:
    ours, theirs = simulated(MANY, loss, (1, 1), sure=sure)
    assert theirs.mean() - ours.mean() == pytest.approx(loss, abs=NEAR)
    assert discordance_between(ours, theirs) == pytest.approx(discordance, abs=NEAR)


def test_a_score_that_leaves_no_room_for_the_discordance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a score of 0\.05 does not go with a discordance of 0\.1"):
        draw(MANY._replace(score=0.05), 0.0, np.random.default_rng(1))


def test_the_suites_are_those_of_the_matrix_without_what_is_advisory() -> None:
    members, policy = populations("text")
    assert [(who.benchmark.key, who.n) for who in members] == [
        ("gpqa", 1192),
        ("livebench", 1000),
        ("mmlu_pro", 12_032),
        ("musr", 756),
    ]
    assert policy.pooled_margin_points == 1.0
    assert len(populations("vision")[0]) == 8


def test_looks_save_questions_of_a_broken_candidate_and_a_confirmation_asks_again() -> None:
    broken, rng = everywhere("text", 0.2), np.random.default_rng(3)
    whole = release("text", broken, FIXED[0], rng)
    assert (whole.verdict, whole.asked, len(whole.gated)) == (Verdict.REGRESSED, 1.0, 4)
    assert release("text", broken, STOPPED, rng).asked < 0.25
    confirmed = release("text", broken, Procedure("confirmation", again=True), rng)
    assert (confirmed.verdict, confirmed.asked) == (Verdict.REGRESSED, 2.0)
    assert {row.repeats for row in confirmed.gated} == {2}


@pytest.mark.parametrize(("suite", "key"), [("text", "gpqa"), ("vision", "ocrbench")])
def test_one_broken_benchmark_is_found_although_it_ends_at_its_first_look(suite: str, key: str) -> None:
    found = release(suite, {key: 0.2}, STOPPED, np.random.default_rng(5))
    (row,) = (row for row in found.gated if row.benchmark == key)
    assert (found.verdict, row.verdict) == (Verdict.REGRESSED, Verdict.REGRESSED)
    assert row.stopped_of is not None
    assert row.n < 0.25 * row.stopped_of


def test_what_is_undecided_is_asked_again_where_that_helps() -> None:
    rng = np.random.default_rng(4)
    repeats = [{row.repeats for row in release("text", {}, RELEASED_4, rng).gated} for _ in range(5)]
    assert any(max(found) > 1 for found in repeats)


def test_the_other_rules_judge_as_their_authors_do() -> None:
    _, policy = populations("text")
    theirs = np.repeat([1.0, 0.0], 500)[:, np.newaxis]
    ours = theirs.copy()
    ours[:24] = 0
    row = from_scores("b", ours, theirs, policy)
    error = (0.0158, 0.0158)
    assert {name for name, rule in OTHERS.items() if rule(row, error)} == {"5 points", "rtol 5 %", "unpaired z"}
    ours[:51] = 0
    row = from_scores("b", ours, theirs, policy)
    assert not any(rule(row, error) for rule in OTHERS.values())


def test_simulation_repeats_itself() -> None:
    condition = Condition("text", EQUAL, FIXED[0], 3)
    assert simulate(condition, 0, 2) == simulate(condition, 0, 2) != simulate(condition, 1, 2)


@pytest.mark.parametrize(
    ("low", "high", "at_most", "state"),
    [
        (0.01, 0.04, True, "met"),
        (0.04, 0.06, True, "open"),
        (0.06, 0.08, True, "broken"),
        (0.06, 0.08, False, "met"),
        (0.04, 0.06, False, "open"),
        (0.01, 0.04, False, "broken"),
    ],
)
def test_a_requirement_is_broken_only_beyond_the_simulations_error(
    low: float, high: float, at_most: bool, state: str
) -> None:
    assert Requirement("", 0.05, low, high, 0.05, at_most).state == state


def test_the_report_has_every_condition() -> None:
    results = [
        Found(
            c,
            verdicts={Verdict.REGRESSED.value: c.runs},
            passed={},
            asked=1,
        )
        for c in (one._replace(runs=1000) for one in conditions(["text"]))
    ]
    required = requirements(results)
    assert {one.state for one in required if "equal" in one.what} == {"broken"}
    assert {one.state for one in required if "equal" not in one.what} == {"met"}
    text = "\n".join(report(results, required))
    assert "| K = 4 | −5 on one | 1000 | 0.0 | 0.0 | 100.0 | 0 | 0 | 0 | 0 | 100 |" in text
    assert "| MuSR | 756 | 0.281 | 100.0 | 100.0 | 100.0 |" in text
