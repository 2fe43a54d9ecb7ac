"""Asks torch's operators in FlagGems' place, on a CPU that counts as a device, with a clock that is a stand-in.

A program for the Python that has torch. It prints, as JSON: how far each operator's native kernel is from the
reference, in tolerances, with which inputs it changed; and the workers' lines of four operators that are timed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import triton.testing

from flagrelease.operators import worker
from flagrelease.operators.cases import CPU, cases_of
from flagrelease.operators.inputs import Maker
from flagrelease.operators.judge import distance
from flagrelease.operators.reference import QUESTIONS
from flagrelease.operators.shapes import Shapes

SMALL = Shapes("small", 64, 96, 4, 2, 16, 128, experts=8, experts_per_token=2, dtype="float32")
DEVICE = "cpu:0"


def _model_cases(operator: str) -> list[Any]:
    return [case for case in cases_of(operator, SMALL, CPU) if case.group == "model"]


def judged(operator: str) -> dict[str, Any]:
    """The native kernel's distance from the reference, and which of its inputs it changed."""
    question, furthest, changed = QUESTIONS[operator], 0.0, set()
    for case in _model_cases(operator):
        made = Maker(operator, case, DEVICE)
        inputs = question.inputs(made)
        wide = [worker._widened(each) for each in inputs]
        answer = question.native(*inputs)
        for found, wanted in question.pairs(answer, wide, made):
            furthest = max(furthest, distance(found, wanted, case.dtype, case.reduction).ratio)
        for at, (now, before) in enumerate(zip(inputs, wide, strict=True)):
            # Room for a result holds NaN.
            if isinstance(now, torch.Tensor) and not torch.equal(now.to(before).nan_to_num(), before.nan_to_num()):
                changed.add(at)
    return {"furthest": furthest, "changed": sorted(changed)}


def _in_place(x: Any, residual: Any, shape: Any, weight: Any, epsilon: float) -> Any:
    residual += x
    x.copy_(torch.nn.functional.rms_norm(residual, shape, weight, epsilon))
    return x, residual


def _wrong(_: Any) -> Any:
    return torch.zeros(1)


STAND_IN = SimpleNamespace(mm=torch.mm, fused_add_rms_norm=_in_place, neg=torch.neg, abs=_wrong)


def main() -> None:
    told: list[Any] = []

    def clock(function: Any, *, return_mode: str, grad_to_none: Any = None) -> float:
        """Ask three times as `do_bench` does; of `neg` there is too little memory."""
        assert return_mode == "median"
        assert held == [True], "others use the device"
        answers = []
        for _ in range(3):
            for each in grad_to_none or []:
                each.grad = None
            answer = function()
            answers.append([part.clone() for part in answer] if isinstance(answer, tuple) else [answer.clone()])
        told.append(all(torch.equal(a, b) for one in answers for a, b in zip(one, answers[0], strict=True)))
        if operator == "neg":
            raise torch.OutOfMemoryError("no room for the cache")
        return 2.0 if grad_to_none else 3.0

    held: list[bool] = []

    @contextmanager
    def turn(alone: bool) -> Iterator[None]:
        held.append(alone)
        yield
        held.pop()

    triton.testing.do_bench = clock
    lines: dict[str, list[dict[str, Any]]] = {}
    for operator in vars(STAND_IN):
        lines[operator] = [
            {"group": case.group, **worker._answer(STAND_IN, operator, case.as_json(), DEVICE, turn)}
            for case in cases_of(operator, SMALL, CPU)
        ]
    on_a_cpu = worker._answer(STAND_IN, "mm", _model_cases("mm")[0].as_json(), "cpu", turn)
    found = {operator: judged(operator) for operator in QUESTIONS}
    print(json.dumps({"native": found, "lines": lines, "on a CPU": on_a_cpu, "repetitions are alike": told}))


if __name__ == "__main__":
    main()
