"""Evaluations in the store: baselines and candidates with every item, and published scores that have none."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from flagrelease.errors import StoreError
from flagrelease.records import (
    BenchmarkRun,
    CanaryReference,
    Evaluation,
    ImportedBaseline,
    Item,
    NoiseFloor,
    Provenance,
    Result,
    Speed,
)
from flagrelease.store.models import EvaluationRow, ImportedBaselineRow, ItemRow, ResultRow
from flagrelease.store.times import now
from flagrelease.store.transactions import Transactions

ITEM_FIELDS = tuple(Item.model_fields)


class StoredEvaluation(NamedTuple):
    """An evaluation without its items: id, where it came from, aggregates."""

    id: int
    baseline_id: str | None
    provenance: Provenance
    benchmarks: list[BenchmarkRun]
    results: list[Result]
    floors: list[NoiseFloor]
    canary: CanaryReference | None
    speed: Speed | None


class Evaluations(Transactions):
    """The part of the store that keeps evaluations. Every method is one transaction."""

    def add_evaluation(
        self,
        evaluation: Evaluation,
        results: Sequence[Result],
        *,
        key: str,
        role: str,
        baseline_id: str | None = None,
    ) -> int:
        """Store an evaluation with its items; one with the same key is there already and keeps its id."""
        row = EvaluationRow(
            role=role,
            baseline_id=baseline_id,
            key=key,
            model=evaluation.provenance.model,
            provenance=evaluation.provenance.model_dump(mode="json"),
            benchmarks=[run.model_dump(mode="json") for run in evaluation.benchmarks],
            floors=[floor.model_dump(mode="json") for floor in evaluation.floors],
            canary=evaluation.canary.model_dump(mode="json") if evaluation.canary else None,
            speed=evaluation.speed.model_dump(mode="json") if evaluation.speed else None,
            created_at=now(),
        )
        same = select(EvaluationRow.id).where(EvaluationRow.key == key)
        try:
            with self.session() as session:
                known = session.scalar(same)
                if known is not None:
                    return known
                session.add(row)
                session.flush()
                _insert_items(session.connection(), row.id, evaluation.items)
                if results:
                    session.execute(
                        insert(ResultRow), [{"evaluation_id": row.id, **dict(result)} for result in results]
                    )
                return row.id
        except IntegrityError:
            # Another process stored it at the same time, as two cells do that bring in the baseline that they share.
            with self.session() as session:
                known = session.scalar(same)
            if known is None:
                raise
            return known

    def evaluation_summary(
        self, *, evaluation: int | None = None, baseline_id: str | None = None
    ) -> StoredEvaluation | None:
        """Provenance and aggregates of an evaluation, by its id or its baseline id; no items are read.

        Aggregates are in the order in which the benchmarks were asked.
        """
        where = EvaluationRow.id == evaluation if evaluation is not None else EvaluationRow.baseline_id == baseline_id
        with self.session() as session:
            row = session.scalar(select(EvaluationRow).where(where))
            if row is None:
                return None
            asked = {run["benchmark"]: place for place, run in enumerate(row.benchmarks)}
            results = sorted(
                session.scalars(select(ResultRow).where(ResultRow.evaluation_id == row.id)),
                key=lambda result: (asked.get(result.benchmark, len(asked)), result.benchmark),
            )
            return StoredEvaluation(
                row.id,
                row.baseline_id,
                Provenance.model_validate(row.provenance),
                [BenchmarkRun.model_validate(run) for run in row.benchmarks],
                [Result.model_validate({f: getattr(r, f) for f in Result.model_fields}) for r in results],
                [NoiseFloor.model_validate(floor) for floor in row.floors],
                CanaryReference.model_validate(row.canary) if row.canary else None,
                Speed.model_validate(row.speed) if row.speed else None,
            )

    def known_evaluation(self, *, evaluation: int | None = None, baseline_id: str | None = None) -> StoredEvaluation:
        """As `evaluation_summary`, of one that something in the store refers to; raises StoreError if it is lost."""
        found = self.evaluation_summary(evaluation=evaluation, baseline_id=baseline_id)
        if found is None:
            what = f"baseline {baseline_id}" if evaluation is None else f"evaluation {evaluation}"
            raise StoreError(f"the store lacks {what}", remedy="restore the database from a backup")
        return found

    def evaluation(self, summary: StoredEvaluation) -> Evaluation:
        """The whole evaluation, items included."""
        columns = [getattr(ItemRow, name) for name in ITEM_FIELDS]
        with self.session() as session:
            rows = session.execute(
                select(*columns)
                .where(ItemRow.evaluation_id == summary.id)
                .order_by(ItemRow.benchmark, ItemRow.item, ItemRow.repeat)
            )
            items = [Item(**row._asdict()) for row in rows]
        return Evaluation(
            provenance=summary.provenance,
            benchmarks=summary.benchmarks,
            items=items,
            floors=summary.floors,
            canary=summary.canary,
            speed=summary.speed,
        )

    def add_imported_baseline(self, baseline_id: str, baseline: ImportedBaseline) -> None:
        """Store published scores under their id; those that are there already stay as they are."""
        with self.session() as session:
            if session.get(ImportedBaselineRow, baseline_id) is None:
                detail = baseline.model_dump(mode="json")
                session.add(ImportedBaselineRow(id=baseline_id, detail=detail, created_at=now()))

    def imported_baseline(self, baseline_id: str) -> ImportedBaseline | None:
        """The published scores with this id."""
        with self.session() as session:
            row = session.get(ImportedBaselineRow, baseline_id)
            return ImportedBaseline.model_validate(row.detail) if row else None


def _insert_items(connection: Connection, evaluation: int, items: Sequence[Item]) -> None:
    """Insert items by the driver's own statement: SQLAlchemy's, with its dictionary for each row, takes four times as
    long (benchmarks/store_inserts.py).
    """
    if not items:
        return
    columns = ("evaluation_id", *ITEM_FIELDS)
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    marks = ", ".join([mark] * len(columns))
    values = attrgetter(*ITEM_FIELDS)
    connection.exec_driver_sql(
        f"INSERT INTO {ItemRow.__tablename__} ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608 - our own names
        [(evaluation, *values(item)) for item in items],
    )
