"""Cards that were imported into the store: what a card is compared with besides the matrix."""

from __future__ import annotations

from sqlalchemy import select

from flagrelease.card.data import Card
from flagrelease.card.importing import StoredCard
from flagrelease.store import Store
from flagrelease.store.models import ReleaseRow
from flagrelease.store.store import IMPORTED


def imported_cards(store: Store) -> list[Card]:
    """All imported cards, in the order in which they were imported."""
    with store.session() as session:
        rows = session.scalars(select(ReleaseRow).where(ReleaseRow.state == IMPORTED).order_by(ReleaseRow.id))
        return [StoredCard.model_validate(row.snapshot).card for row in rows]
