"""When something starts by itself, and whether that ever comes: cron expressions, time zones, their faults in words.

Only what every cron understands is accepted. Programs differ in the rest (`L`, `#`, `@daily`, seconds, ranges that
wrap around), and Prefect accepts expressions that its scheduler then never finds a date for.
"""

from __future__ import annotations

import re
from functools import cache
from zoneinfo import available_timezones

from pydantic import Field

from flagrelease.entry import Entry
from flagrelease.yaml_misfits import nearest
from flagrelease.yaml_text import short

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 7, _WEEKDAYS),
)
_DAYS = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PART = re.compile(r"(?:\*|([a-z0-9]{1,3})(?:-([a-z0-9]{1,3}))?)(?:/0*([1-9][0-9]{0,2}))?")
_OF_THIS_HOST = frozenset({"localtime", "Factory"})


class Schedule(Entry):
    """When something starts by itself."""

    cron: str = Field(description="minute hour day month weekday, as cron has them")
    timezone: str = Field(default="UTC", description="for example Asia/Shanghai")


@cache
def cron_fault(expression: str) -> str | None:
    """What is wrong with a cron expression of five fields; none if it is sound."""
    fields, shown = expression.split(), short(expression)
    if len(fields) != len(_FIELDS):
        return f"`{shown}`: cron wants five fields (minute hour day month weekday), found {len(fields)}"
    values = {}
    for (name, low, high, names), field in zip(_FIELDS, fields, strict=True):
        parts = [_values(part, low, high, names) for part in field.lower().split(",")]
        if not all(parts):
            words = f" ({names[0]} to {names[-1]})" if names else ""
            return f"`{shown}`: the {name} `{short(field)}` is not made of {low} to {high}{words}, `*`, `a-b`, `/n`"
        values[name] = {value for part in parts for value in part}
    if min(values["day"]) > max(_DAYS[month] for month in values["month"]):
        return f"`{shown}` never comes: no such month has a day {min(values['day'])}"
    return None


def _values(part: str, low: int, high: int, names: tuple[str, ...]) -> range:
    """What a part of a field stands for; nothing if it is no part of this field."""
    match = _PART.fullmatch(part)
    if match is None:
        return range(0)
    first, last, step = match.groups()
    begin = low if first is None else _number(first, low, names)
    end = _number(last, low, names) if last else begin if first and not step else high
    # A step beyond the field (every 90 minutes) would come back at the field's beginning.
    sound = low <= begin <= end <= high and int(step or 1) <= high
    return range(begin, end + 1, int(step or 1)) if sound else range(0)


def _number(word: str, low: int, names: tuple[str, ...]) -> int:
    if word in names:
        return names.index(word) + low
    return int(word) if word.isdecimal() else -1


def timezone_fault(name: str) -> str | None:
    """What is wrong with the name of a time zone; none if it is the same one on every host."""
    zones = _zones()
    if name in zones:
        return None
    close = nearest(name, zones)
    guess = f"did you mean `{close}`?" if close else "write one like `Asia/Shanghai`"
    return f"unknown time zone `{short(name)}`; {guess}"


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - _OF_THIS_HOST
