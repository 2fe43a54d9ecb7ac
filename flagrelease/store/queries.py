"""What people ask the store: the state of each cell, and everything about one release."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pydantic import Field
from sqlalchemy import func, select

from flagrelease.errors import UnknownNameError
from flagrelease.records import Artefact, ImportedBaseline, Provenance, Publication, PublishedFile, Record, Stage
from flagrelease.store.approvals import Decision, decisions
from flagrelease.store.models import (
    ArtefactRow,
    EvaluationRow,
    ImportedBaselineRow,
    PublicationRow,
    ReleaseRow,
    StageRow,
    VerdictRow,
)
from flagrelease.store.store import IMPORTED, Store
from flagrelease.verdicts import GateResult


class StageView(Record):
    """One stage of a release, as people see it."""

    stage: Stage
    state: str
    key: str
    reused_from: int | None = Field(description="release whose run produced the result")
    seconds: float | None
    error: str | None


class ImportedFrom(Record):
    """The file of a published card that a release was read from."""

    source: str
    sha256: str
    unplaced: int = Field(description="lines of it that have no place on a card")


class ReleaseView(Record):
    """Everything about one release."""

    id: int
    cell: str
    engine: str
    state: str
    code_version: str
    started_at: datetime
    finished_at: datetime | None
    error: str | None
    stages: list[StageView]
    gate: GateResult | None
    candidate_id: int | None
    artefacts: list[Artefact]
    publications: list[Publication]
    decisions: list[Decision] = Field(description="what people decided about publishing it")
    imported: ImportedFrom | None = Field(default=None, description="none: a release that FlagRelease made")


def latest_releases(store: Store, cells: Sequence[str] | None = None) -> dict[str, ReleaseView]:
    """The newest release of each cell that has one, by cell id. What was imported is no release of a cell."""
    with store.session() as session:
        newest = select(func.max(ReleaseRow.id)).where(ReleaseRow.state != IMPORTED).group_by(ReleaseRow.cell)
        if cells is not None:
            newest = newest.where(ReleaseRow.cell.in_(cells))
        ids = list(session.scalars(newest))
    views = (release_view(store, release) for release in ids)
    return {view.cell: view for view in views}


def find_release(store: Store, name: str, *, completed: bool = False) -> int:
    """Id of a release given by number, or of the newest one of a cell; raises UnknownNameError.

    An imported release is found by its number only, and never where a `completed` one is asked for.
    """
    with store.session() as session:
        query = select(ReleaseRow.id).order_by(ReleaseRow.id.desc())
        if completed:
            query = query.where(ReleaseRow.state == "completed")
        is_number = re.fullmatch(r"[0-9]{1,9}", name) is not None
        if is_number:
            query = query.where(ReleaseRow.id == int(name))
        else:
            query = query.where(ReleaseRow.cell == name, ReleaseRow.state != IMPORTED)
        found = session.scalar(query.limit(1))
    if found is None:
        kind = "completed release" if completed else "release"
        raise UnknownNameError(
            f"there is no {kind} `{name}` in the store",
            remedy="see what there is: flagrelease status; make one: flagrelease release <cell>",
        )
    return found


class JudgedRelease(NamedTuple):
    """A release with its verdict."""

    view: ReleaseView
    gate: GateResult
    candidate_id: int
    """The evaluation that the verdict is about."""


def judged_release(store: Store, name: str) -> JudgedRelease:
    """The release given by number, or the newest one of a cell that has a verdict; raises UnknownNameError."""
    view = newest = release_view(store, find_release(store, name))
    if newest.imported:
        raise UnknownNameError(
            f"release {newest.id} was imported from a card and not measured, so there is no verdict",
            remedy=f"see what stands on it: flagrelease show {newest.id}",
        )
    if newest.gate is None and newest.cell == name:
        judged = select(ReleaseRow.id).join(VerdictRow).where(ReleaseRow.cell == name, ReleaseRow.state != IMPORTED)
        with store.session() as session:
            older = session.scalar(judged.order_by(ReleaseRow.id.desc()).limit(1))
        view = newest if older is None else release_view(store, older)
    if view.gate is None or view.candidate_id is None:
        raise UnknownNameError(
            f"there is no verdict on `{name}` in the store: release {newest.id} was not judged",
            remedy=f"see where it stands: flagrelease show {newest.id}; go on: flagrelease release {newest.cell}",
        )
    return JudgedRelease(view, view.gate, view.candidate_id)


def release_view(store: Store, release: int) -> ReleaseView:
    """Everything about the release with this id."""
    with store.session() as session:
        row = session.get_one(ReleaseRow, release)
        stages = session.scalars(select(StageRow).where(StageRow.release_id == release).order_by(StageRow.id))
        verdict = session.get(VerdictRow, release)
        artefacts = session.scalars(
            select(ArtefactRow).where(ArtefactRow.release_id == release).order_by(ArtefactRow.id)
        )
        publications = session.scalars(
            select(PublicationRow).where(PublicationRow.release_id == release).order_by(PublicationRow.id)
        )
        return ReleaseView(
            id=row.id,
            cell=row.cell,
            engine=row.engine,
            state=row.state,
            code_version=row.code_version,
            started_at=row.started_at,
            finished_at=row.finished_at,
            error=row.error,
            stages=[
                StageView(
                    stage=Stage(stage.stage),
                    state=stage.state,
                    key=stage.key,
                    reused_from=stage.reused_from,
                    seconds=(stage.finished_at - stage.started_at).total_seconds() if stage.finished_at else None,
                    error=stage.error,
                )
                for stage in stages
            ],
            gate=GateResult.model_validate(verdict.detail) if verdict else None,
            candidate_id=verdict.candidate_id if verdict else None,
            artefacts=[Artefact(kind=a.kind, name=a.name, sha256=a.sha256, size=a.size) for a in artefacts],
            publications=[
                Publication(
                    publisher=p.publisher,
                    target=p.target,
                    revision=p.revision,
                    files=[PublishedFile.model_validate(file) for file in p.files],
                )
                for p in publications
            ],
            decisions=decisions(session, release),
            imported=_imported_from(row) if row.state == IMPORTED else None,
        )


def _imported_from(row: ReleaseRow) -> ImportedFrom:
    origin = row.snapshot["card"]["origin"]
    return ImportedFrom(source=origin["source"], sha256=origin["sha256"], unplaced=len(row.snapshot["unplaced"]))


def stored_baselines(store: Store) -> dict[str, Provenance | ImportedBaseline]:
    """What each baseline in the store is of, by baseline id: measured ones first, each kind oldest first."""
    with store.session() as session:
        measured = session.execute(
            select(EvaluationRow.baseline_id, EvaluationRow.provenance)
            .where(EvaluationRow.baseline_id.is_not(None))
            .order_by(EvaluationRow.id)
        )
        imported = session.scalars(
            select(ImportedBaselineRow).order_by(ImportedBaselineRow.created_at, ImportedBaselineRow.id)
        )
        found: dict[str, Provenance | ImportedBaseline] = {
            str(identifier): Provenance.model_validate(provenance) for identifier, provenance in measured
        }
        return found | {row.id: ImportedBaseline.model_validate(row.detail) for row in imported}
