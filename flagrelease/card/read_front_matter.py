"""The YAML block at the head of a card, read strictly: plain values, no anchors, aliases or tags."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from flagrelease.card.inline import clean
from flagrelease.errors import MatrixError
from flagrelease.yaml_file import parse_yaml

MAX_CHARACTERS = 50_000
_MARK = "---"
_LARGEST = 10**30
"""Python refuses to write integers of thousands of digits."""


class FrontMatter(NamedTuple):
    """The block: its lines from `begin` to before `end`, marks included, its values, and why there are none."""

    begin: int
    end: int
    data: dict[str, Any] | None
    lines: dict[str, int]
    fault: str | None


def front_matter(lines: list[str]) -> FrontMatter:
    """The front matter of the text; an empty one where the text begins otherwise. Lines count from 0."""
    begin = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    nothing = FrontMatter(0, 0, None, {}, None)
    if begin == len(lines) or lines[begin].rstrip() != _MARK:
        return nothing
    last = next((n for n in range(begin + 1, len(lines)) if lines[n].rstrip() in {_MARK, "..."}), None)
    if last is None:
        return nothing
    # Empty lines in front, so that faults name the file's lines.
    data, places, fault = _values([""] * (begin + 1) + lines[begin + 1 : last])
    return FrontMatter(begin, last + 1, data, {key: line - 1 for key, line in places.items()}, fault)


def _values(lines: list[str]) -> tuple[dict[str, Any] | None, dict[str, int], str | None]:
    """Values, their lines from 1, and what is wrong."""
    if not any(line.strip() for line in lines):
        return None, {}, None
    if sum(map(len, lines)) > MAX_CHARACTERS:
        return None, {}, f"longer than {MAX_CHARACTERS:,} characters"
    try:
        data, positions = parse_yaml("\n".join(lines), Path())
    except MatrixError as error:
        return None, {}, error.message.splitlines()[0].removeprefix(".:")
    if not _plain(data):
        return None, {}, "it holds a control character or a number without end"
    return data, {str(where[0]): line for where, line in positions.items() if len(where) == 1}, None


def _plain(value: object) -> bool:
    """Whether a value can be stored, and printed on a card."""
    if isinstance(value, dict):
        return all(_plain(key) and _plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    if isinstance(value, str):
        return all(clean(line) == line for line in value.split("\n"))
    if isinstance(value, int):
        return abs(value) < _LARGEST
    return not isinstance(value, float) or math.isfinite(value)
