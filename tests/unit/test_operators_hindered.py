"""What ends an operator's process: its own fault, or something that says nothing of it, and the same command goes on.

The worker is the real one; torch, the question and the operator are stand-ins.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.operators import check
from flagrelease.operators.check import Plan, kept, run
from flagrelease.operators.environment import Environment
from flagrelease.operators.results import OperatorResult, read_lines
from flagrelease.operators.shapes import SMALL_MODEL
from tests.conftest import ROOT

HERE = Environment(Path(sys.executable), Path("flag_gems"), "5.0.2", "2.13.0", "3.5.1", "1.26.4", "0.1.0")
# Imported in the worker's process before it, by name: `python -m flagrelease.operators.worker` finds this folder first.
STAND_IN_WORKER = """
import sys
from types import ModuleType, SimpleNamespace


def module(name, **content):
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(content)


class Maker:
    def __init__(self, operator, case, device):
        self.case = case


def inputs(made):
    exec(compile(FAULT["inputs"], "inputs", "exec"), {"case": made.case})
    return []


def operator():
    exec(compile(FAULT["operator"], "operator", "exec"), {"case": CASES[-1]})


CASES = []
question = SimpleNamespace(
    inputs=lambda made: CASES.append(made.case) or inputs(made),
    call=lambda function: function(),
    pairs=lambda *_: [(SimpleNamespace(dtype="float32"), None)],
    native=None,
    changed=(),
)
far = SimpleNamespace(ratio=0.5, error=0.1, tolerance=0.2, reason="")
module("torch", Tensor=type("Tensor", (), {}), float64="float64")
module("triton")
module("triton.testing", do_bench=lambda *_, **__: 1.0)
module("flagrelease.operators.inputs", Maker=Maker)
module("flagrelease.operators.judge", distance=lambda *_: far)
module("flagrelease.operators.reference", QUESTIONS={"add": question, "neg": question})
module("stand_in_operators", add=operator, neg=lambda: None)
from flagrelease.operators import worker
sys.modules["triton"].testing = sys.modules["triton.testing"]
worker.main()
"""
AT_THE_THIRD = "import os, signal\nif case.name == {third!r}: "


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Two operators on a device that is a stand-in."""
    monkeypatch.setattr(check, "WORKER", "stand_in_worker")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return Plan(HERE, "cuda", SMALL_MODEL, ("add", "neg"), "stand_in_operators")


def checked(plan: Plan, folder: Path, *, operator: str = "", inputs: str = "", ends: str = "") -> list[OperatorResult]:
    """Check with these faults of the operator `add` and of what makes inputs, at the third case."""
    third = plan.cases("add")[2].name
    fault = {
        "operator": AT_THE_THIRD.format(third=third) + (operator or "pass"),
        "inputs": AT_THE_THIRD.format(third=third) + (inputs or "pass"),
    }
    program = f"FAULT = {fault!r}\nimport atexit, os\n{ends}\n{STAND_IN_WORKER}"
    (folder / "stand_in_worker.py").write_text(program)
    return run(plan, folder / "results")


KILLED = "os.kill(os.getpid(), signal.{})"


@pytest.mark.parametrize(
    ("operator", "inputs", "said"),
    [
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "", "memory ran out, so free the device"),
        ("raise MemoryError", "", "memory ran out"),
        ("", "raise RuntimeError('NPU out of memory')", "RuntimeError: NPU out of memory; the same command goes on"),
        (KILLED.format("SIGKILL"), "", "ended by SIGKILL"),
        (KILLED.format("SIGTERM"), "", "ended by SIGTERM"),
    ],
)
def test_what_says_nothing_of_an_operator_is_no_verdict_and_the_same_command_goes_on(
    plan: Plan, tmp_path: Path, operator: str, inputs: str, said: str
) -> None:
    names = [case.name for case in plan.cases("add")]
    add, neg = checked(plan, tmp_path, operator=operator, inputs=inputs)
    assert (add.verdict, add.matching) == ("not runnable here", 2)
    assert add.reason.startswith(f"{len(names) - 2} of {len(names)} cases not asked: ")
    assert said in add.reason
    # Inputs that are too large are so for both.
    assert neg.verdict == ("not runnable here" if inputs else "matches")
    known = [result.operator for result in kept(plan, tmp_path / "results") if result.cases]
    assert known == ([] if inputs else ["neg"])

    add, neg = checked(plan, tmp_path)
    assert (add.verdict, neg.verdict, add.reason) == ("matches", "matches", "")
    asked = [line["case"] for line in read_lines(tmp_path / "results" / plan.key() / "add.jsonl")]
    assert asked == [*names[:3], *names[2:]]


def test_what_cannot_be_imported_says_nothing_of_an_operator(plan: Plan, tmp_path: Path) -> None:
    results = checked(replace(plan, module="not_there"), tmp_path)
    assert {result.verdict for result in results} == {"not runnable here"}
    assert "not_there cannot be imported: ModuleNotFoundError: No module named 'not_there'" in results[0].reason


def test_time_that_is_over_is_no_verdict(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def over(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("worker", timeout)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", over)
        results = run(plan, tmp_path / "results")
    assert {result.verdict for result in results} == {"not runnable here"}
    assert "no answer within 600 s; the same command goes on" in results[0].reason
    assert {result.verdict for result in checked(plan, tmp_path)} == {"matches"}


@pytest.mark.parametrize(
    ("operator", "verdict", "said"),
    [
        (KILLED.format("SIGSEGV"), "crashed", "SIGSEGV (memory was written out of bounds)"),
        (KILLED.format("SIGABRT"), "crashed", "SIGABRT"),
        (KILLED.format("SIGFPE"), "crashed", "SIGFPE"),
        ("os._exit(3)", "crashed", "exit code 3"),
        ("raise SystemExit(4)", "crashed", "exit code 4"),
        ("raise ValueError('no such size')", "differs", "ValueError: no such size"),
        # A kernel that wants more than the device ever has is one that fails.
        ("raise RuntimeError('out of resource: shared memory')", "differs", "out of resource"),
    ],
)
def test_what_an_operator_does_to_its_process_is_its_own(
    plan: Plan, tmp_path: Path, operator: str, verdict: str, said: str
) -> None:
    add, neg = checked(plan, tmp_path, operator=operator)
    assert (add.verdict, neg.verdict) == (verdict, "matches")
    assert said in add.reason
    assert plan.cases("add")[2].name in add.reason
    assert checked(plan, tmp_path)[0].verdict == verdict


def test_a_fault_that_is_known_stays_one_where_the_rest_could_not_be_asked(plan: Plan, tmp_path: Path) -> None:
    place = tmp_path / "results" / plan.key()
    place.mkdir(parents=True)
    first = plan.cases("add")[0]
    line = {"case": first.name, "group": first.group, "outcome": "differs", "reason": "1 at element 0"}
    (place / "add.jsonl").write_text(json.dumps(line) + "\n")
    add, _ = checked(plan, tmp_path, operator=KILLED.format("SIGKILL"))
    assert add.verdict == "differs"
    assert "1 at element 0" in add.reason
    assert "cases not asked: ended by SIGKILL" in add.reason


def test_a_crash_within_a_line_is_not_lost(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "results" / plan.key() / "add.jsonl"
    half = f"open({str(file)!r}, 'a').write('{{\"case\": ') and os.abort()"
    add, _ = checked(plan, tmp_path, operator=half)
    assert (add.verdict, add.missing) == ("crashed", ())
    assert [line["outcome"] for line in read_lines(file)] == ["matches", "matches", "crashed"]


def test_a_torch_that_dies_when_the_interpreter_ends_is_no_crash_on_a_device(plan: Plan, tmp_path: Path) -> None:
    assert {each.verdict for each in checked(plan, tmp_path, ends="atexit.register(os.abort)")} == {"matches"}
