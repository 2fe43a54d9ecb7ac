"""The speed of operators: what is made of the times of cases, and of a timing that fails."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flagrelease.operators import worker
from flagrelease.operators.cases import Case
from flagrelease.operators.results import judge_operator
from flagrelease.operators.speed import timed

CASES = [Case(f"c{number}", "model" if number < 3 else "edge", sizes={}) for number in range(4)]


@dataclass
class StandInTensor:
    value: float

    def clone(self) -> StandInTensor:
        return StandInTensor(self.value)

    def copy_(self, other: StandInTensor) -> None:
        self.value = other.value


@dataclass
class StandInQuestion:
    changed: tuple[int, ...] = ()
    asked: list[tuple[str, float]] = field(default_factory=list)

    def call(self, function: Callable[..., Any], tensor: StandInTensor) -> None:
        self.asked.append(("flag_gems", tensor.value))
        function(tensor)

    def native(self, tensor: StandInTensor) -> None:
        self.asked.append(("native", tensor.value))


def fake_bench(*medians: float) -> Callable[..., float]:
    """A stand-in of `triton.testing.do_bench`: two repetitions, then the next of the medians."""
    left = list(medians)

    def bench(function: Callable[[], Any], *, return_mode: str, grad_to_none: Sequence[Any] = ()) -> float:
        assert return_mode == "median"
        for _ in range(2):
            for each in grad_to_none:
                each.grad = None
            function()
        return left.pop(0)

    return bench


def double(tensor: StandInTensor) -> None:
    tensor.value *= 2


def line(case: Case, **more: Any) -> dict[str, Any]:
    return {"case": case.name, "group": case.group, "outcome": "matches", "reason": "", **more}


def test_both_are_timed_with_the_inputs_of_the_case_each_time() -> None:
    question = StandInQuestion(changed=(0,))
    found = timed(question, double, [StandInTensor(5.0)], fake_bench(0.3, 0.2))
    assert found == {"native_ms": 0.3, "flaggems_ms": 0.2}
    assert question.asked == [("native", 5.0)] * 2 + [("flag_gems", 5.0)] * 2


def test_what_cannot_be_timed_says_why_and_has_no_times() -> None:
    def none(_: StandInTensor) -> None:
        raise NotImplementedError("no kernel\nof this type")

    found = timed(StandInQuestion(), none, [StandInTensor(1.0)], fake_bench(1.0, 1.0))
    assert found == {"no_speed": "NotImplementedError: no kernel of this type"}
    assert timed(StandInQuestion(), double, [StandInTensor(1.0)], fake_bench(1.0, 0.0)).keys() == {"no_speed"}


def test_the_ratio_is_the_geometric_mean_over_the_cases_that_were_timed() -> None:
    lines = [
        line(CASES[0], native_ms=4.0, flaggems_ms=1.0),
        line(CASES[1], native_ms=0.5, flaggems_ms=0.5),
        line(CASES[2], no_speed="OutOfMemoryError"),
        line(CASES[3]),
    ]
    result = judge_operator("mm", CASES, lines, "cuda")
    assert result.verdict == "matches"
    assert result.speed_ratio == pytest.approx(2.0)
    assert result.as_json()["speed_ratio"] == result.speed_ratio


def test_a_cpu_and_failed_timings_leave_no_ratio() -> None:
    assert judge_operator("mm", CASES, [line(case) for case in CASES], "cpu").speed_ratio is None
    failed = judge_operator("mm", CASES, [line(case, no_speed="no kernel") for case in CASES], "cuda")
    assert (failed.verdict, failed.speed_ratio) == ("matches", None)


def test_a_worker_that_times_has_the_device_alone_and_others_share_it(tmp_path: Path) -> None:
    file = tmp_path / "device.lock"
    turn = worker._turn(file)

    def free(kind: int) -> bool:
        """Whether another worker would get its turn now."""
        with file.open("a") as other:
            try:
                fcntl.flock(other, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with turn(False):
        assert free(fcntl.LOCK_SH)
        assert not free(fcntl.LOCK_EX)
    with turn(True):
        assert not free(fcntl.LOCK_SH)
    assert free(fcntl.LOCK_EX)
