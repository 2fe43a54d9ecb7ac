"""A forest plot of a release's differences, as SVG: what the results table says, at a glance.

The form is the usual one of meta-analysis (Lewis and Clarke 2001, BMJ 322): a row a benchmark with its estimate and
interval, and the pooled estimate as a diamond at the foot.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from flagrelease.card.data import CardData
from flagrelease.card.figures import number, points
from flagrelease.card.names import card_names
from flagrelease.settings import data_path
from flagrelease.verdicts import BenchmarkVerdict, PooledVerdict, Verdict

WIDTH = 820
LEFT, RIGHT = 244, 558
"""Ends of the axis."""
TOP, ROW = 92, 40
"""Where the rows begin, and how high each is; all in SVG units, of which a hub's page shows about one a pixel."""
NAME_WIDTH = 216
"""Room for a benchmark's name."""
TICKS = 8

_NARROW, _WIDE = "fijlrtI.,:;|!'()[]/ ", "mwMW@%&"


class _Row(NamedTuple):
    """What is drawn of one benchmark, or of their mean; x in SVG units, texts as they stand."""

    y: int
    name: str
    asked: str
    difference: str
    interval: str
    verdict: str
    note: str
    kind: str
    x: str
    x_lower: str
    x_upper: str
    x_margin: str
    spoken: str


def forest_plot(data: CardData) -> str | None:
    """The differences (release minus baseline, points) with intervals, margins and verdicts as an SVG document.

    None where nothing was compared. The same data gives the same bytes; nothing is loaded from elsewhere.
    """
    gate = data.gate
    if not gate.benchmarks:
        return None
    order = {row.benchmark: place for place, row in enumerate(data.rows)}
    found = sorted(gate.benchmarks, key=lambda row: order.get(row.benchmark, len(order)))
    ticks = _ticks(found, gate.pooled)
    axis = _Axis(ticks[0], ticks[-1])
    rows = [_benchmark(row, axis, TOP + ROW * place) for place, row in enumerate(found)]
    end = TOP + ROW * len(rows)
    names = card_names(data.cell)
    return _template().render(
        width=WIDTH,
        left=LEFT,
        right=RIGHT,
        top=TOP,
        row_height=ROW,
        rows=rows,
        pooled=_pooled(gate.pooled, axis, end, gate.verdict) if gate.pooled else None,
        axis_y=end + (ROW if gate.pooled else 0),
        ticks=[(axis.x(tick), points(tick, _decimals(ticks)).rstrip(".")) for tick in ticks],
        zero=axis.x(0),
        compared=_cut(f"{names.candidate_column} minus {names.baseline_column}", WIDTH - 180),
        how="question by question" if gate.paired else "by totals alone, not question by question",
        invalid=gate.verdict is Verdict.INVALID,
        release=data.release,
    )


class _Axis(NamedTuple):
    """The axis from `low` to `high`, both shares."""

    low: float
    high: float

    def x(self, share: float) -> str:
        """Place of a difference; one decimal, so that no digit depends on the processor."""
        return f"{LEFT + (RIGHT - LEFT) * (share - self.low) / (self.high - self.low):.1f}"


def _ticks(rows: list[BenchmarkVerdict], pooled: PooledVerdict | None) -> list[float]:
    """Round differences that hold all intervals, margins and zero between them."""
    seen = [0.0]
    for row in rows:
        seen += [row.lower, row.upper, -row.margin_points / 100]
    if pooled:
        seen += [pooled.lower, 2 * pooled.difference - pooled.lower, -pooled.margin_points / 100]
    low, high = 100 * min(seen), 100 * max(seen)
    rough = max(high - low, 0.01) / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(step * unit for step in (1, 2, 5, 10) if step * unit >= rough)
    # Rounded first, so that a margin of 2.0000000000000001 does not take another step.
    first, last = math.floor(round(low / step, 6)), math.ceil(round(high / step, 6))
    return [place * step / 100 for place in range(first, max(last, first + 1) + 1)]


def _decimals(ticks: list[float]) -> int:
    """Decimals that tell the ticks apart, in points."""
    return max(0, -math.floor(math.log10(100 * (ticks[1] - ticks[0])) + 1e-6))


def _benchmark(row: BenchmarkVerdict, axis: _Axis, y: int) -> _Row:
    stopped = f" of {row.stopped_of}" if row.stopped_of else ""
    name = _plain(row.display)
    advisory = ", advisory" if row.role == "advisory" else ""
    margin = number(row.margin_points)
    note = f"margin −{margin}" + (f", gain > +{margin}" if row.different else "")
    return _Row(
        y=y,
        name=_cut(name, NAME_WIDTH),
        asked=f"{row.n}{stopped} × {row.repeats}{advisory}",
        difference=points(row.difference, 2),
        interval=f"{points(row.lower, 2)} to {points(row.upper, 2)}",
        verdict=row.verdict.value,
        note=note,
        kind=row.verdict.value.lower(),
        x=axis.x(row.difference),
        x_lower=axis.x(row.lower),
        x_upper=axis.x(row.upper),
        x_margin=axis.x(-row.margin_points / 100),
        spoken=f"{_cut(name, 3 * NAME_WIDTH)}: {_spoken(row.difference, row.lower, row.upper)}, {note}, "
        f"{row.verdict.value}{advisory}.",
    )


def _pooled(row: PooledVerdict, axis: _Axis, y: int, verdict: Verdict) -> _Row:
    """The mean of the gated benchmarks; its interval is symmetric, as it is a normal one."""
    upper = 2 * row.difference - row.lower
    if verdict is Verdict.INVALID:
        said, kind = "not judged", "invalid"
    else:
        said, kind = ("above margin", "consistent") if row.non_inferior else ("not above margin", "inconclusive")
    note = f"margin −{number(row.margin_points)}"
    return _Row(
        y=y,
        name="Mean",
        asked="of the gated benchmarks",
        difference=points(row.difference, 2),
        interval=f"{points(row.lower, 2)} to {points(upper, 2)}",
        verdict=said,
        note=note,
        kind=kind,
        x=axis.x(row.difference),
        x_lower=axis.x(row.lower),
        x_upper=axis.x(upper),
        x_margin=axis.x(-row.margin_points / 100),
        spoken=f"Mean of the gated benchmarks: {_spoken(row.difference, row.lower, upper)}, {note}, {said}.",
    )


def _spoken(difference: float, lower: float, upper: float) -> str:
    return f"{points(difference, 2)} points, 90 % interval {points(lower, 2)} to {points(upper, 2)}"


def _plain(text: str) -> str:
    """One line that every XML reader takes: no control, bidi or unassigned characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _cut(text: str, room: int) -> str:
    """Text cut to about `room` SVG units at 13 units a line, for the widest of the usual fonts."""
    text = _plain(text)
    used = 0.0
    for place, char in enumerate(text):
        used += 5.0 if char in _NARROW else 8.3 if char.isascii() and char not in _WIDE else 13.0
        if used > room:
            return text[: max(place - 2, 1)].rstrip() + "…"
    return text


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(data_path("templates") / "card"),
        undefined=StrictUndefined,
        autoescape=True,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("forest.svg.j2")
