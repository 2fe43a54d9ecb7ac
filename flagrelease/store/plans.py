"""What a plan asks the store: a few questions for the whole matrix at once. Nothing is written, not even a database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import aliased

from flagrelease.errors import StoreVersionError
from flagrelease.records import Stage
from flagrelease.store.database import connect_reading, require_known, revisions, shown, translate_errors
from flagrelease.store.models import Base, EvaluationRow, ImportedBaselineRow, PublicationRow, ReleaseRow, StageRow
from flagrelease.store.store import IMPORTED, REUSED_FIRST, Store
from flagrelease.store.times import in_utc

AT_ONCE = 5000
"""Values in one statement; databases allow some 32,000."""
RUNS = 5
"""Newest runs of a stage that its time is taken from."""


def open_for_reading(url: str) -> Store:
    """The store at a SQLAlchemy URL, which nothing can be written to through this; an empty one where there is none.

    Raises StoreError, StoreLockedError, or StoreVersionError where it is not of this FlagRelease's schema.
    """
    engine, known = connect_reading(url) or create_engine("sqlite://"), revisions()
    with translate_errors(engine), engine.connect() as connection:
        found = require_known(connection, known)
    if found is None:
        engine.dispose()
        engine = create_engine("sqlite://")
        Base.metadata.create_all(engine)
    elif found != known[-1]:
        raise StoreVersionError(
            f"the database {shown(engine.url)} has an older schema ({found}, now {known[-1]}), "
            "and a plan changes nothing",
            remedy="bring it up to date: flagrelease status",
        )
    return Store(engine)


class Attempt(NamedTuple):
    """What became of a stage with a certain key."""

    row: int
    release: int
    """Whose run produced the result; of an attempt without a result, the release that it belongs to."""
    state: str
    error: str | None

    @property
    def completed(self) -> bool:
        """Whether there is a result."""
        return self.state == "completed"


def attempts(store: Store, keys: Iterable[str]) -> dict[str, Attempt]:
    """By stage key: the result that a release would reuse, else the newest attempt."""
    columns = (StageRow.key, StageRow.id, StageRow.state, StageRow.release_id, StageRow.reused_from, StageRow.error)
    found: dict[str, Attempt] = {}
    with store.session() as session:
        for some in _parts(keys):
            for key, row, state, release, reused, error in session.execute(
                select(*columns)
                .where(StageRow.key.in_(some))
                .order_by((StageRow.state == "completed").desc(), *REUSED_FIRST)
            ):
                if key not in found or (not found[key].completed and row > found[key].row):
                    found[key] = Attempt(row, reused or release, state, error)
    return found


def outputs(store: Store, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
    """What the stages with these row ids left."""
    with store.session() as session:
        return {
            row: output or {}
            for some in _parts(rows)
            for row, output in session.execute(select(StageRow.id, StageRow.output).where(StageRow.id.in_(some)))
        }


class PastRelease(NamedTuple):
    """A release, without what it found."""

    id: int
    engine: str
    state: str
    time: datetime
    """When it ended; of one that runs, when it began."""


def newest_releases(store: Store) -> dict[str, PastRelease]:
    """The newest release of each cell that has one, by cell id."""
    newest = select(func.max(ReleaseRow.id)).where(ReleaseRow.state != IMPORTED).group_by(ReleaseRow.cell)
    with store.session() as session:
        rows = session.execute(select(*_RELEASE).where(ReleaseRow.id.in_(newest)))
        return {row.cell: _past_release(row) for row in rows}


def releases_by_key(store: Store, keys: Iterable[str]) -> dict[str, PastRelease]:
    """The releases with these keys."""
    with store.session() as session:
        return {
            row.key: _past_release(row)
            for some in _parts(keys)
            for row in session.execute(select(*_RELEASE).where(ReleaseRow.key.in_(some)))
        }


_RELEASE = (
    ReleaseRow.cell,
    ReleaseRow.id,
    ReleaseRow.key,
    ReleaseRow.engine,
    ReleaseRow.state,
    ReleaseRow.started_at,
    ReleaseRow.finished_at,
)


def _past_release(row: Any) -> PastRelease:
    return PastRelease(row.id, row.engine, row.state, in_utc(row.finished_at or row.started_at))


class PastStage(NamedTuple):
    """The newest run of a stage of a cell, to compare with."""

    release: int
    key: str
    inputs: Mapping[str, Any]


def past_stages(store: Store, cells: Iterable[str]) -> dict[str, dict[str, dict[Stage, PastStage]]]:
    """By cell and by engine, the newest run of each stage: of those with a result, else of all."""
    ours, source = aliased(StageRow), aliased(StageRow)
    found: dict[str, dict[str, dict[Stage, PastStage]]] = defaultdict(lambda: defaultdict(dict))
    with store.session() as session:
        for some in _parts(cells):
            newest = (
                select(func.max(StageRow.id))
                .join(ReleaseRow, ReleaseRow.id == StageRow.release_id)
                .where(ReleaseRow.cell.in_(some))
                .group_by(ReleaseRow.cell, ReleaseRow.engine, StageRow.stage, StageRow.state == "completed")
            )
            # A stage that was reused has its inputs where it ran.
            rows = session.execute(
                select(ReleaseRow.cell, ReleaseRow.engine, ours, source.inputs)
                .join(ReleaseRow, ReleaseRow.id == ours.release_id)
                .outerjoin(source, (source.release_id == ours.reused_from) & (source.stage == ours.stage))
                .where(ours.id.in_(newest))
                .order_by(ours.state == "completed")
            )
            for cell, engine, row, inputs in rows:
                past = PastStage(row.release_id, row.key, row.inputs if inputs is None else inputs)
                found[cell][engine][Stage(row.stage)] = past
    return dict(found)


def seconds(store: Store) -> dict[tuple[str, str, Stage], list[float]]:
    """How long the newest runs of each stage of each cell took, by cell, engine and stage; reused results took none."""
    place = func.row_number().over(
        partition_by=(ReleaseRow.cell, ReleaseRow.engine, StageRow.stage), order_by=StageRow.id.desc()
    )
    runs = (
        select(
            ReleaseRow.cell,
            ReleaseRow.engine,
            StageRow.stage,
            StageRow.started_at,
            StageRow.finished_at,
            place.label("place"),
        )
        .join(ReleaseRow, ReleaseRow.id == StageRow.release_id)
        .where(StageRow.state == "completed", StageRow.reused_from.is_(None), StageRow.finished_at.is_not(None))
        .subquery()
    )
    found: dict[tuple[str, str, Stage], list[float]] = defaultdict(list)
    with store.session() as session:
        for cell, engine, stage, began, ended, _ in session.execute(select(runs).where(runs.c.place <= RUNS)):
            found[cell, engine, Stage(stage)].append((ended - began).total_seconds())
    return dict(found)


def build_inputs(store: Store) -> list[dict[str, Any]]:
    """The inputs of the newest build of each cell and engine that has a result."""
    newest = (
        select(func.max(StageRow.id))
        .join(ReleaseRow, ReleaseRow.id == StageRow.release_id)
        .where(StageRow.stage == Stage.BUILD, StageRow.state == "completed", StageRow.reused_from.is_(None))
        .group_by(ReleaseRow.cell, ReleaseRow.engine)
    )
    with store.session() as session:
        return list(session.scalars(select(StageRow.inputs).where(StageRow.id.in_(newest))))


def cell_snapshots(store: Store, releases: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The cell with everything it referred to, as it was when each of the releases was made."""
    with store.session() as session:
        return {
            release: snapshot.get("cell", {})
            for some in _parts(releases)
            for release, snapshot in session.execute(
                select(ReleaseRow.id, ReleaseRow.snapshot).where(ReleaseRow.id.in_(some))
            )
        }


def newest_publishers(store: Store) -> dict[tuple[str, str], int]:
    """The newest release that published a revision to a target, by target and revision."""
    place = (PublicationRow.target, PublicationRow.revision)
    with store.session() as session:
        rows = session.execute(select(*place, func.max(PublicationRow.release_id)).group_by(*place))
        return {(target, revision): release for target, revision, release in rows}


def baseline_ids(store: Store) -> set[str]:
    """Ids of the baselines in the store."""
    with store.session() as session:
        measured = session.scalars(select(EvaluationRow.baseline_id).where(EvaluationRow.baseline_id.is_not(None)))
        return {str(known) for known in measured} | set(session.scalars(select(ImportedBaselineRow.id)))


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    """All values, as many at once as a statement takes."""
    whole = list(values)
    for start in range(0, len(whole), AT_ONCE):
        yield whole[start : start + AT_ONCE]
