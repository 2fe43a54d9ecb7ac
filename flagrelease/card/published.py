"""The card that a cell published last, as it lies there now."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select

from flagrelease.errors import PublishError
from flagrelease.publish.folder import FolderPublisher
from flagrelease.store import Store
from flagrelease.store.models import PublicationRow, ReleaseRow

CARD = "README.md"


class PublishedCard(NamedTuple):
    """A card in a folder publication."""

    release: int
    path: Path
    text: str
    unchanged: bool
    """Whether the file is the one that the release published."""


def last_published(store: Store, cell: str, root: Path) -> PublishedCard | None:
    """The card of the newest release of `cell` that was published to a folder below `root`; None if none was.

    Raises PublishError where it was published, but its file is not there any more.
    """
    with store.session() as session:
        row = session.scalar(
            select(PublicationRow)
            .join(ReleaseRow, ReleaseRow.id == PublicationRow.release_id)
            .where(ReleaseRow.cell == cell, PublicationRow.publisher == FolderPublisher.name)
            .order_by(PublicationRow.release_id.desc(), PublicationRow.id.desc())
            .limit(1)
        )
        if row is None:
            return None
        release, path = row.release_id, root / row.target / CARD
        wanted = next((file["sha256"] for file in row.files if file["path"] == CARD), None)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PublishError(
            f"release {release} of {cell} was published, but its card {path} cannot be read: {error.strerror}",
            remedy=f"name the folder that it was published to (FLAGRELEASE_OUTPUT), or publish again: "
            f"flagrelease release {cell}",
        ) from error
    unchanged = hashlib.sha256(content).hexdigest() == wanted
    return PublishedCard(release, path, content.decode(errors="replace"), unchanged)
