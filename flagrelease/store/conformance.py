"""Conformance in the store: what checks of FlagGems' operators found, one row a check's key, chip and operator.

What Triton's interpreter computed on a CPU is kept, and shows nothing of any chip.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.exc import IntegrityError

from flagrelease.operators.results import EDGES_ONLY, OperatorResult
from flagrelease.store.models import ConformanceRow
from flagrelease.store.store import Store
from flagrelease.store.times import in_utc, now

KIND = "conformance"
"""Of the files of evidence of a check of operators."""
_UNKNOWN = "not runnable here"


class ConformanceCheck(NamedTuple):
    """One check of operators, with the file of evidence that holds all of it."""

    key: str
    """Results of the same key are results of the same thing: versions, device, sizes."""
    chip: str | None
    """Its key in the matrix; none: nobody said which chip it was."""
    device: str
    """Torch's name of it; `cpu` is Triton's interpreter."""
    model: str
    dtype: str
    flag_gems: str
    torch: str
    triton: str
    results: Sequence[OperatorResult]
    sha256: str
    """Of the file of evidence."""


class ConformanceSummary(NamedTuple):
    """What is known of the operators of one FlagGems on a chip's device, in the sizes of one model."""

    flag_gems: str
    verdicts: dict[str, str]
    """By operator: matches, differs, crashed, not runnable here."""
    edges_only: frozenset[str]
    """Operators that differ in edge cases alone: in the model's sizes they match."""
    files: list[str]
    """SHA-256 of the files of evidence, the oldest first; one, unless operators were checked on several hosts."""


def record(store: Store, check: ConformanceCheck) -> None:
    """Store the check's results in place of those of the same key, chip and operator; the same again changes nothing.

    Raises StoreError.
    """
    try:
        _record(store, check)
    except IntegrityError:
        # Another process stored the same at the same time.
        _record(store, check)


def _record(store: Store, check: ConformanceCheck) -> None:
    about = {name: value for name, value in check._asdict().items() if name != "results"}
    with store.session() as session:
        known = {row.operator: row for row in session.scalars(select(ConformanceRow).where(*_same(check)))}
        last = session.scalar(select(func.max(ConformanceRow.created_at)))
        # The order tells what is newest, and hosts' clocks differ.
        time = max(now(), in_utc(last) + timedelta(microseconds=1)) if last else now()
        for result in check.results:
            values = {**about, "interpreter": check.device == "cpu", **_values(result)}
            row = known.get(result.operator)
            if row is None:
                session.add(ConformanceRow(**values, created_at=time))
            elif any(getattr(row, name) != value for name, value in values.items()):
                for name, value in values.items():
                    setattr(row, name, value)
                row.created_at = time


def passed(store: Store, chip: str, flag_gems: str, operator: str) -> bool | None:
    """Whether an operator matches on a device of the chip, with this version of FlagGems.

    The newest result of each model and type counts: a size that shows a fault may be that of one model alone. None:
    there is no result. An operator that could not be asked there has none.
    """
    query = (
        select(ConformanceRow.model, ConformanceRow.dtype, ConformanceRow.verdict)
        .where(*_on(chip), ConformanceRow.flag_gems == flag_gems, ConformanceRow.operator == operator)
        .where(ConformanceRow.verdict != _UNKNOWN)
        .order_by(ConformanceRow.created_at, ConformanceRow.id)
    )
    with store.session() as session:
        # Later rows take the place of earlier ones.
        verdicts = {(model, dtype): verdict for model, dtype, verdict in session.execute(query)}
        return all(verdict == "matches" for verdict in verdicts.values()) if verdicts else None


def newest(store: Store, chip: str, flag_gems: str | None, model: str) -> ConformanceSummary | None:
    """The newest check on a device of the chip in the sizes of the model; `flag_gems` none: of any version.

    None where there is none.
    """
    wanted = [*_on(chip), ConformanceRow.model == model]
    if flag_gems is not None:
        wanted.append(ConformanceRow.flag_gems == flag_gems)
    with store.session() as session:
        key = session.scalar(select(ConformanceRow.key).where(*wanted).order_by(*_NEWEST).limit(1))
        if key is None:
            return None
        same = select(ConformanceRow).where(*wanted, ConformanceRow.key == key)
        rows = session.scalars(same.order_by(ConformanceRow.created_at, ConformanceRow.id)).all()
        return ConformanceSummary(
            flag_gems=rows[0].flag_gems,
            verdicts={row.operator: row.verdict for row in rows},
            edges_only=frozenset(row.operator for row in rows if row.verdict == "differs" and EDGES_ONLY in row.reason),
            files=list(dict.fromkeys(row.sha256 for row in rows)),
        )


def files(store: Store, chip: str, flag_gems: str | None, model: str) -> list[str]:
    """SHA-256 of every file of evidence that `newest` may name, whichever version of FlagGems is asked for then."""
    query = select(ConformanceRow.sha256).where(*_on(chip), ConformanceRow.model == model).distinct()
    if flag_gems is not None:
        query = query.where(ConformanceRow.flag_gems == flag_gems)
    with store.session() as session:
        return sorted(session.scalars(query))


_NEWEST = (ConformanceRow.created_at.desc(), ConformanceRow.id.desc())


def _on(chip: str) -> list[ColumnElement[bool]]:
    return [ConformanceRow.chip == chip, ConformanceRow.interpreter.is_(False)]


def _same(check: ConformanceCheck) -> list[ColumnElement[bool]]:
    return [
        ConformanceRow.key == check.key,
        ConformanceRow.chip.is_(None) if check.chip is None else ConformanceRow.chip == check.chip,
    ]


def _values(result: OperatorResult) -> dict[str, Any]:
    found = result.as_json()
    names = ("operator", "verdict", "cases", "matching", "worst", "worst_error", "worst_tolerance")
    # PostgreSQL holds no NUL, which a crashed process may have said.
    reason = found["reason"].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return {**{name: found[name] for name in names}, "speed_ratio": found.get("speed_ratio"), "reason": reason}
