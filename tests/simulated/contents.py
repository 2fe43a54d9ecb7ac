"""What a store has, without ids and times: two stores that came about by other ways can be compared."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from flagrelease.records import digest
from flagrelease.store import Store
from flagrelease.store.evaluations import ITEM_FIELDS
from flagrelease.store.models import (
    ArtefactRow,
    EvaluationRow,
    ItemRow,
    PublicationRow,
    ReleaseRow,
    StageRow,
    VerdictRow,
)

_NOW = ("created", "latency_s")
"""What an evaluation says of the time at which it was made."""
_TOLD_BY_TIME = ("provenance", "card")
"""Kinds of evidence that hold a time or an id: of these the content differs from run to run."""


def contents(store_url: str) -> dict[str, Any]:
    """Releases by cell, evaluations by key: states, keys, outputs, verdicts, answers, evidence, publications."""
    with closing(Store.open(store_url)) as store, store.session() as session:
        evaluations = {row.id: _evaluation(session, row) for row in session.scalars(select(EvaluationRow))}
        releases: dict[str, list[Any]] = defaultdict(list)
        for release in session.scalars(select(ReleaseRow).order_by(ReleaseRow.id)):
            releases[release.cell].append(_release(session, release, evaluations))
        return {
            "releases": dict(sorted(releases.items())),
            "evaluations": dict(sorted((found["key"], found) for found in evaluations.values())),
        }


def _evaluation(session: Session, row: EvaluationRow) -> dict[str, Any]:
    columns = [getattr(ItemRow, name) for name in ITEM_FIELDS if name not in _NOW]
    order = (ItemRow.benchmark, ItemRow.item, ItemRow.repeat)
    items = session.execute(select(*columns).where(ItemRow.evaluation_id == row.id).order_by(*order)).all()
    provenance = {key: value for key, value in row.provenance.items() if key not in _NOW}
    about = {"key": row.key, "role": row.role, "baseline": row.baseline_id, "benchmarks": row.benchmarks}
    return about | {"provenance": provenance, "items": len(items), "answers": digest([list(item) for item in items])}


def _release(session: Session, release: ReleaseRow, evaluations: dict[int, dict[str, Any]]) -> dict[str, Any]:
    stages = session.scalars(select(StageRow).where(StageRow.release_id == release.id))
    artefacts = session.scalars(select(ArtefactRow).where(ArtefactRow.release_id == release.id))
    publications = session.scalars(select(PublicationRow).where(PublicationRow.release_id == release.id))
    verdict = session.get(VerdictRow, release.id)
    return {
        "key": release.key,
        "engine": release.engine,
        "state": release.state,
        "error": release.error,
        "stages": {stage.stage: [stage.key, stage.state] for stage in stages},
        "evidence": sorted(
            [each.stage, each.name, "" if each.kind in _TOLD_BY_TIME else each.sha256] for each in artefacts
        ),
        "verdict": verdict and [verdict.detail, evaluations[verdict.candidate_id]["key"]],
        "published": sorted([each.publisher, each.target] for each in publications),
    }
