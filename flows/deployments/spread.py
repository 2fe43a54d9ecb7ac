"""When a cell starts: cells with one cron expression are spread over its hour.

A chip's cells usually share an expression. Started in the same second they would load every server at once and stand in
the queue of their chip in no order; so each starts some minutes after the time that the matrix names.
"""

from __future__ import annotations

from flagrelease.records import digest

HOUR_MIN = 60


def spread(cron: str, cell: str) -> tuple[str, int]:
    """The expression at which `cell` starts, and how many minutes that is after `cron`.

    Only the minutes move, all by the same number, and none leaves its hour: hour, day, month and weekday stay what the
    matrix says. So `0 2 * * 6` gives up to 59 minutes, `30 2 * * 6` up to 29, `*/15 * * * *` up to 14.
    The number comes from the cell's id alone (its SHA-256): it is the same on every host, and other cells do not change
    it.
    """
    field, rest = cron.split(maxsplit=1)
    minutes = _minutes(field)
    offset = int(digest(cell)[:8], 16) % (HOUR_MIN - minutes[-1])
    if not offset:
        return cron, 0
    return f"{','.join(str(minute + offset) for minute in minutes)} {rest}", offset


def _minutes(field: str) -> list[int]:
    """The minutes that the first field of a valid cron expression names, in order."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if first == "*":
            first, last = "0", str(HOUR_MIN - 1)
        elif not last:
            # `5/20` goes on to the end of the hour, `5` is one minute.
            last = str(HOUR_MIN - 1) if step else first
        found.update(range(int(first), int(last) + 1, int(step or 1)))
    return sorted(found)
