"""Conformance and speed of the operators that a Llama or a Qwen3 uses, as far as the time goes."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.parts import NotDoneError, Part
from flagrelease.operators.cases import OPERATORS
from flagrelease.operators.check import Plan, make_plan, run
from flagrelease.operators.environment import environment
from flagrelease.operators.results import judge_operator, read_lines
from flagrelease.operators.shapes import SMALL_MODEL, read_shapes

# As transformers asks of a Llama; those that cost most of its time first.
LLAMA = (
    *("mm", "bmm", "softmax", "mul", "add", "rsqrt", "mean_dim", "pow_tensor_scalar", "silu", "neg"),
    *("embedding", "cos", "sin", "le"),
)
# As a server's own kernels of a Qwen3 are replaced, and its sampling.
QWEN3 = (
    *("rms_norm", "fused_add_rms_norm", "silu_and_mul", "apply_rotary_pos_emb", "scaled_dot_product_attention"),
    *("addmm", "log_softmax", "argmax", "topk", "sort", "cumsum", "index_select", "gather", "masked_fill"),
    *("sub", "true_divide", "exp", "maximum", "max_dim", "sum_dim", "amax"),
)
ON_A_CPU = ("add", "silu", "rms_norm", "softmax")
"""A handful that the interpreter is through with in seconds."""
LONGEST_S = 100.0
"""Most seconds of one operator, so that one that tunes for minutes leaves time to the others."""
TUNE_LONG = frozenset({"mm", "addmm", "bmm"})
"""Operators with over a hundred configurations, compiled anew for many sizes. Each is asked last and with no other
beside it: the others would wait for the device until their time is over."""
AT_ONCE = 6
"""Operators at once on a device: importing and comparing take longer than the device, which each of them has alone
while it tunes or times (`flagrelease.operators.worker`)."""


def names(listed: Sequence[str], asked: Sequence[str] | None, device: str | None) -> tuple[str, ...]:
    """Which operators are checked, in their order: those that the served model's server listed come first."""
    if asked:
        return tuple(asked)
    if device == "cpu":
        return ON_A_CPU
    wanted = [*LLAMA, *QWEN3]
    first = [name for name in wanted if name in listed]
    first += [name for name in listed if name in OPERATORS and name not in first]
    return tuple(dict.fromkeys([*first, *wanted]))


def check(
    part: Part,
    folder: Path,
    say: Callable[[str], None],
    *,
    listed: Sequence[str],
    asked: Sequence[str] | None,
    device: str | None,
    sizes: Path | None,
) -> None:
    """Check the operators, each in its own process group, until the part's time is over.

    Raises NotDoneError naming those that were not, or not wholly, asked.
    """
    shapes = read_shapes(sizes, str(sizes)) if sizes else SMALL_MODEL
    plan = make_plan(environment(), shapes, names(listed, asked, device), device)
    rows: list[dict[str, Any]] = []
    unasked = list(plan.operators)
    part.found |= {"device": plan.device, "interpreter": plan.device == "cpu", "versions": plan.environment.versions()}
    part.found |= {"shapes": shapes.as_json(), "operators": rows, "not_asked": unasked}
    part.found["listed_without_reference"] = [name for name in listed if name not in OPERATORS]
    at_once = 1 if plan.device == "cpu" else AT_ONCE
    for operator, seconds in _each(part, plan, folder, at_once):
        row = _row(plan, operator, folder) | {"listed": operator in listed, "seconds": round(seconds, 1)}
        # Also one that could not be asked: its line says why.
        if row["lines"]:
            rows.append(row)
            unasked.remove(operator)
        say(f"{operator}: {row['verdict'] if not row['left_out'] else 'not wholly asked'} ({seconds:.0f} s)")
    rows.sort(key=lambda row: plan.operators.index(row["operator"]))
    partly = [row["operator"] for row in rows if row["left_out"]]
    if unasked or partly:
        raise NotDoneError(
            "; ".join(
                f"{what}: {', '.join(which)}"
                for what, which in (("not asked", unasked), ("not wholly asked", partly))
                if which
            )
        )


def _each(part: Part, plan: Plan, folder: Path, at_once: int) -> Iterator[tuple[str, float]]:
    """Check the operators; each with its seconds as it ends, or is killed because its time or the part's is over.

    What a killed one wrote counts.
    """
    waiting, running = sorted(plan.operators, key=TUNE_LONG.__contains__), dict[int, _Running]()
    while waiting or running:
        while waiting and len(running) < (1 if waiting[0] in TUNE_LONG else at_once) and part.left() > 1:
            one = _start(replace(plan, operators=(waiting.pop(0),)), folder)
            running[one.process.sentinel] = one
        if not running:
            return
        first = min(one.begun for one in running.values()) + LONGEST_S - time.monotonic()
        ended = wait(list(running), max(0.0, min(first, part.left())))
        for sentinel, one in list(running.items()):
            seconds = time.monotonic() - one.begun
            if sentinel not in ended and seconds < LONGEST_S and part.left() > 0:
                continue
            one.end()
            del running[sentinel]
            yield one.operator, seconds


class _Running(NamedTuple):
    """A process group that checks an operator."""

    operator: str
    process: multiprocessing.process.BaseProcess
    begun: float

    def end(self) -> None:
        """Kill what is left of it."""
        if self.process.is_alive() and self.process.pid:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()


def _start(plan: Plan, folder: Path) -> _Running:
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(plan, folder))
    process.start()
    return _Running(plan.operators[0], process, time.monotonic())


def _alone(plan: Plan, folder: Path) -> None:
    os.setsid()
    run(plan, folder)


def _row(plan: Plan, operator: str, folder: Path) -> dict[str, Any]:
    lines = read_lines(folder / plan.key() / f"{operator}.jsonl")
    result = judge_operator(operator, plan.cases(operator), lines, plan.device)
    found = result.as_json()
    found["left_out"] = len(found.pop("missing"))
    return {**found, "asked": result.cases - found["left_out"] if result.cases else len(lines), "lines": lines}
