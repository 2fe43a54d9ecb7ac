"""Rules on scores that stand elsewhere too: in the other column, or on another card."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flagrelease.card.lint.findings import Hit, Rule, Severity, listed
from flagrelease.card.lint.knowledge import PublishedTable, reference_of
from flagrelease.card.lint.scores import Pair
from flagrelease.card.lint.subject import Subject

_COPIED, _SWAPPED = 3, 3
"""Rows that chance does not explain: two scores of thirty questions agree now and then, three pairs do not."""


def _swapped(subject: Subject) -> Iterator[Hit]:
    for table, shared in _tables_of(subject, same=True):
        crossed = [
            pair for pair, other in shared if not pair.equal and _near(pair.candidate, other.baseline, pair, other)
        ]
        if len(crossed) >= _SWAPPED:
            cause = f"the candidate's scores are the baseline's of {table.source} in {_metrics(crossed)}"
            yield Hit("results table", cause, subject.row_line(crossed[0].metric))
            return


def _copied(subject: Subject) -> Iterator[Hit]:
    for table, shared in _tables_of(subject, same=False):
        equal = [
            pair
            for pair, other in shared
            if _near(pair.baseline, other.baseline, pair, other) and _near(pair.candidate, other.candidate, pair, other)
        ]
        if len(equal) >= _COPIED:
            cause = f"both scores are those of another model ({table.source}) in {_metrics(equal)}"
            yield Hit("results table", cause, subject.row_line(equal[0].metric))


def _equal_columns(subject: Subject) -> Iterator[Hit]:
    pairs = subject.scores.pairs
    if len(pairs) >= _COPIED and all(pair.equal for pair in pairs) and not subject.measured:
        cause = f"both columns are equal in all {len(pairs)} rows"
        yield Hit("results table", cause, subject.row_line(pairs[0].metric))


def _other_baseline(subject: Subject) -> Iterator[Hit]:
    reference = reference_of(subject.facts.baseline_column or "", subject.model or "")
    for table, shared in _tables_of(subject, same=True):
        differ = [pair for pair, other in shared if not _near(pair.baseline, other.baseline, pair, other)]
        if differ and not subject.measured:
            other = table.reference != reference
            where = f" (there on {table.reference}, here on {reference})" if other else ""
            cause = f"the model's baseline differs from that of {table.source}{where} in {_metrics(differ)}"
            yield Hit("results table", cause, subject.row_line(differ[0].metric))
            return


def _tables_of(subject: Subject, *, same: bool) -> Iterator[tuple[PublishedTable, list[tuple[Pair, Pair]]]]:
    """Known tables of the same model, or of other models, with the rows that they share with the card."""
    own = {subject.knowledge.metric_key(pair.metric): pair for pair in subject.scores.pairs}
    model = subject.model
    for table in subject.knowledge.published:
        if model and (_plain(table.model) == _plain(model)) is same:
            shared = [(pair, table.pairs[key]) for key, pair in own.items() if key in table.pairs]
            if shared:
                yield table, shared


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def _near(one: float, other: float, pair: Pair, known: Pair) -> bool:
    """Whether two shares are the same number, as far as both tables print it."""
    return abs(one - other) <= max(pair.step, known.step) / 2 * 1.001


def _metrics(pairs: list[Pair]) -> str:
    return listed([pair.metric for pair in pairs])


RULES = (
    Rule(
        "swapped-columns",
        Severity.ERROR,
        "three or more candidate scores are the known baseline of the same model",
        "find out which of the two cards has its columns swapped",
        _swapped,
    ),
    Rule(
        "copied-scores",
        Severity.ERROR,
        "three or more pairs of scores are those of another model's card",
        "print the scores that were measured for this model",
        _copied,
    ),
    Rule(
        "equal-columns",
        Severity.WARNING,
        "the candidate's scores are the baseline's in every row",
        "check that the candidate was measured; if it was, publish its answers",
        _equal_columns,
    ),
    Rule(
        "baseline-differs",
        Severity.WARNING,
        "the same model has other baseline scores on another card",
        "compare with one baseline, and say what it was measured on",
        _other_baseline,
    ),
)
