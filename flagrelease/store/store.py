"""Reading and writing the store. Every method is one transaction: it happened, or it did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flagrelease.errors import StoreError
from flagrelease.records import (
    Artefact,
    BenchmarkRun,
    CanaryReference,
    Evaluation,
    ImportedBaseline,
    Item,
    NoiseFloor,
    Provenance,
    Publication,
    Result,
    Speed,
    Stage,
)
from flagrelease.store.database import open_database, translate_errors
from flagrelease.store.models import (
    ArtefactRow,
    EvaluationRow,
    ImportedBaselineRow,
    ItemRow,
    PublicationRow,
    ReleaseRow,
    ResultRow,
    StageRow,
    VerdictRow,
)
from flagrelease.store.times import in_utc, now
from flagrelease.verdicts import GateResult

REUSED_FIRST = (StageRow.reused_from.is_not(None), StageRow.finished_at.desc(), StageRow.id.desc())
"""Order of a stage's results: the newest run, as what an older one made may have had to be made again."""
IMPORTED = "imported"
"""State of a release that was read from a published card: it was not measured, so it stands for no cell."""

ITEM_FIELDS = tuple(Item.model_fields)


class FinishedStage(NamedTuple):
    """A stage's stored result, and the release whose run produced it."""

    release: int
    output: dict[str, Any]
    artefacts: list[Artefact]


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


class Store:
    """The database of releases, stages, evaluations, items, verdicts, artefacts and publications."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Store:
        """Open the store at a SQLAlchemy URL; raises StoreError and its kinds."""
        return cls(open_database(url))

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction; committed at the end, rolled back on an exception."""
        with translate_errors(self._engine), Session(self._engine) as session, session.begin():
            yield session

    # Releases and stages

    def begin_release(self, *, cell: str, key: str, engine: str, snapshot: Mapping[str, Any], code_version: str) -> int:
        """Id of the release with this key: a new one, or the one that an earlier run left unfinished."""
        with self.session() as session:
            row = session.scalar(select(ReleaseRow).where(ReleaseRow.key == key))
            if row is None:
                row = ReleaseRow(
                    cell=cell,
                    key=key,
                    engine=engine,
                    state="running",
                    snapshot=dict(snapshot),
                    code_version=code_version,
                    started_at=now(),
                )
                session.add(row)
                session.flush()
            else:
                row.state, row.error, row.finished_at = "running", None, None
            return row.id

    def finish_release(self, release: int, state: str, error: str | None = None) -> None:
        """Set the release's end state: `completed` or `failed` with its error."""
        with self.session() as session:
            session.execute(
                update(ReleaseRow).where(ReleaseRow.id == release).values(state=state, error=error, finished_at=now())
            )

    def add_imported(self, *, cell: str, key: str, snapshot: Mapping[str, Any], code_version: str) -> tuple[int, bool]:
        """Id of the imported release with this key, and whether it is new. It has no stages, and stands for no cell."""
        try:
            with self.session() as session:
                known = session.scalar(select(ReleaseRow.id).where(ReleaseRow.key == key))
                if known is not None:
                    return known, False
                time = now()
                row = ReleaseRow(
                    cell=cell,
                    key=key,
                    engine="",
                    state=IMPORTED,
                    snapshot=dict(snapshot),
                    code_version=code_version,
                    started_at=time,
                    finished_at=time,
                )
                session.add(row)
                session.flush()
                return row.id, True
        except IntegrityError:
            # Another process imported the same at the same time.
            with self.session() as session:
                return session.scalars(select(ReleaseRow.id).where(ReleaseRow.key == key)).one(), False

    def release_by_key(self, key: str) -> ReleaseRow | None:
        """The release with this key."""
        with self.session() as session:
            session.expire_on_commit = False
            return session.scalar(select(ReleaseRow).where(ReleaseRow.key == key))

    def finished_stage(self, stage: Stage, key: str) -> FinishedStage | None:
        """The stored result of a stage with this key, whichever release ran it."""
        with self.session() as session:
            row = session.scalar(
                select(StageRow)
                .where(StageRow.stage == stage, StageRow.key == key, StageRow.state == "completed")
                .order_by(*REUSED_FIRST)
            )
            if row is None:
                return None
            artefacts = session.scalars(
                select(ArtefactRow).where(ArtefactRow.release_id == row.release_id, ArtefactRow.stage == stage)
            )
            return FinishedStage(
                row.reused_from or row.release_id,
                row.output or {},
                [Artefact(kind=a.kind, name=a.name, sha256=a.sha256, size=a.size) for a in artefacts],
            )

    def begin_stage(self, release: int, stage: Stage, key: str, inputs: Mapping[str, Any]) -> None:
        """Record that a stage is running."""
        self._write_stage(
            release,
            stage,
            key=key,
            inputs=dict(inputs),
            state="running",
            started_at=now(),
            finished_at=None,
            output=None,
            error=None,
            reused_from=None,
        )

    def finish_stage(
        self,
        release: int,
        stage: Stage,
        *,
        key: str,
        output: Mapping[str, Any],
        artefacts: Sequence[Artefact] = (),
        reused_from: int | None = None,
    ) -> None:
        """Record a stage's result and its evidence."""
        with self.session() as session:
            self._put_stage(
                session,
                release,
                stage,
                key=key,
                state="completed",
                output=dict(output),
                error=None,
                reused_from=reused_from,
                finished_at=now(),
            )
            for artefact in artefacts:
                row = session.scalar(
                    select(ArtefactRow).where(
                        ArtefactRow.release_id == release,
                        ArtefactRow.stage == stage,
                        ArtefactRow.name == artefact.name,
                    )
                ) or ArtefactRow(release_id=release, stage=stage, name=artefact.name)
                row.kind, row.sha256, row.size = artefact.kind, artefact.sha256, artefact.size
                session.add(row)

    def fail_stage(self, release: int, stage: Stage, error: str) -> None:
        """Record why a stage failed."""
        self._write_stage(release, stage, state="failed", error=error, finished_at=now())

    def _write_stage(self, release: int, stage: Stage, **values: Any) -> None:
        with self.session() as session:
            self._put_stage(session, release, stage, **values)

    @staticmethod
    def _put_stage(session: Session, release: int, stage: Stage, **values: Any) -> None:
        row = session.scalar(select(StageRow).where(StageRow.release_id == release, StageRow.stage == stage))
        if row is None:
            row = StageRow(release_id=release, stage=stage, inputs={}, started_at=now())
            session.add(row)
        for name, value in values.items():
            setattr(row, name, value)

    # Evaluations

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

    # Verdicts and publications

    def record_verdict(self, release: int, gate: GateResult, candidate: int) -> None:
        """Store the gate's decision for a release."""
        with self.session() as session:
            session.merge(
                VerdictRow(
                    release_id=release,
                    verdict=gate.verdict,
                    baseline_id=gate.baseline_id,
                    candidate_id=candidate,
                    detail=gate.model_dump(mode="json"),
                )
            )

    def record_publication(self, release: int, publication: Publication) -> None:
        """Store what was published, once per place."""
        with self.session() as session:
            row = session.scalar(
                select(PublicationRow).where(
                    PublicationRow.release_id == release,
                    PublicationRow.publisher == publication.publisher,
                    PublicationRow.target == publication.target,
                )
            ) or PublicationRow(release_id=release, publisher=publication.publisher, target=publication.target)
            row.revision = publication.revision
            row.files = [file.model_dump(mode="json") for file in publication.files]
            last = session.scalar(
                select(func.max(PublicationRow.published_at)).where(
                    PublicationRow.publisher == publication.publisher, PublicationRow.target == publication.target
                )
            )
            # The order tells what was taken back, and hosts' clocks differ.
            row.published_at = max(now(), in_utc(last) + timedelta(microseconds=1)) if last else now()
            session.add(row)

    def newest_publisher_of(self, target: str, revision: str) -> int:
        """Newest release that published this revision there; 0 where none did."""
        with self.session() as session:
            return (
                session.scalar(
                    select(PublicationRow.release_id)
                    .where(PublicationRow.target == target, PublicationRow.revision == revision)
                    .order_by(PublicationRow.release_id.desc())
                )
                or 0
            )


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
