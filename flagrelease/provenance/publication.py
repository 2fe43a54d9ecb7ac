"""The files that make a publication checkable: the statement about it, its signature, and the key that made it."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from flagrelease.card.data import CardData
from flagrelease.provenance.dsse import sign
from flagrelease.provenance.keys import SigningKey
from flagrelease.provenance.statement import ENVELOPE_FILE, KEY_FILE, STATEMENT_FILE, Answers, statement
from flagrelease.records import Stage
from flagrelease.store import Store
from flagrelease.store.models import ArtefactRow


def with_provenance(
    store: Store,
    data: CardData,
    files: Mapping[str, bytes],
    *,
    key: SigningKey | None,
    baseline_sha256: str | None,
) -> dict[str, bytes]:
    """`files` of a release's publication with the statement about them, and where there is a key its signature.

    The same release, files and key give the same bytes.
    """
    whole = dict(files)
    if key:
        # A file like the others: whoever signed says under which key, and cannot be made to say another.
        whole[KEY_FILE] = key.public.pem
    content = statement(data, whole, answers=judged_answers(store, data.release), baseline_sha256=baseline_sha256)
    whole[STATEMENT_FILE] = content
    if key:
        whole[ENVELOPE_FILE] = sign(content, key)
    return whole


def judged_answers(store: Store, release: int) -> Answers | None:
    """Where in the release's publication the answers are that the gate judged; none where nothing was asked."""
    kinds = ("items", "provenance")
    with store.session() as session:
        rows = session.scalars(
            select(ArtefactRow).where(
                ArtefactRow.release_id == release,
                ArtefactRow.stage.in_((Stage.EVALUATE, Stage.ESCALATE)),
                ArtefactRow.kind.in_(kinds),
            )
        )
        names = {(row.stage, row.kind): f"evidence/{row.name}" for row in rows}
    for stage in (Stage.ESCALATE, Stage.EVALUATE):
        items, about = (names.get((stage, kind)) for kind in kinds)
        if items and about:
            return Answers(items=items, about=about)
    return None
