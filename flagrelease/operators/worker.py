"""The process of one operator: asks its cases, one after the other, and writes a line of JSON for each.

Read from standard input, as JSON: operator, module (where the function is, `flag_gems` or one that stands in for it),
device, cases, results (the file to append to). A case's line is written before the next case begins, so that what ran
before a crash is kept, and the first case without a line is the one that crashed. Where memory runs out, that case and
those after it have no line, what is printed last says why, and the exit code is `NO_VERDICT`.

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
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from flagrelease.operators.speed import said, timed

FLAG_GEMS = "flag_gems"
NO_VERDICT = 75
"""Exit code where something says nothing of the operator: memory ran out, or FlagGems cannot be imported. EX_TEMPFAIL
of sysexits.h."""
_FULL = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
"""What torch, Triton and drivers say of a full device or host, of which not all have an error of their own."""
Turn = Callable[[bool], AbstractContextManager[None]]
"""Called with whether the device is wanted alone."""


def main() -> None:
    """Run the operator's cases."""
    asked = json.load(sys.stdin)
    try:
        module = _imported(asked)
    except Exception as error:
        _give_up(f"{asked['module']} cannot be imported", error)
    try:
        _ask(asked, module)
    except Exception as error:
        if not _memory_ran_out(error):
            raise
        _give_up("memory ran out, so free the device and the host", error)
    # A vendor's torch may die when the interpreter ends, which is no fault of the operator. On a CPU the normal end is
    # what shows a heap that was written over.
    if asked["device"] != "cpu":
        _end(0)


def _give_up(why: str, error: Exception) -> NoReturn:
    traceback.print_exc()
    print(f"{why}: {said(error)}", file=sys.stderr)
    _end(NO_VERDICT)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _memory_ran_out(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _FULL)


def _imported(asked: dict[str, Any]) -> Any:
    if asked["device"] == "cpu":
        from flagrelease.operators.interpreter import import_flag_gems, prepare_environment
        from flagrelease.operators.interpreter_mends import mend_interpreter

        prepare_environment()
        import_flag_gems() if asked["module"] == FLAG_GEMS else mend_interpreter()
    return importlib.import_module(asked["module"])


def _ask(asked: dict[str, Any], module: Any) -> None:
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
        if _memory_ran_out(error):
            raise
        # A kernel cannot raise on a device: what raises within one is what the interpreter does not know.
        inside = type(error).__name__ == "InterpreterError"
        return {"outcome": "not runnable" if inside else "raises", "reason": said(error)}
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
