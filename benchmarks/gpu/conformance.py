"""Conformance and speed of the operators that a Llama or a Qwen3 uses, as far as the time goes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
LONGEST_S = 75.0
"""Most seconds of one operator, so that one that tunes for minutes leaves time to the others."""


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
    """Check one operator after the other, each in its own process group, until the part's time is over.

    Raises NotDoneError naming those that were not, or not wholly, asked.
    """
    shapes = read_shapes(sizes, str(sizes)) if sizes else SMALL_MODEL
    plan = make_plan(environment(), shapes, names(listed, asked, device), device)
    rows: list[dict[str, Any]] = []
    unasked = list(plan.operators)
    part.found |= {"device": plan.device, "interpreter": plan.device == "cpu", "versions": plan.environment.versions()}
    part.found |= {"shapes": shapes.as_json(), "operators": rows, "not_asked": unasked}
    part.found["listed_without_reference"] = [name for name in listed if name not in OPERATORS]
    for operator in plan.operators:
        if part.left() < 1:
            break
        begun = time.monotonic()
        _within(min(LONGEST_S, part.left()), replace(plan, operators=(operator,)), folder)
        row = _row(plan, operator, folder)
        row |= {"listed": operator in listed, "seconds": round(time.monotonic() - begun, 1)}
        if row["asked"]:
            rows.append(row)
            unasked.remove(operator)
        say(f"{operator}: {row['verdict'] if not row['left_out'] else 'not wholly asked'} ({row['seconds']:.0f} s)")
    partly = [row["operator"] for row in rows if row["left_out"]]
    if unasked or partly:
        raise NotDoneError(
            "; ".join(
                f"{what}: {', '.join(which)}"
                for what, which in (("not asked", unasked), ("not wholly asked", partly))
                if which
            )
        )


def _within(seconds: float, plan: Plan, folder: Path) -> None:
    """Check the plan's operators; after so many seconds it and what it started are killed, and what is there counts."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(plan, folder))
    process.start()
    process.join(seconds)
    if process.is_alive() and process.pid:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()


def _alone(plan: Plan, folder: Path) -> None:
    os.setsid()
    run(plan, folder)


def _row(plan: Plan, operator: str, folder: Path) -> dict[str, Any]:
    lines = read_lines(folder / plan.key() / f"{operator}.jsonl")
    result = judge_operator(operator, plan.cases(operator), lines, plan.device)
    found = result.as_json()
    found["left_out"] = len(found.pop("missing"))
    return {**found, "asked": result.cases - found["left_out"] if result.cases else len(lines), "lines": lines}
