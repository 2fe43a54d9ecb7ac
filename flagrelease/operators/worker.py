"""The process of one operator: asks its cases, one after the other, and writes a line of JSON for each.

Read from standard input, as JSON: operator, module (where the function is, `flag_gems` or one that stands in for it),
device, cases, results (the file to append to). A case's line is written before the next case begins, so that what ran
before a crash is kept, and the first case without a line is the one that crashed.

On a device the cases of the model's sizes that match are timed too (`speed`). Other workers that write beside this one
may import and compare meanwhile, and ask edge cases, but none of them uses the device while another one tunes or times.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from flagrelease.operators.speed import timed

FLAG_GEMS = "flag_gems"
_LONGEST = 300
Turn = Callable[[bool], AbstractContextManager[None]]
"""Called with whether the device is wanted alone."""


def main() -> None:
    """Run the operator's cases."""
    asked = json.load(sys.stdin)
    if asked["device"] == "cpu":
        from flagrelease.operators.interpreter import import_flag_gems, prepare_environment
        from flagrelease.operators.interpreter_mends import mend_interpreter

        prepare_environment()
        import_flag_gems() if asked["module"] == FLAG_GEMS else mend_interpreter()
    module = importlib.import_module(asked["module"])
    results = Path(asked["results"])
    turn: Turn = (lambda _: nullcontext()) if asked["device"] == "cpu" else _turn(results.with_name("device.lock"))
    with results.open("a") as file:
        for case in asked["cases"]:
            start = time.monotonic()
            line = _answer(module, asked["operator"], case, asked["device"], turn)
            line["seconds"] = round(time.monotonic() - start, 3)
            file.write(json.dumps({"case": case["name"], "group": case["group"], **line}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _turn(file: Path) -> Turn:
    @contextmanager
    def turn(alone: bool) -> Iterator[None]:
        with file.open("a") as lock:
            # Closing the file, or dying, gives it back.
            fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

    return turn


def _answer(module: Any, operator: str, case: dict[str, Any], device: str, turn: Turn) -> dict[str, Any]:
    import torch

    from flagrelease.operators.cases import Case
    from flagrelease.operators.inputs import Maker
    from flagrelease.operators.judge import distance
    from flagrelease.operators.reference import QUESTIONS

    question, made = QUESTIONS[operator], Maker(operator, Case(**case), device)
    inputs = question.inputs(made)
    wide = [_widened(each) for each in inputs]
    try:
        function = getattr(module, operator)
        # The first call of a size tunes, which measures.
        with turn(made.case.group == "model"):
            answer = question.call(function, *inputs)
        pairs = question.pairs(answer, wide, made)
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        # A kernel cannot raise on a device: what raises within one is what the interpreter does not know.
        inside = type(error).__name__ == "InterpreterError"
        return {"outcome": "not runnable" if inside else "raises", "reason": said[:_LONGEST]}
    distances = []
    for found, wanted in pairs:
        # What was looked up in the widened inputs is of the case's type.
        kind = made.case.dtype if found.dtype == torch.float64 else str(found.dtype).removeprefix("torch.")
        distances.append(distance(found, wanted, kind, made.case.reduction))
    worst = max(distances, key=lambda each: each.ratio)
    outcome = "matches" if worst.ratio <= 1 else "differs"
    numbers = {"ratio": worst.ratio, "error": worst.error, "tolerance": worst.tolerance}
    line = {
        "outcome": outcome,
        "reason": worst.reason,
        **{k: v if v < float("inf") else None for k, v in numbers.items()},
    }
    if outcome == "matches" and made.case.group == "model" and device != "cpu":
        from triton.testing import do_bench

        # Made anew: what is written over in place is no longer the case's.
        inputs = question.inputs(Maker(operator, made.case, device))
        with turn(True):
            line |= timed(question, function, inputs, do_bench)
    return line


def _widened(value: Any) -> Any:
    """A tensor on the CPU, numbers in float64; anything else as it is."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    there = value.detach().cpu().clone()
    return there.to(torch.float64) if there.is_floating_point() else there


if __name__ == "__main__":
    main()
