"""What the workers wrote, as one verdict an operator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from flagrelease.operators.cases import Case
from flagrelease.operators.speed import ratio

Verdict = Literal["matches", "differs", "crashed", "not runnable here"]
EDGES_ONLY = ", edge cases only"
"""In a reason: every case of a model's size matched."""
NOT_ASKED = "not asked"
"""Outcome of a line that is no answer: it says why its case and those after it were not asked, and they are missing."""


@dataclass(frozen=True)
class OperatorResult:
    """What is known of one operator."""

    operator: str
    verdict: Verdict
    cases: int
    matching: int
    worst: float | None
    """The largest error over its tolerance among cases that gave finite numbers; above 1 is too much."""
    worst_error: float | None
    worst_tolerance: float | None
    seconds: float
    reason: str
    """Which cases did not match, and what of the first; empty where all did."""
    missing: tuple[str, ...]
    """Cases that have not been asked."""
    speed_ratio: float | None = None
    """The native kernel's time over FlagGems', above 1 where FlagGems is faster: the geometric mean over the cases of
    the model's sizes that were timed. None on a CPU."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a results file; what a killed process left half written is left out."""
    lines = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def judge_operator(
    operator: str, cases: Sequence[Case], lines: Sequence[dict[str, Any]], device: str
) -> OperatorResult:
    """The verdict on an operator's cases.

    One crash is a crash; one case that differs, or raises where others answer, makes it differ. Cases that the
    interpreter cannot run say nothing. Where no case could be asked, or on the CPU every one raises (some operators
    want a device), it is not runnable here; nor is one whose cases are not all asked and that has no fault yet.
    """
    wanted = {case.name for case in cases}
    hindered = [line for line in lines if line["outcome"] == NOT_ASKED]
    answers = [
        line
        for line in lines
        if line["outcome"] == "crashed" or (line["case"] in wanted and line["outcome"] != NOT_ASKED)
    ]
    by_outcome = {
        outcome: [line for line in answers if line["outcome"] == outcome]
        for outcome in ("matches", "differs", "raises", "not runnable", "crashed")
    }
    crashed, bad = by_outcome["crashed"], by_outcome["differs"] + by_outcome["raises"]
    missing = () if crashed else tuple(wanted - {line["case"] for line in answers})
    verdict: Verdict = "matches"
    reason = _said(by_outcome["not runnable"], answers)
    if crashed:
        verdict, reason = "crashed", _said(crashed, answers)
    elif missing and not bad:
        verdict, reason = "not runnable here", _left_out(missing, cases, hindered)
    elif not (by_outcome["matches"] or by_outcome["differs"]) and (device == "cpu" or not by_outcome["raises"]):
        verdict = "not runnable here"
        reason = _said(by_outcome["not runnable"] + by_outcome["raises"], answers) or "the model has no use for it"
    elif bad:
        verdict, reason = "differs", _said(bad, answers)
        if missing:
            reason += f"; {_left_out(missing, cases, hindered)}"
    numbers = [line for line in answers if line.get("ratio") is not None]
    worst = max(numbers, key=lambda line: line["ratio"], default=None)
    return OperatorResult(
        operator=operator,
        verdict=verdict,
        cases=len(cases),
        matching=sum(line["outcome"] == "matches" for line in answers),
        worst=worst["ratio"] if worst else None,
        worst_error=worst["error"] if worst else None,
        worst_tolerance=worst["tolerance"] if worst else None,
        seconds=round(sum(line.get("seconds", 0.0) for line in answers), 1),
        reason=reason,
        missing=missing,
        speed_ratio=ratio(answers),
    )


def _left_out(missing: Sequence[str], cases: Sequence[Case], hindered: Sequence[dict[str, Any]]) -> str:
    why = f": {hindered[-1]['reason']}" if hindered else ""
    return f"{len(missing)} of {len(cases)} cases not asked{why}"


def _said(bad: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]) -> str:
    """Model sizes first: an edge case may never be met."""
    if not bad:
        return ""
    ordered = sorted(bad, key=lambda line: line["group"] != "model")
    edges = EDGES_ONLY if all(line["group"] == "edge" for line in bad) else ""
    first = ordered[0]
    return f"{len(bad)} of {len(answers)} cases{edges}: {first['case']}: {first['reason']}"
