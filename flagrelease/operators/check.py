"""Conformance: each operator in a process of its own, its results kept, what is there not asked again."""

from __future__ import annotations

import difflib
import json
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from flagrelease.chip import Chip
from flagrelease.errors import OutputError, PreflightError, UnknownNameError
from flagrelease.operators.cases import ACCELERATOR, CPU, OPERATORS, Case, cases_of
from flagrelease.operators.catalogue import KNOWN_VERSION
from flagrelease.operators.environment import INSTALL, Environment, Loaded, device_of, loaded
from flagrelease.operators.results import NOT_ASKED, OperatorResult, judge_operator, read_lines
from flagrelease.operators.shapes import Shapes
from flagrelease.operators.worker import NO_VERDICT
from flagrelease.records import digest
from flagrelease.secrets import child_environment

WORKER = "flagrelease.operators.worker"
TIMEOUT = 600.0
"""Seconds that one operator may take; on a device most of it is compiling."""
_OWN_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP})
"""What a program gives itself; the others are sent by somebody else, such as the host where memory runs out."""
_METHOD = 3
"""Raise where a change of cases, references, judge or timing makes stored results others."""


@dataclass(frozen=True)
class Plan:
    """What is checked where."""

    environment: Environment
    device: str
    shapes: Shapes
    operators: tuple[str, ...]
    module: str = "flag_gems"
    """Where the functions are; another one is imported by the workers instead."""
    chip: str | None = None
    """Which chip of the matrix the device is of, where that was said."""
    loaded: Loaded | None = None
    """What FlagGems took on the device; none in the interpreter."""

    def key(self) -> str:
        """Results of the same key are results of the same thing."""
        about = {
            "method": _METHOD,
            "device": self.device,
            "shapes": self.shapes.as_json(),
            "module": self.module,
            **self.environment.versions(),
            # Devices of several vendors have one name, and architectures operators of their own.
            **({"loaded": [self.loaded.vendor, self.loaded.name, self.loaded.modules]} if self.loaded else {}),
        }
        return digest(about)[:16]

    def notes(self) -> list[str]:
        """What is to be known of the results."""
        found, triton = self.environment.flag_gems, self.environment.triton
        if self.module != "flag_gems":
            return []
        notes = []
        if found != KNOWN_VERSION:
            notes.append(f"FlagGems {found} is installed, and the operators were chosen for {KNOWN_VERSION}")
        if self.device != "cpu" and _launches_wrongly(found or "", triton or ""):
            notes.append(f"FlagGems {found} launches kernels as Triton 3.3 to 3.6 take them, and {triton} is installed")
        return notes

    def cases(self, operator: str) -> list[Case]:
        """What the operator is asked here."""
        return cases_of(operator, self.shapes, CPU if self.device == "cpu" else ACCELERATOR)


def _launches_wrongly(flag_gems: str, triton: str) -> bool:
    # `flag_gems/utils/libentry.py` leaves constants out of a launch but for these; a vendor's Triton may take that.
    try:
        return Version(flag_gems).release[:2] == (5, 0) and Version(triton).release[:2] >= (3, 7)
    except InvalidVersion:
        return False


def make_plan(
    found: Environment,
    shapes: Shapes,
    operators: Sequence[str] = (),
    device: str | None = None,
    module: str = "flag_gems",
    *,
    chip: Chip | None = None,
) -> Plan:
    """Check what is asked before anything is run; the results are to be of `chip`, where that is said.

    Raises UnknownNameError for an operator that has no reference here, PreflightError where a package or the device is
    missing, or the device cannot be used or is not the chip's.
    """
    for name in operators:
        if name not in OPERATORS:
            near = difflib.get_close_matches(name, OPERATORS, n=3)
            remedy = f"did you mean {' or '.join(near)}?" if near else f"one of: {', '.join(sorted(OPERATORS))}"
            raise UnknownNameError(f"no reference is known for the operator {name!r}", remedy=remedy)
    needed = ("torch", "triton", "numpy", "flagrelease", *(["flag_gems"] if module == "flag_gems" else []))
    missing = [name for name in needed if getattr(found, name) is None]
    if missing:
        raise PreflightError(f"{found.python} lacks {', '.join(missing)}", remedy=INSTALL)
    here = device_of(found) if device != "cpu" else "cpu"
    if device not in (None, here):
        raise PreflightError(
            f"torch {found.torch} finds no {device} on this host",
            remedy="without one: flagrelease operators list, and operators check --device cpu (arithmetic only)",
        )
    if chip:
        _require_device(chip, here)
    took = loaded(found, tuple(OPERATORS), here) if here != "cpu" and module == "flag_gems" else None
    if chip and took:
        _require_vendor(chip, took)
    asked = tuple(dict.fromkeys(operators)) or tuple(OPERATORS)
    return Plan(found, here, shapes, asked, module, chip.key if chip else None, took)


def _require_device(chip: Chip, here: str) -> None:
    """Raise PreflightError where the device cannot be the chip's: no result may count for a chip that gave none."""
    if here == "cpu" and chip.torch_device != "cpu":
        raise PreflightError(
            f"on the CPU the kernels run in Triton's interpreter, which shows nothing of {chip.display}",
            remedy=f"on a host with {chip.display}, without --device: flagrelease operators check --chip {chip.key}; "
            "on the CPU: without --chip (arithmetic only)",
        )
    if here != (chip.torch_device or here):
        raise PreflightError(
            f"the device of this host is {here}, and torch calls those of {chip.display} {chip.torch_device}",
            remedy="--chip takes the chip that this host has: flagrelease doctor",
        )


def _require_vendor(chip: Chip, took: Loaded) -> None:
    # Several vendors' devices are called cuda. A vendor that FlagGems does not know it takes for another.
    if chip.flaggems_vendor in took.vendors and chip.flaggems_vendor != took.vendor:
        raise PreflightError(
            f"FlagGems takes the device of this host for one of {took.vendor}, not of {chip.flaggems_vendor}",
            remedy=f"--chip takes the chip that this host has: run it on a host with {chip.display}",
        )


def run(plan: Plan, folder: Path, say: Callable[[str], None] = lambda _: None) -> list[OperatorResult]:
    """Check the operators, each in its own process; lines of JSON are kept in `<folder>/<key>/<operator>.jsonl`.

    What is already there is not asked again; an operator that crashed is not started again. One that was not wholly
    asked, for want of time or memory, is not runnable here and goes on the next time. Raises OutputError where the
    folder cannot be written.
    """
    place, took = folder / plan.key(), plan.loaded
    try:
        place.mkdir(parents=True, exist_ok=True)
        about = {"device": plan.device, "device_name": took.name if took else None, "module": plan.module}
        about |= {**plan.environment.versions(), **plan.shapes.as_json()}
        (place / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror}", remedy="set FLAGRELEASE_HOME") from error
    results = []
    for number, operator in enumerate(plan.operators, 1):
        cases = plan.cases(operator)
        result = judge_operator(operator, cases, read_lines(place / f"{operator}.jsonl"), plan.device)
        kept = "" if result.missing else " (kept)"
        if result.missing:
            _ask(plan, operator, [case for case in cases if case.name in result.missing], place)
            result = judge_operator(operator, cases, read_lines(place / f"{operator}.jsonl"), plan.device)
        say(f"{number} of {len(plan.operators)}, {operator}: {result.verdict}{kept}")
        results.append(result)
    return results


def kept(plan: Plan, folder: Path) -> list[OperatorResult]:
    """All that is known under the plan's key, also of operators that were asked for earlier."""
    place, found = folder / plan.key(), []
    for operator in OPERATORS:
        cases, file = plan.cases(operator), place / f"{operator}.jsonl"
        if cases and not file.exists():
            continue
        result = judge_operator(operator, cases, read_lines(file), plan.device)
        # Of one that was interrupted nothing is known yet.
        if not result.missing:
            found.append(result)
    return found


def _ask(plan: Plan, operator: str, cases: list[Case], place: Path) -> None:
    results, log = place / f"{operator}.jsonl", place / f"{operator}.log"
    asked: dict[str, Any] = {"operator": operator, "module": plan.module, "device": plan.device}
    asked |= {"cases": [case.as_json() for case in cases], "results": str(results)}
    # Generated code for the interpreter and for a device has the same names; threads of torch only disturb each other.
    own = {"FLAGGEMS_CACHE_DIR": str(place / "cache"), "OMP_NUM_THREADS": "1"} if plan.device == "cpu" else {}
    _append(results)
    with log.open("w") as output:
        try:
            code: int | None = subprocess.run(
                [str(plan.environment.python), "-m", WORKER],
                input=json.dumps(asked),
                text=True,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(own),
                timeout=TIMEOUT,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    if code == 0:
        return
    answered = {line["case"] for line in read_lines(results) if line["outcome"] != NOT_ASKED}
    at = next((case for case in cases if case.name not in answered), None)
    line = {"case": at.name if at else "at its end", "group": at.group if at else "model"}
    if hindered := _hindered(code, log):
        _append(results, {**line, "outcome": NOT_ASKED, "reason": hindered})
    else:
        _append(results, {**line, "outcome": "crashed", "reason": f"{_why(code or 0)}{_last_words(log)}"})


def _append(results: Path, line: dict[str, Any] | None = None) -> None:
    """Append a line, or nothing, after ending the half one that a killed process left: it would swallow the next."""
    half = results.exists() and not (results.read_text() or "\n").endswith("\n")
    if half or line:
        with results.open("a") as file:
            file.write(("\n" if half else "") + (json.dumps(line) + "\n" if line else ""))


def _hindered(code: int | None, log: Path) -> str:
    """Why the operator was not wholly asked, where that is no fault of its own; empty where it is."""
    again = "the same command goes on"
    if code is None:
        return f"no answer within {TIMEOUT:.0f} s; {again}"
    if code == NO_VERDICT:
        return f"{_last_words(log).removeprefix(': ')}; {again}"
    if code < 0 and -code not in _OWN_SIGNALS:
        return f"ended by {signal.Signals(-code).name}, as hosts do where memory runs out; {again}"
    return ""


def _why(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    # The C library stops a process whose heap was written over; a kernel that writes out of bounds does that.
    return f"{name} (memory was written out of bounds)" if name in ("SIGABRT", "SIGSEGV", "SIGBUS") else name


def _last_words(log: Path) -> str:
    words = log.read_text(errors="replace").strip().splitlines()[-1:]
    return f": {words[0][:200]}" if words else ""
