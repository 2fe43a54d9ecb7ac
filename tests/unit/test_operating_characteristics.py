"""The simulation that measures the gate's error rates draws what it says, and judges as the gate does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.gate_check import DifferentVerdictError, check_stop, check_verdicts
from benchmarks.gate_operating_characteristics import (
    CONFIRMED,
    EQUAL,
    FIVE,
    FIXED,
    ONE,
    RELEASED,
    RELEASED_4,
    STOPPED,
    STOPPED_SOONER,
    SURE,
    Condition,
    Outcome,
    Requirement,
    conditions,
    report,
    requirements,
    simulate,
)
from benchmarks.gate_simulation import (
    Counts,
    Population,
    Procedure,
    Trial,
    ask_again,
    draw,
    kinds,
    parts_of,
    populations,
    unfolded,
)
from benchmarks.gate_vectorised import OTHERS, find, judge, stop, wanted
from evaluation.accuracy import from_scores
from evaluation.catalogue import load_benchmarks
from evaluation.floors import discordance_between, discordance_within
from evaluation.statistics import Floats
from flagrelease.verdicts import Verdict

MANY = Population(load_benchmarks()["gpqa"], n=40_000, psi=0.1, score=0.6)
# Five standard errors of a share among so many items.
NEAR = 5 * math.sqrt(0.25 / MANY.n)


def simulated(who: Population, loss: float, repeats: tuple[int, int], *, sure: bool = False) -> tuple[Floats, Floats]:
    (counts,) = draw(kinds(who, loss, sure=sure), [who.n], repeats, 1, np.random.default_rng(1))
    return unfolded(counts[0], repeats)


def test_equal_systems_have_the_score_and_the_discordance_asked_for() -> None:
    ours, theirs = simulated(MANY, 0.0, (2, 3))
    assert (ours.shape, theirs.shape) == ((MANY.n, 2), (MANY.n, 3))
    assert [ours.mean(), theirs.mean()] == pytest.approx([0.6, 0.6], abs=NEAR)
    found = [discordance_between(ours, theirs), discordance_within(ours), discordance_within(theirs)]
    assert found == pytest.approx([0.1] * 3, abs=NEAR)


@pytest.mark.parametrize(
    ("loss", "sure", "discordance"),
    # Of what unsure answers cannot lose, all is discordance; of a loss on any right answer the known ones' part.
    [(0.05, False, 0.1), (0.2, False, 0.2), (0.06, True, 0.1 + 0.5 * 0.1)],
)
def test_a_loss_is_as_large_as_said(loss: float, sure: bool, discordance: float) -> None:
    ours, theirs = simulated(MANY, loss, (1, 1), sure=sure)
    assert theirs.mean() - ours.mean() == pytest.approx(loss, abs=NEAR)
    assert discordance_between(ours, theirs) == pytest.approx(discordance, abs=NEAR)


def test_added_answers_are_to_the_same_items() -> None:
    rng, truth = np.random.default_rng(2), kinds(MANY, 0.0)
    (before,) = draw(truth, [MANY.n], (1, 1), 2, rng)
    after = ask_again(before, truth, 1, 4, rng)
    assert after.shape == (2, 3, 5, 2)
    # Of each kind the baseline's answers are what they were.
    assert (after.sum(axis=2) == before.sum(axis=2)).all()
    ours, _ = unfolded(after[0], (4, 1))
    assert ours.mean() == pytest.approx(0.6, abs=NEAR)
    assert discordance_within(ours) == pytest.approx(0.1, abs=NEAR)
    # What is known is known in each repeat: those that were right stay right unless they are unsure.
    right = ours.sum(axis=1)
    assert ((right > 0) & (right < 4)).mean() == pytest.approx(2 * 0.1 * (1 - 2 / 16), abs=NEAR)


def test_a_score_that_leaves_no_room_for_the_discordance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a score of 0\.05 does not go with a discordance of 0\.1"):
        kinds(MANY._replace(score=0.05), 0.0)


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


@pytest.mark.parametrize("procedure", [*FIXED[:2], STOPPED, *STOPPED_SOONER, CONFIRMED, RELEASED, RELEASED_4, SURE])
def test_the_gate_itself_says_the_same(procedure: Procedure) -> None:
    for truth, hit in ((EQUAL, None), (ONE, None), (FIVE, "musr")):
        found = simulate(Condition("text", truth, procedure, 2, hit), checked=2)
        assert sum(found.verdicts.values()) == 2


@pytest.mark.parametrize(("psi", "repeats"), [(0.2, (1, 1)), (0.1, (2, 3)), (0.002, (1, 1)), (1e-9, (1, 1))])
def test_what_is_found_on_a_benchmark_is_what_the_gate_finds(psi: float, repeats: tuple[int, int]) -> None:
    # With few changed answers, and with none, the interval is that of what the items leave unseen.
    who, (_, policy) = MANY._replace(n=1000, psi=psi), populations("text")
    (counts,) = draw(kinds(who, 0.01 * psi), [who.n], repeats, 5, np.random.default_rng(6))
    found = find(counts, np.full(5, repeats[0]), repeats[1], policy.alpha)
    for release in range(5):
        scores = unfolded(counts[release], repeats)
        row = from_scores("b", *scores, policy)
        ours = [each[release] for each in (found.mean, found.standard_error, found.lower, found.p_value)]
        assert ours == pytest.approx([row.difference, row.standard_error, row.lower, row.p_value], abs=1e-12)
        assert (found.candidate[release], found.baseline[release]) == pytest.approx((row.candidate, row.baseline))
        for side, error, within in zip(scores, found.errors, found.within, strict=True):
            assert error[release] == pytest.approx(side.mean(axis=1).std(ddof=1) / math.sqrt(who.n))
            assert within[release] == pytest.approx(discordance_within(side) if side.shape[1] > 1 else 0.0)


def test_a_rule_that_differs_from_the_gate_is_noticed() -> None:
    trial, rng = Trial(*populations("vision"), RELEASED), np.random.default_rng(3)
    parts: list[list[Counts]] = [
        draw(kinds(who, 0.2), parts_of(who, trial.policy), trial.repeats, 1, rng) for who in trial.members
    ]
    large = [who.benchmark.key for who in trial.members].index("math_vision")
    _, at = stop(parts[large], trial.members[large], trial)
    with pytest.raises(DifferentVerdictError, match="math_vision: at look 0 the gate says lost"):
        check_stop(parts[large], at + 1, trial.members[large], trial, of=1)
    counts = [np.sum(each, axis=0) for each in parts]
    asked = np.ones((1, len(counts)), dtype=np.int64)
    judged = judge([find(each, asked[:, 0], 1, trial.policy.alpha) for each in counts], trial)
    after = wanted(judged, asked, trial)
    assert (after == 2).all()
    check_verdicts(judged, after, counts, asked, trial, of=1)
    with pytest.raises(DifferentVerdictError, match="the gate asks for"):
        check_verdicts(judged, asked, counts, asked, trial, of=1)
    with pytest.raises(DifferentVerdictError, match="the gate says REGRESSED"):
        check_verdicts(judged._replace(verdicts=np.array(["CONSISTENT"])), after, counts, asked, trial, of=1)


def test_looks_save_questions_of_a_broken_candidate_and_a_confirmation_asks_again() -> None:
    def broken(procedure: Procedure) -> Outcome:
        return simulate(Condition("text", "−20 everywhere", procedure, 10), checked=0)

    assert (broken(FIXED[0]).verdicts, broken(FIXED[0]).asked) == ({Verdict.REGRESSED.value: 10}, 1.0)
    stopped = broken(STOPPED)
    assert stopped.verdicts == {Verdict.REGRESSED.value: 10}
    assert stopped.asked < 0.25
    assert stopped.items["musr"] == 1.0
    assert stopped.items["mmlu_pro"] == pytest.approx(0.1, abs=0.001)
    confirmed = broken(CONFIRMED)
    assert (confirmed.asked, set(confirmed.repeats.values())) == (2.0, {2.0})


@pytest.mark.parametrize(("suite", "key"), [("text", "gpqa"), ("vision", "ocrbench")])
def test_one_broken_benchmark_is_found_although_it_ends_at_its_first_look(suite: str, key: str) -> None:
    found = simulate(Condition(suite, "−20 on one", STOPPED, 20, key), checked=0)
    assert found.verdicts == {Verdict.REGRESSED.value: 20}
    assert found.items[key] < 0.25


def test_what_is_undecided_is_asked_again() -> None:
    for procedure in (RELEASED, RELEASED_4):
        found = simulate(Condition("text", EQUAL, procedure, 40), checked=0)
        assert 1 < found.repeats["musr"] < 4
        assert found.repeats["mmlu_pro"] == pytest.approx(1, abs=0.1)


def test_the_other_rules_judge_as_their_authors_do() -> None:
    def passed(lost: int) -> set[str]:
        # A baseline with half of 1,000 answers right, of which so many are lost: kinds × candidate × baseline.
        counts = np.zeros((1, 1, 2, 2), dtype=np.int64)
        counts[0, 0] = [[500, lost], [0, 500 - lost]]
        found = find(counts, np.array([1]), 1, 0.05)
        assert (found.baseline[0], found.candidate[0]) == (0.5, pytest.approx(0.5 - lost / 1000))
        return {name for name, rule in OTHERS.items() if rule(found)[0]}

    assert passed(24) == {"5 points", "rtol 5 %", "unpaired z"}
    assert passed(51) == set()


def test_simulation_repeats_itself() -> None:
    condition = Condition("text", EQUAL, FIXED[0], 200)
    assert simulate(condition, checked=0) == simulate(condition, checked=1)
    assert simulate(condition, checked=0).verdicts != simulate(condition._replace(truth=ONE), checked=0).verdicts


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
    keys = [who.benchmark.key for who in populations("text")[0]]
    results = [
        Outcome(c, {Verdict.REGRESSED.value: c.runs}, {}, 1, dict.fromkeys(keys, 1.0), dict.fromkeys(keys, 1.0))
        for c in (one._replace(runs=1000) for one in conditions(["text"]))
    ]
    required = requirements(results)
    assert {one.state for one in required if "equal" in one.what} == {"broken"}
    assert {one.state for one in required if "equal" not in one.what} == {"met"}
    text = "\n".join(report(results, required))
    assert "| K = 4 | −5 on one | 1000 | 0.0 | 0.0 | 100.0 | 0 | 0 | 0 | 0 | 100 |" in text
    assert f"| MuSR | 756 | 0.281 |{' 100.0 |' * 8}" in text
    assert "| looks | equal | 100 % × 1 | 100 % × 1 | 100 % × 1 | 100 % × 1 |" in text
