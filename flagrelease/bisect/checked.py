"""What `flagrelease operators check` found on this host of an operator: its worst case and sizes, for a report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from flagrelease.operators.results import read_lines
from flagrelease.records import Record

_SAME = {"flag_gems": ("flag_gems", "flag-gems"), "torch": ("torch",), "triton": ("triton",)}
"""Versions by their names in a check, and in an image."""
_FAULTS = ("crashed", "raises", "differs")


class CheckedOperator(Record):
    """An operator's worst case among those that it was asked, against torch's operator in float64."""

    device: str = Field(description="torch's name; cpu: Triton's interpreter")
    versions: dict[str, str]
    cases: int
    faults: int = Field(description="cases that differ, raise or crash")
    case: str = Field(description="the worst: size, values and type")
    outcome: str
    error: float | None = Field(description="largest |result − reference| of the case; none: no finite number")
    tolerance: float | None
    reason: str = Field(description="in words; empty where it matches")
    sizes: list[str] = Field(description="cases of the model's own sizes, with their types")


def checked(
    folder: Path, operator: str, models: Collection[str], versions: Mapping[str, str]
) -> CheckedOperator | None:
    """The newest result below `folder` for this operator, one of the names of the model, and the same versions.

    FlagGems' version must be known and the same; those of torch and Triton the same where both are known. None where
    there is no such result.
    """
    files = sorted(folder.glob(f"*/{operator}.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        about = _about(file.with_name("about.json"))
        lines = [line for line in read_lines(file) if line.get("outcome") in (*_FAULTS, "matches")]
        # The interpreter that can ask an operator nothing raises for every case.
        answered = about.get("device") != "cpu" or any(line["outcome"] != "raises" for line in lines)
        if lines and answered and _named(about) & set(models) and _same(about, versions):
            return _worst(lines, about)
    return None


def versions_said(said: str) -> dict[str, str]:
    """FlagGems' and torch's versions from those of the engine `torch_reference`: `2.13.0, …, FlagGems 5.0.2`."""
    gems, torch = re.search(r"FlagGems ([^\s,]+)", said), re.match(r"[^\s,]+", said)
    return {"flag_gems": gems[1], "torch": torch[0]} if gems and torch else {}


def _about(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _named(about: Mapping[str, Any]) -> set[str]:
    """The model that was checked: a name, or a path with its folder's name."""
    said = str(about.get("model")).removesuffix("/config.json")
    return {said, Path(said).name}


def _same(about: Mapping[str, Any], versions: Mapping[str, str]) -> bool:
    known = {name: next((versions[key] for key in keys if key in versions), None) for name, keys in _SAME.items()}
    if not known["flag_gems"] or about.get("flag_gems") != known["flag_gems"]:
        return False
    return all(version in (None, about.get(name)) for name, version in known.items() if about.get(name))


def _worst(lines: list[dict[str, Any]], about: Mapping[str, Any]) -> CheckedOperator:
    def badness(line: Mapping[str, Any]) -> tuple[bool, bool, float]:
        # A fault of a model's own size says more than one of an edge case, and a number more than none.
        fault, ratio = line["outcome"] in _FAULTS, line.get("ratio")
        return fault, fault and line.get("group") == "model", -math.inf if ratio is None else ratio

    worst = max(lines, key=badness)
    matches = worst["outcome"] == "matches"
    return CheckedOperator(
        device=str(about.get("device")),
        versions={name: str(about[name]) for name in _SAME if about.get(name)},
        cases=len(lines),
        faults=sum(line["outcome"] in _FAULTS for line in lines),
        case=worst["case"],
        outcome=worst["outcome"],
        error=worst.get("error"),
        tolerance=worst.get("tolerance"),
        reason="" if matches else str(worst.get("reason") or ""),
        sizes=list(dict.fromkeys(line["case"] for line in lines if line.get("group") == "model")),
    )
