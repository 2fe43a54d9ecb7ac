"""The bisect finds planted faults, and nothing else, in simulated stacks whose truth is known."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from flagrelease.bisect.groups import family, grouped, split
from flagrelease.bisect.journal import Journal
from flagrelease.bisect.judge import most_starts
from flagrelease.bisect.records import BisectResult, Outcome, Purpose, Status
from flagrelease.bisect.search import bisect
from flagrelease.errors import BisectError
from tests.unit.simulated_operators import CutError, SimulatedStack, names

SIZES = [1, 2, 3, 4, 5, 6, 7, 9, 12, 17, 33, 64, 65, 100, 257, 400]


def picked(count: int, faults: int, seed: int) -> list[str]:
    return random.Random(seed).sample(names(count), faults)


def bound_left(said: list[str]) -> list[int]:
    """Server starts left at most, as each start said when it began."""
    return [int(found[1]) for line in said if (found := re.search(r"at most (\d+) server starts", line))]


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("crashes", [False, True])
def test_one_culprit_is_found_within_the_bound_of_server_starts(tmp_path: Path, count: int, crashes: bool) -> None:
    everywhere = names(count) if count <= 17 else picked(count, 12, count)
    for number, culprit in enumerate(everywhere):
        bad, crashing = ([], [culprit]) if crashes else ([culprit], [])
        stack = SimulatedStack(names(count), seed=number, bad=bad, crashing=crashing)
        result = stack.bisect(tmp_path / f"{number}.jsonl")
        assert result.remove == [culprit]
        assert result.culprits[0].alone is (Outcome.CRASHED if crashes else Outcome.BAD)
        assert stack.starts == len(result.steps) <= most_starts(count), culprit
        assert len(result.floors) <= 4
        said = bound_left(stack.said)
        assert all(left >= stack.starts - begun for begun, left in enumerate(said)), said


def test_the_bound_is_that_of_the_promise() -> None:
    assert [most_starts(count) for count in (1, 2, 3, 100, 400)] == [4, 6, 7, 17, 21]


@pytest.mark.parametrize("seed", range(20))
def test_several_culprits_are_found_and_a_crash_hides_none(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(3, 400)
    culprits = picked(count, draw.choice([2, 3]), seed)
    crashing = culprits[: draw.randint(0, len(culprits))]
    stack = SimulatedStack(names(count), bad=culprits[len(crashing) :], crashing=crashing, seed=seed)
    result = stack.bisect(tmp_path / "journal.jsonl")
    assert result.status is Status.CULPRITS
    assert set(result.remove) == set(culprits)
    crashed = {culprit.operator for culprit in result.culprits if culprit.alone is Outcome.CRASHED}
    assert crashed == set(crashing)
    assert result.contradictions == []
    # Each culprit costs its halvings, a check, and two starts that show what it does.
    assert stack.starts <= most_starts(count) + (len(culprits) - 1) * (count.bit_length() + 3) + 1


@pytest.mark.parametrize("seed", range(12))
def test_faults_of_very_different_size_are_all_found(tmp_path: Path, seed: int) -> None:
    loud, quiet = picked(50, 2, seed)
    stack = SimulatedStack(names(50), bad=[quiet], together=[[loud]] * 40, size=1.5, seed=seed)
    assert set(stack.bisect(tmp_path / "journal.jsonl").remove) == {loud, quiet}


def test_a_sound_stack_has_no_culprit_after_one_start(tmp_path: Path) -> None:
    stack = SimulatedStack(names(60))
    result = stack.bisect(tmp_path / "journal.jsonl")
    assert (result.status, result.culprits, stack.starts) == (Status.NO_CULPRIT, [], 1)


def test_false_alarms_of_a_noisy_sound_stack_are_rare(tmp_path: Path) -> None:
    # As far from the baseline as is allowed, so that every second run is beyond: the A/A runs have to tell.
    alarms = [
        SimulatedStack(names(60), floor=1.0, noise=0.1, seed=seed).bisect(tmp_path / f"{seed}").status
        is Status.CULPRITS
        for seed in range(120)
    ]
    assert sum(alarms) / len(alarms) <= 0.05


def test_a_host_that_is_wrong_without_any_operator_is_named_as_such(tmp_path: Path) -> None:
    result = SimulatedStack(names(30), floor=3.0).bisect(tmp_path / "far.jsonl")
    assert result.status is Status.NOT_OPERATORS
    assert "the vendor's own kernels" in result.reason

    result = SimulatedStack(names(30), crashing=["engine"]).bisect(tmp_path / "crash.jsonl")
    assert result.status is Status.NOT_OPERATORS
    assert "SIGSEGV" in result.reason
    assert len(result.steps) == 2


def test_a_fault_is_found_although_the_host_is_off_without_any_operator(tmp_path: Path) -> None:
    result = SimulatedStack(names(30), floor=1.4, bad=[names(30)[11]]).bisect(tmp_path / "journal.jsonl")
    assert result.remove == [names(30)[11]]


@pytest.mark.parametrize("seed", range(15))
def test_operators_that_are_bad_together_only_are_told_as_such(tmp_path: Path, seed: int) -> None:
    size = 2 + seed % 2
    some = picked(80, size, seed)
    result = SimulatedStack(names(80), together=[some], seed=seed).bisect(tmp_path / "journal.jsonl")
    (culprit,) = result.culprits
    assert culprit.alone is Outcome.GOOD
    assert {culprit.operator, *culprit.partners} == set(some)
    assert "the fault may be in any of them" in result.reason


def test_a_pair_and_a_single_fault_beside_it_are_both_found(tmp_path: Path) -> None:
    first, second, single = names(90)[10], names(90)[70], names(90)[40]
    result = SimulatedStack(names(90), together=[[first, second]], bad=[single]).bisect(tmp_path / "journal.jsonl")
    partners = {culprit.operator: set(culprit.partners) for culprit in result.culprits}
    assert partners.pop(single) == set()
    ((operator, others),) = partners.items()
    assert {operator, *others} == {first, second}


def test_an_operator_that_is_needed_for_another_is_no_silent_mistake(tmp_path: Path) -> None:
    operators = names(16)
    stack = SimulatedStack(operators, bad=[operators[6]], needed=operators[12])
    result = stack.bisect(tmp_path / "journal.jsonl")
    assert result.contradictions
    assert "contradict each other" in result.reason
    outcomes = {frozenset(step.removed): step.outcome for step in result.steps}
    assert outcomes[frozenset(result.remove)] is Outcome.GOOD
    for operator in result.remove:
        assert outcomes[frozenset(result.remove) - {operator}] is not Outcome.GOOD


def test_killed_at_any_start_it_goes_on_there_and_finds_the_same(tmp_path: Path) -> None:
    make = {"operators": names(40), "bad": [names(40)[5]], "crashing": [names(40)[31]]}
    whole = SimulatedStack(**make).bisect(tmp_path / "whole.jsonl")  # type: ignore[arg-type]
    for cut in range(len(whole.steps)):
        path = tmp_path / f"{cut}.jsonl"
        with pytest.raises(CutError):
            SimulatedStack(**make, cut_after=cut).bisect(path)  # type: ignore[arg-type]
        with path.open("ab") as file:
            file.write(b'{"removed": ["op1')
        again = SimulatedStack(**make)  # type: ignore[arg-type]
        assert again.bisect(path) == whole
        assert again.starts == len(whole.steps) - cut
        # What it wrote behind the cut is whole too.
        assert SimulatedStack(**make, cut_after=0).bisect(path) == whole  # type: ignore[arg-type]


def test_the_notes_of_another_bisect_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    SimulatedStack(names(5)).bisect(path)
    with pytest.raises(BisectError, match="belongs to another bisect"):
        SimulatedStack(names(6)).bisect(path)
    path.write_text('{"bisect": 1}\n')
    with pytest.raises(BisectError, match="belongs to another"):
        SimulatedStack(names(5)).bisect(path)
    path.write_text("no json\n")
    with pytest.raises(BisectError, match="holds what no bisect wrote"):
        SimulatedStack(names(5)).bisect(path)


def test_without_operators_there_is_nothing_to_search(tmp_path: Path) -> None:
    with pytest.raises(BisectError, match="no operator"):
        SimulatedStack([]).bisect(tmp_path / "journal.jsonl")


def test_every_step_is_evidence(tmp_path: Path) -> None:
    stack = SimulatedStack(names(20), bad=[names(20)[7]])
    result = stack.bisect(tmp_path / "journal.jsonl")
    assert [step.number for step in result.steps] == list(range(1, len(result.steps) + 1))
    assert result.steps[0].purpose is Purpose.ALL
    assert {step.purpose for step in result.steps} > {Purpose.FLOOR, Purpose.HALVING, Purpose.ALONE}
    for step in result.steps:
        assert step.statistic is not None
        assert (step.outcome is Outcome.BAD) == (step.statistic > step.threshold)
    assert BisectResult.model_validate_json(result.model_dump_json()) == result


def test_splits_follow_groups_and_never_cost_a_start() -> None:
    order, borders = grouped(["a1", "b1", "a2", "c1", "b2", "a3", "a1"], lambda name: name[0])
    assert order == ["a1", "a2", "a3", "b1", "b2", "c1"]
    assert borders == [3, 5]
    assert split(0, 6, borders) == 3
    assert split(0, 5, [2]) == 2
    # A border far from the middle would cost a start.
    assert split(0, 8, [3]) == 4
    for low in range(3):
        for high in range(low + 2, 40):
            at = split(low, high, borders)
            most = (high - low - 1).bit_length() - 1
            assert max((at - low - 1).bit_length(), (high - at - 1).bit_length()) <= most


def test_operators_of_flaggems_fall_into_families() -> None:
    found = {name: family(name) for name in ("mm", "softmax_out", "rms_norm", "normal_", "silu_and_mul", "add", "amax")}
    assert found == {
        "mm": "matrix products",
        "softmax_out": "softmax",
        "rms_norm": "normalisation",
        "normal_": "random numbers",
        "silu_and_mul": "activations",
        "add": "pointwise",
        "amax": "reductions",
    }


def test_what_is_no_measurement_ends_the_search_and_is_not_kept(tmp_path: Path) -> None:
    def fails(_removed: frozenset[str], _run: int) -> object:
        raise OSError("disk full")

    with Journal(tmp_path / "journal.jsonl", {}) as journal, pytest.raises(OSError, match="disk full"):
        bisect(["a", "b"], fails, journal, print)  # type: ignore[arg-type]
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 1
