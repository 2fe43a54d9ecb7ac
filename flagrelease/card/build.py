"""Cards by name, from the store alone: release → verdict → evaluations → results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import Field
from sqlalchemy import or_, select

from flagrelease.card.compose import in_language, in_style, measured_card, published_card
from flagrelease.card.data import Card, CardData, CardRow, Conformance, NotRun
from flagrelease.card.importing import imported_card
from flagrelease.card.styles import Language, Style
from flagrelease.errors import StoreError, UnknownNameError
from flagrelease.matrix import ResolvedCell
from flagrelease.records import Artefact, CellImage, Record, Stage
from flagrelease.store import Store, conformance
from flagrelease.store.models import ArtefactRow, ReleaseRow, StageRow
from flagrelease.store.queries import find_release, release_view


def find_card(
    store: Store,
    name: str,
    cells: Mapping[str, ResolvedCell],
    style: Style = Style.VERIFIED,
    language: Language | None = None,
) -> Card:
    """The card of a release (by number), or of a cell: of its newest finished release, else of its published scores.

    Without `language` a card is English, an imported one as it was read. Raises UnknownNameError where there is none.
    """
    imported = imported_card(store, name)
    if imported:
        return in_language(in_style(imported, style), language or imported.language)
    try:
        release = find_release(store, name, completed=True)
    except UnknownNameError:
        if name in cells and cells[name].cell.published:
            return published_card(cells[name], style, language or "en")
        raise
    return measured_card(card_data(store, release), style, language or "en")


class Snapshot(Record):
    """What is stored with a release of what it was made from."""

    cell: ResolvedCell
    engine: str
    engine_display: str
    displays: dict[str, str]
    not_run: list[NotRun]
    serve: list[str] = Field(default_factory=list, description="what serves the model, typed in the cell's container")


class Checked(NamedTuple):
    """What a release's card is to say of a check of FlagGems' operators, and the check's files of evidence."""

    conformance: Conformance
    files: Sequence[Artefact]


def card_data(store: Store, release: int, checked: Checked | None = None) -> CardData:
    """Data of the release's card; raises StoreError where it has no verdict yet.

    `checked` is given while the card is made, and stored with it: what is checked later changes no card that is there.
    """
    view = release_view(store, release)
    snapshot = release_snapshot(store, release)
    if view.gate is None or view.candidate_id is None:
        raise StoreError(
            f"release {release} of {view.cell} has no verdict yet, so no card",
            remedy=f"finish it: flagrelease release {view.cell}",
        )
    candidate = store.known_evaluation(evaluation=view.candidate_id)
    identifier = view.gate.baseline_id
    baseline = store.known_evaluation(baseline_id=identifier) if view.gate.paired else None
    published = None if view.gate.paired else store.imported_baseline(identifier)
    before: dict[str, tuple[float, tuple[float, float] | None]] = {}
    if baseline:
        before = {row.benchmark: (row.score, (row.lower, row.upper)) for row in baseline.results}
    elif published:
        before = {row.benchmark: (row.score, None) for row in published.scores}
    # Of a benchmark that was stopped early only what both sides were asked compares.
    before |= {row.benchmark: (row.baseline, None) for row in view.gate.benchmarks if row.stopped_of}
    rows = [
        CardRow(
            benchmark=result.benchmark,
            display=snapshot.displays[result.benchmark],
            baseline=before[result.benchmark][0],
            baseline_interval=before[result.benchmark][1],
            candidate=result.score,
            candidate_interval=(result.lower, result.upper),
            n=result.n,
            repeats=result.repeats,
        )
        for result in candidate.results
        if result.benchmark in before
    ]
    order = list(snapshot.displays)
    rows.sort(key=lambda row: order.index(row.benchmark))
    return CardData(
        release=release,
        cell=snapshot.cell,
        engine=snapshot.engine,
        engine_display=snapshot.engine_display,
        engine_version=candidate.provenance.engine_version,
        released=candidate.provenance.created[:10],
        code_version=view.code_version,
        rows=rows,
        not_run=snapshot.not_run,
        gate=view.gate,
        candidate=candidate.provenance,
        baseline=baseline.provenance if baseline else None,
        published=published,
        image=_image(store, release),
        serve=snapshot.serve,
        conformance=checked.conformance if checked else _conformance(store, release),
        evidence=_evidence(store, release, checked.files if checked else ()),
    )


def release_snapshot(store: Store, release: int) -> Snapshot:
    """What the release was made from."""
    with store.session() as session:
        return Snapshot.model_validate(session.get_one(ReleaseRow, release).snapshot)


def _image(store: Store, release: int) -> CellImage | None:
    """The image that the release was served from; none where a process served it."""
    with store.session() as session:
        built = session.scalar(
            select(StageRow.output).where(StageRow.release_id == release, StageRow.stage == Stage.BUILD)
        )
    return CellImage.model_validate(built["image"]) if built and "image" in built else None


def _conformance(store: Store, release: int) -> Conformance | None:
    """What the release's card said of FlagGems' operators when it was made."""
    with store.session() as session:
        made = session.scalar(
            select(StageRow.output).where(StageRow.release_id == release, StageRow.stage == Stage.CARD)
        )
    return Conformance.model_validate(made["conformance"]) if made and "conformance" in made else None


def _evidence(store: Store, release: int, added: Sequence[Artefact]) -> list[Artefact]:
    proving = (Stage.BUILD, Stage.CANARY, Stage.EVALUATE, Stage.ESCALATE, Stage.SPEED, Stage.DECIDE)
    with store.session() as session:
        rows = session.scalars(
            select(ArtefactRow)
            .where(ArtefactRow.release_id == release)
            .where(or_(ArtefactRow.stage.in_(proving), ArtefactRow.kind == conformance.KIND))
        )
        found = [Artefact(kind=row.kind, name=row.name, sha256=row.sha256, size=row.size) for row in rows]
    by_name = {each.name: each for each in (*found, *added)}
    return [by_name[name] for name in sorted(by_name)]
