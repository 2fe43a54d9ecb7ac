"""What was published where, in which order, and what of it was taken back.

A rollback publishes an older release again, and is stored as that. So where an older release was published after a
newer one, the newer one is taken back; publishing it again by its number ends that.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select

from flagrelease.records import Publication, PublishedFile
from flagrelease.store.models import PublicationRow, ReleaseRow
from flagrelease.store.store import Store


class Place(NamedTuple):
    """Where something is published."""

    publisher: str
    target: str


def taken_back(store: Store, target: str | None = None) -> dict[tuple[int, Place], int]:
    """Every release that was taken back at a place, with the older one put there last; of one target, or of all."""
    query = select(PublicationRow.publisher, PublicationRow.target, PublicationRow.release_id)
    if target is not None:
        query = query.where(PublicationRow.target == target)
    with store.session() as session:
        rows = session.execute(query.order_by(PublicationRow.published_at, PublicationRow.id)).all()
    found: dict[tuple[int, Place], int] = {}
    before: dict[Place, list[int]] = {}
    for publisher, where, release in rows:
        place = Place(publisher, where)
        found |= {(newer, place): release for newer in before.setdefault(place, []) if newer > release}
        before[place].append(release)
    return found


def publications(store: Store, cell: str) -> dict[int, dict[Place, Publication]]:
    """What each release of a cell published, by release and place, oldest release first."""
    query = select(PublicationRow).join(ReleaseRow).where(ReleaseRow.cell == cell).order_by(PublicationRow.release_id)
    found: dict[int, dict[Place, Publication]] = {}
    with store.session() as session:
        for row in session.scalars(query):
            files = [PublishedFile.model_validate(file) for file in row.files]
            publication = Publication(publisher=row.publisher, target=row.target, revision=row.revision, files=files)
            found.setdefault(row.release_id, {})[Place(row.publisher, row.target)] = publication
    return found
