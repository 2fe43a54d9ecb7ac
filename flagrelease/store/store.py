"""The store: releases with their stages, verdicts and publications here, their evaluations in evaluations.py.

Every method is one transaction: it happened, or it did not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flagrelease.records import Artefact, Publication, Stage
from flagrelease.store.evaluations import Evaluations
from flagrelease.store.models import ArtefactRow, PublicationRow, ReleaseRow, StageRow, VerdictRow
from flagrelease.store.times import in_utc, now
from flagrelease.verdicts import GateResult

REUSED_FIRST = (StageRow.reused_from.is_not(None), StageRow.finished_at.desc(), StageRow.id.desc())
"""Order of a stage's results: the newest run, as what an older one made may have had to be made again."""
IMPORTED = "imported"
"""State of a release that was read from a published card: it was not measured, so it stands for no cell."""


class FinishedStage(NamedTuple):
    """A stage's stored result, and the release whose run produced it."""

    release: int
    output: dict[str, Any]
    artefacts: list[Artefact]


class Store(Evaluations):
    """The database of releases, stages, evaluations, items, verdicts, artefacts and publications."""

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
