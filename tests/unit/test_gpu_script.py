"""The script for a host with a GPU: time that is over, operators that hang, and what its Markdown says of a device."""

from __future__ import annotations

import copy
import json
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import conformance, operators, serving
from benchmarks.gpu import whole as script
from benchmarks.gpu.parts import NotDoneError, Part, Parts
from benchmarks.gpu.report import markdown
from flagrelease.operators.cases import OPERATORS
from flagrelease.operators.check import Plan
from flagrelease.operators.environment import Environment
from flagrelease.operators.shapes import SMALL_MODEL

HERE = Environment(Path(sys.executable), Path("flag_gems"), "5.0.2", "2.9.0", "3.5.1", "1.26.4", "0.1.0")


def nothing(*_: object) -> None:
    """A log that nobody reads."""


def parts(seconds: float) -> Parts:
    return Parts(seconds, ValueError, nothing, nothing)


def test_a_part_that_cannot_go_on_says_why_and_keeps_what_it_found() -> None:
    def half(part: Part) -> None:
        part.found["canary"] = "passed"
        raise NotDoneError("12 of 250 questions answered")

    def fails(_: Part) -> None:
        raise ValueError("the server died")

    def broken(_: Part) -> None:
        raise KeyError("an error of the program")

    whole = parts(60)
    whole.run("half", 30, half)
    whole.run("fails", 30, fails)
    whole.run("works", 30, nothing)
    told = [(part.name, part.done, part.why_not, part.found) for part in whole.all]
    assert told == [
        ("half", False, "12 of 250 questions answered", {"canary": "passed"}),
        ("fails", False, "the server died", {}),
        ("works", True, "", {}),
    ]
    with pytest.raises(KeyError):
        whole.run("broken", 30, broken)


def test_what_has_no_time_left_is_not_begun_and_named() -> None:
    def never(_: Part) -> None:
        raise AssertionError

    whole = parts(3)
    whole.run("late", 30, never)
    (part,) = whole.all
    assert (part.done, part.why_not) == (False, "no time was left")


def plan(*operators: str) -> Plan:
    return Plan(HERE, "cuda", SMALL_MODEL, operators)


def stand_in_of_run(asked: Plan, folder: Path) -> None:
    """Asks nothing: `add` answers as from a device, `mm` hangs at its third case, `mul` at its first."""
    (operator,) = asked.operators
    cases = asked.cases(operator)
    for case in cases if operator == "add" else cases[: {"mm": 2, "mul": 0}[operator]]:
        line = {"case": case.name, "group": case.group, "outcome": "matches", "reason": "", "seconds": 0.1}
        line |= {"native_ms": 0.02, "flaggems_ms": 0.01} if case.group == "model" else {}
        file = folder / asked.key() / f"{operator}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
    if operator != "add":
        signal.pause()


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Part:
    """Three operators asked on a device that is a stand-in, two of which hang."""
    folder = tmp_path_factory.mktemp("operators")

    def work(part: Part) -> None:
        asked, listed = ["add", "mm", "mul"], ["add", "cat"]
        conformance.check(part, folder, nothing, listed=listed, asked=asked, device="cuda", sizes=None)

    whole = parts(600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conformance, "run", stand_in_of_run)
        patch.setattr(conformance, "environment", lambda: HERE)
        patch.setattr(conformance, "make_plan", lambda _, __, names, ___: plan(*names))
        patch.setattr(conformance, "LONGEST_S", 0.5)
        whole.run("operators", 600, work)
    return whole.all[0]


def test_operators_that_hang_leave_time_to_the_others_and_are_no_verdict(checked: Part) -> None:
    add, mm = checked.found["operators"]
    assert (add["operator"], add["verdict"], add["left_out"]) == ("add", "matches", 0)
    assert add["speed_ratio"] == pytest.approx(2.0)
    assert (mm["operator"], mm["asked"]) == ("mm", 2)
    assert mm["left_out"] == mm["cases"] - 2
    assert checked.found["not_asked"] == ["mul"]
    assert checked.found["listed_without_reference"] == ["cat"]
    assert (checked.done, checked.why_not) == (False, "not asked: mul; not wholly asked: mm")


def test_operators_that_tune_long_come_last_and_with_no_other_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[str] = []
    beside: dict[str, list[str]] = {}

    def stand_in_of_start(asked: Plan, _: Path) -> Any:
        (operator,) = asked.operators
        beside[operator] = list(alive)
        alive.append(operator)
        process = SimpleNamespace(sentinel=operator, is_alive=lambda: False, join=lambda: alive.remove(operator))
        return conformance._Running(operator, process, time.monotonic())  # type: ignore[arg-type]

    monkeypatch.setattr(conformance, "_start", stand_in_of_start)
    monkeypatch.setattr(conformance, "wait", lambda running, _: running[:1])

    def work(part: Part) -> None:
        list(conformance._each(part, plan("mm", "add", "bmm", "mul", "neg"), tmp_path, 6))

    parts(600).run("operators", 600, work)
    assert beside == {"add": [], "mul": ["add"], "neg": ["add", "mul"], "mm": [], "bmm": []}


def test_an_operator_that_could_not_be_asked_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_in_of_run(asked: Plan, folder: Path) -> None:
        case = asked.cases("add")[0]
        line = {"case": case.name, "group": case.group, "outcome": "not asked", "reason": "memory ran out"}
        (folder / asked.key()).mkdir(parents=True)
        (folder / asked.key() / "add.jsonl").write_text(json.dumps(line) + "\n")

    def work(part: Part) -> None:
        conformance.check(part, tmp_path, nothing, listed=[], asked=["add"], device="cuda", sizes=None)

    monkeypatch.setattr(conformance, "run", stand_in_of_run)
    monkeypatch.setattr(conformance, "environment", lambda: HERE)
    monkeypatch.setattr(conformance, "make_plan", lambda _, __, names, ___: plan(*names))
    measured = parts(600)
    measured.run("operators", 600, work)
    (row,) = [line for line in markdown(whole(measured.all[0])).splitlines() if line.startswith("| add ")]
    assert "not wholly asked" in row
    assert "memory ran out" in row


def test_a_measurement_that_was_not_done_says_what_a_second_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(device: str) -> str:
        (tmp_path / "out").mkdir(exist_ok=True)
        asked = Namespace(items=None, prompts=None, minutes=0, out=tmp_path / "out")
        assert script._Whole(asked, tmp_path, device).run() == 1
        return capsys.readouterr().out

    monkeypatch.setattr(script, "environment", lambda: HERE)
    monkeypatch.setattr(script, "_device", lambda device: {"device": device, "name": "a GPU"})
    monkeypatch.setattr(serving.ENGINE, "version", lambda: "2.9.0")
    assert "a second run on this machine goes on" in told("cuda")
    assert "a second run" not in told("cpu")


def test_what_asks_other_pythons_hands_them_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\n")
    python.chmod(0o755)
    monkeypatch.setenv("HF_TOKEN", "hf_of_mine")
    monkeypatch.setenv("ANYTHING", "plain")
    assert operators.missing(operators.parsed(["--out", "x", "--torch", str(python), "--weights", "w"])) is not None
    found = (tmp_path / "environment").read_text()
    assert "ANYTHING=plain" in found
    assert "hf_of_mine" not in found


@pytest.mark.parametrize(("asked", "named"), [(None, "no accelerator"), ("cuda", "no cuda")])
def test_without_the_device_nothing_is_measured(
    asked: str | None, named: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "environment", lambda: HERE)
    monkeypatch.setattr(script, "device_of", lambda _: "cpu")
    assert script.measure(Namespace(device=asked), home) == 2
    said = capsys.readouterr().out
    assert named in said
    assert "--device cpu" in said


def test_what_the_server_listed_is_asked_first_and_all_have_a_reference() -> None:
    names = conformance.names(["cat", "silu", "tanh"], None, "cuda")
    assert names[:2] == ("silu", "tanh")
    assert set(names) > {*conformance.LLAMA, *conformance.QWEN3}
    assert len(set(names)) == len(names)
    assert set(names) <= OPERATORS.keys()
    assert conformance.names(["cat"], ["mm"], "cuda") == ("mm",)


def whole(part: Part) -> dict[str, Any]:
    return {
        "date": "2026-01-01T00:00:00+00:00",
        "device": {"device": "cuda", "name": "a GPU", "driver": "1.2", "cuda": "13.0"},
        "versions": {"flag_gems": "5.0.2"},
        "interpreter": False,
        "flagos": "FlagGems",
        "budget_s": 480.0,
        "seconds": 400.0,
        "parts": [part.as_json()],
    }


def test_the_markdown_of_a_device_shows_speed_and_what_was_not_done(checked: Part) -> None:
    shown = markdown(whole(checked))
    assert shown.startswith("# FlagGems on a GPU\n")
    assert "driver 1.2" in shown
    assert "Run up to the device only" not in shown
    cases = checked.found["operators"][0]["cases"]
    assert f"| add * | {cases}/{cases} |  | 2.00 (" in shown
    (mm,) = [line for line in shown.splitlines() if line.startswith("| mm ")]
    assert "not wholly asked" in mm
    assert "matches" not in mm
    assert "Not asked, for want of time: mul." in shown
    assert "Ran in the server and have no reference: cat." in shown


def test_the_markdown_names_why_nothing_was_timed(checked: Part) -> None:
    told = copy.deepcopy(whole(checked))
    row = told["parts"][0]["found"]["operators"][0]
    row |= {"speed_ratio": None, "lines": [{"no_speed": "OutOfMemoryError: a | b"}]}
    assert "OutOfMemoryError: a \\| b" in markdown(told)
