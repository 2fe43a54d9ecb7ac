"""Approvals in the store: asked for, given, refused; and publications in spite of the policy, with their reason.

Each is about one content of a release, known by its revision: what is approved is exactly what was looked at.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from flagrelease.errors import UnknownNameError
from flagrelease.records import Record
from flagrelease.store.models import ApprovalRow, ReleaseRow
from flagrelease.store.store import Store
from flagrelease.store.times import in_utc, now

Kind = Literal["approve", "reject", "override"]
Through = Literal["command", "ui"]
ASKED = "ask"
WAITING = "waiting"
"""State of a release that ended before its publication, as somebody has to approve that."""
LONGEST_NAME = 200


class Decision(Record):
    """What somebody decided about publishing a release."""

    kind: Kind = Field(description="`override`: published in spite of the matrix's policy")
    revision: str = Field(description="of the content that it is about; another one is not decided by it")
    who: str
    through: Through = Field(description="a command, or Prefect's UI")
    reason: str | None
    at: datetime

    def __str__(self) -> str:
        """For people: rejected by alice on 2026-11-21 10:00 UTC: why."""
        done = {"approve": "approved", "reject": "rejected", "override": "published in spite of the policy"}[self.kind]
        said = f"{done} by {self.who} on {self.at:%Y-%m-%d %H:%M} UTC"
        return f"{said}: {self.reason}" if self.reason else said


class Asked(NamedTuple):
    """An approval that was asked for."""

    release: int
    cell: str
    revision: str
    flow_runs: tuple[str, ...]
    """Ids of the flow runs in Prefect that were suspended until it is given; none: nothing waits by itself."""


def ask(store: Store, release: int, revision: str, flow_run: str | None = None) -> None:
    """Note that this content of the release waits for an approval; what was asked already is not asked twice."""
    with store.session() as session:
        newest = _newest(session, release, [ASKED])
        if newest is None or (newest.revision, newest.flow_run) != (revision, flow_run):
            session.add(
                ApprovalRow(
                    release_id=release,
                    revision=revision,
                    decision=ASKED,
                    through="command",
                    flow_run=flow_run,
                    decided_at=now(),
                )
            )


def asked(store: Store, name: str) -> Asked:
    """What was asked for last: of a release given by number, or of any of a cell's; raises UnknownNameError."""
    found_by = select(ApprovalRow, ReleaseRow.cell).join(ReleaseRow).where(ApprovalRow.decision == ASKED)
    if re.fullmatch(r"[0-9]{1,9}", name):
        found_by = found_by.where(ReleaseRow.id == int(name))
    else:
        found_by = found_by.where(ReleaseRow.cell == name)
    with store.session() as session:
        found = session.execute(found_by.order_by(ApprovalRow.id.desc()).limit(1)).first()
        if found is None:
            raise UnknownNameError(
                f"no approval was asked for `{name}`",
                remedy=f"see where it stands: flagrelease show {name}; what needs an approval stands in the matrix, "
                "under `publication`",
            )
        row, cell = found
        query = select(ApprovalRow.flow_run).where(
            ApprovalRow.release_id == row.release_id,
            ApprovalRow.revision == row.revision,
            ApprovalRow.flow_run.is_not(None),
        )
        runs = dict.fromkeys(str(run) for run in session.scalars(query.order_by(ApprovalRow.id)))
        return Asked(row.release_id, cell, row.revision, tuple(runs))


def decide(
    store: Store, release: int, revision: str, kind: Kind, *, who: str, through: Through, reason: str | None = None
) -> Decision:
    """Store what somebody decided about this content of the release."""
    with store.session() as session:
        row = ApprovalRow(
            release_id=release,
            revision=revision,
            decision=kind,
            who=who[:LONGEST_NAME],
            through=through,
            reason=reason,
            decided_at=now(),
        )
        session.add(row)
        return _decision(row)


def decision(store: Store, release: int, revision: str) -> Decision | None:
    """What was decided last about exactly this content of the release."""
    with store.session() as session:
        row = _newest(session, release, ["approve", "reject", "override"], revision)
        return _decision(row) if row else None


def decisions(session: Session, release: int) -> list[Decision]:
    """All that was decided about the release, in that order."""
    query = select(ApprovalRow).where(ApprovalRow.release_id == release, ApprovalRow.decision != ASKED)
    return [_decision(row) for row in session.scalars(query.order_by(ApprovalRow.id))]


def _newest(session: Session, release: int, kinds: list[str], revision: str | None = None) -> ApprovalRow | None:
    query = select(ApprovalRow).where(ApprovalRow.release_id == release, ApprovalRow.decision.in_(kinds))
    if revision is not None:
        query = query.where(ApprovalRow.revision == revision)
    return session.scalar(query.order_by(ApprovalRow.id.desc()).limit(1))


def _decision(row: ApprovalRow) -> Decision:
    return Decision.model_validate(
        {
            "kind": row.decision,
            "revision": row.revision,
            "who": row.who,
            "through": row.through,
            "reason": row.reason,
            "at": in_utc(row.decided_at),
        }
    )
