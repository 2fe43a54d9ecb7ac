"""The Markdown of a measurement, from its JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]


def markdown(whole: Found) -> str:
    """What was measured on which device, for people; what was not done stands where its numbers would."""
    device, parts = whole["device"], {part["name"]: part for part in whole["parts"]}
    about = ", ".join(f"{name} {value}" for name, value in device.items() if name != "name" and value)
    versions = ", ".join(f"{name} {value}" for name, value in whole["versions"].items())
    lines = [f"# FlagGems on {device['name']}", "", f"{whole['date']}; {about}; {versions}.", ""]
    if whole["interpreter"]:
        lines += [
            "**Run up to the device only.** Operators ran in Triton's interpreter: their arithmetic, no compiler, no "
            "device. Speed: not measured on a CPU. What is called flagos below is "
            f"{whole['flagos']}; FlagGems itself did not run there.",
            "",
        ]
    lines += [f"{whole['seconds']:.0f} s of at most {whole['budget_s']:.0f} s.", ""]
    rows = [
        [
            part["name"],
            f"{part['seconds']:.0f}",
            f"{part['budget_s']:.0f}",
            "yes" if part["done"] else f"**no**: {_line(part['why_not'])}",
        ]
        for part in parts.values()
    ]
    lines += _table(["part", "seconds", "at most", "done"], rows)
    lines += _served([part for part in parts.values() if "ready_after_s" in part["found"]])
    lines += _verdict(parts.get("verdict"))
    lines += _operators(parts.get("operators"), interpreter=whole["interpreter"])
    return "\n".join(lines) + "\n"


def _served(parts: Sequence[Found]) -> list[str]:
    rows = []
    for part in parts:
        found = part["found"]
        canary, score = found.get("canary"), found.get("evaluation")
        distance = found.get("distance") or (canary and canary["found"])
        rows.append(
            [
                part["name"],
                f"{found['ready_after_s']:.0f}",
                _seconds(found.get("canary_s")),
                f"{distance['mean_abs_logprob']:.2g}, {distance['top1_agreement']:.1%}, {distance['kl']:.2g}"
                if distance
                else "",
                ("passed" if canary["passed"] else f"FAILED: {_line('; '.join(canary['reasons']))}") if canary else "",
                f"{score['score']:.1%} of {score['n']}" if score else "",
                _seconds(found.get("evaluation_s")),
                str(len(found["operators"])) if "operators" in found else "",
            ]
        )
    if not rows:
        return []
    heads = [
        "served",
        "ready after, s",
        "canary, s",
        "mean Δ log p, same token, KL",
        "canary",
        "last word",
        "asked in, s",
    ]
    return ["", "## The small model", "", *_table([*heads, "operators that ran"], rows)]


def _verdict(part: Found | None) -> list[str]:
    if part is None or "verdict" not in part["found"]:
        return []
    found = part["found"]["verdict"]
    said = [f"**{found['verdict']}** (rule: {found['rule']}), of {part['found']['of']}.", ""]
    return ["", "## Verdict", "", *said, *(f"- {_line(reason)}" for reason in found["reasons"])]


def _operators(part: Found | None, *, interpreter: bool) -> list[str]:
    if part is None or "operators" not in part["found"]:
        return []
    found = part["found"]
    rows = [
        [
            row["operator"] + (" *" if row["listed"] else ""),
            f"{row['matching']}/{row['cases']}" + (f" ({row['left_out']} not asked)" if row["left_out"] else ""),
            "" if row["worst"] is None else f"{row['worst']:.2g}",
            "not measured on a CPU" if interpreter else _speed(row),
            "not wholly asked" if row["left_out"] and row["verdict"] == "not runnable here" else row["verdict"],
            _line(row["reason"]),
        ]
        for row in found["operators"]
    ]
    heads = ["operator", "cases", "error/tolerance", "speed (native/FlagGems)", "verdict", "why"]
    lines = ["", "## Operators", "", f"Sizes of {found['shapes']['model']}, {found['shapes']['dtype']} and float32."]
    lines += ["Operators with * ran in the small model's server. Speed above 1: FlagGems is faster.", ""]
    lines += _table(heads, rows)
    if found["listed_without_reference"]:
        lines += ["", f"Ran in the server and have no reference: {', '.join(found['listed_without_reference'])}."]
    if found["not_asked"]:
        lines += ["", f"Not asked, for want of time: {', '.join(found['not_asked'])}."]
    return lines


def _speed(row: Found) -> str:
    """The ratio with the number of cases behind it, or why there is none."""
    failed = [line["no_speed"] for line in row["lines"] if "no_speed" in line]
    if row["speed_ratio"] is None:
        return _line(failed[0]) if failed else ""
    timed = sum("native_ms" in line for line in row["lines"])
    return f"{row['speed_ratio']:.2f} ({timed} cases" + (f", {len(failed)} not timed)" if failed else ")")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _line(text: str) -> str:
    """For a table's cell: one line, not too long; errors carry logs."""
    return " ".join(text.split()).replace("|", "\\|")[:400]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
