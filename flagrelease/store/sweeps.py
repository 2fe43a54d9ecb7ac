"""Sweeps in the store: begun, followed, ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, update

from flagrelease.store.models import SweepRow
from flagrelease.store.store import Store
from flagrelease.store.times import in_utc, now
from flagrelease.sweep import Outcome, SweepView


def begin(store: Store, key: str, asked: Mapping[str, Any]) -> SweepView:
    """The sweep of this key: a new one, or the one that was interrupted, which goes on."""
    with store.session() as session:
        row = session.scalar(select(SweepRow).where(SweepRow.key == key))
        if row is None:
            row = SweepRow(key=key, state="running", asked=dict(asked), outcomes=[], started_at=now())
            session.add(row)
            session.flush()
        else:
            row.state, row.finished_at = "running", None
        return _view(row)


def write(store: Store, sweep: int, outcomes: Sequence[Outcome]) -> None:
    """What became of the cells so far."""
    _set(store, sweep, outcomes=[outcome.model_dump(mode="json", exclude_none=True) for outcome in outcomes])


def end(store: Store, sweep: int, state: str) -> None:
    """The sweep is `completed`, has `failed` (with some of its cells), or was `interrupted`."""
    _set(store, sweep, state=state, finished_at=now())


def newest(store: Store) -> SweepView | None:
    """The sweep that was begun last."""
    with store.session() as session:
        row = session.scalar(select(SweepRow).order_by(SweepRow.id.desc()).limit(1))
        return _view(row) if row else None


def _set(store: Store, sweep: int, **values: Any) -> None:
    with store.session() as session:
        session.execute(update(SweepRow).where(SweepRow.id == sweep).values(**values))


def _view(row: SweepRow) -> SweepView:
    return SweepView(
        id=row.id,
        key=row.key,
        state=row.state,
        asked=row.asked,
        started_at=in_utc(row.started_at),
        finished_at=in_utc(row.finished_at) if row.finished_at else None,
        outcomes=[Outcome.model_validate(each) for each in row.outcomes],
    )
