"""The scores of a results table as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

from flagrelease.card.facts import MetricRow

_NUMBER = re.compile(r"[-−+]?(\d+(?:\.(\d+))?)")
_PERCENT_FROM = 1.5
"""A table whose middle score is above this prints percent: a share is at most 1."""

_SHOTS = re.compile(r"[-_ ]*\d+[-_ ]?(?:few)?shots?|[-_ ]*@?avg@?\d*|[-_ ]*nothink|\(.*?\)")

_LONGEST = 200
"""Characters of a benchmark's name that are looked at."""


class Score(NamedTuple):
    """A printed score: its value, and how many of its decimals tell something (37.560 has two)."""

    value: float
    decimals: int


class Row(NamedTuple):
    """One benchmark of a results table; a score is none where the cell holds no number."""

    metric: str
    baseline: Score | None
    candidate: Score | None


class Pair(NamedTuple):
    """Both scores of a row as shares in [0, 1]."""

    metric: str
    baseline: float
    candidate: float
    step: float
    """Size of the last decimal of the two that tells something."""

    @property
    def equal(self) -> bool:
        """Whether both are the same number."""
        return self.baseline == self.candidate


@dataclass(frozen=True)
class Scores:
    """A results table."""

    rows: list[Row]
    percent: bool

    @cached_property
    def pairs(self) -> list[Pair]:
        """Rows with both scores, as far as they are on the table's scale."""
        scale = 100 if self.percent else 1
        return [
            Pair(
                row.metric,
                row.baseline.value / scale,
                row.candidate.value / scale,
                10.0 ** -max(row.baseline.decimals, row.candidate.decimals) / scale,
            )
            for row in self.rows
            if row.baseline and row.candidate and row not in self.off_scale
        ]

    @cached_property
    def off_scale(self) -> list[Row]:
        """Rows on another scale than the table: shares among percents, percents among shares, more than all."""
        return [row for row in self.rows if row.baseline and row.candidate and self._off(row.baseline, row.candidate)]

    def _off(self, before: Score, after: Score) -> bool:
        low, high = sorted((before.value, after.value))
        if not self.percent:
            return high > 1
        # Both below 1, of which neither is nothing; or one column a hundred times the other.
        as_shares = low > 0 and high <= 1 and max(before.decimals, after.decimals) > 0
        mixed = 0 < low <= 1 < high and 60 < high / low < 160  # noqa: PLR2004 - about 100
        return as_shares or mixed or high > 100  # noqa: PLR2004


def scores(metrics: Iterable[MetricRow]) -> Scores:
    """The numbers of a results table; percent or shares is told from the table as a whole."""
    rows = [Row(row.metric, score(row.baseline), score(row.candidate)) for row in metrics]
    values = [each.value for row in rows for each in (row.baseline, row.candidate) if each and each.value]
    return Scores(rows, bool(values) and median(values) > _PERCENT_FROM)


def score(text: str | None) -> Score | None:
    """The number that a table's cell begins with: `43.330`, `90 (2024)`, `46.00 (40.1 – 52.0)`."""
    found = _NUMBER.match((text or "").strip())
    if found is None:
        return None
    return Score(float(found[1]), len((found[2] or "").rstrip("0")))


def plain_metric(name: str) -> str:
    """A benchmark's name without case, marks, number of shots and repeats."""
    return re.sub(r"[^a-z0-9]", "", _SHOTS.sub("", name[:_LONGEST].casefold()))
