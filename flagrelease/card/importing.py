"""Published cards in the store: each is a release that was imported, not measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pydantic import Field

from flagrelease import __version__
from flagrelease.card.data import Card
from flagrelease.card.facts import Facts, facts
from flagrelease.card.inline import clean
from flagrelease.card.names import understand
from flagrelease.card.read import Line, read_card_file
from flagrelease.chip import Chip
from flagrelease.errors import CardFileError
from flagrelease.matrix import Model
from flagrelease.records import Record, digest
from flagrelease.store import Store
from flagrelease.store.models import ReleaseRow
from flagrelease.store.store import IMPORTED

_LONGEST_CELL = 100


class Imported(Record):
    """What became of one file."""

    file: str
    release: int | None = Field(description="id in the store; none: it could not be read")
    new: bool = Field(default=False, description="false: the same file was imported before")
    cell: str | None = Field(default=None, description="<model>-<chip> where the matrix knows both, else of its name")
    card: Card | None = None
    unplaced: list[Line] = Field(default_factory=list)
    error: str | None = None
    remedy: str | None = None


class StoredCard(Record):
    """Snapshot of an imported release."""

    card: Card
    unplaced: list[Line]


def card_sources(path: Path) -> list[tuple[Path, str]]:
    """The card at `path`, or every `*.md` in the folder and below, sorted; each with the name it is known by.

    Raises CardFileError where there is none.
    """
    shown = clean(str(path))
    if not path.is_dir():
        if path.exists():
            return [(path, path.name)]
        raise CardFileError(
            f"{shown}: there is no such file or folder", remedy="name a card's file, or a folder of them"
        )
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".md" and file.is_file())
    if not found:
        raise CardFileError(f"{shown}: no card (*.md) lies in this folder or below", remedy="name another folder")
    return [(file, file.relative_to(path).as_posix()) for file in found]


def import_cards(
    store: Store,
    path: Path,
    models: Mapping[str, Model],
    chips: Mapping[str, Chip],
    done: Callable[[Imported], None] = lambda _: None,
) -> list[Imported]:
    """Import the card at `path`, or every card in the folder; `done` hears of each.

    A file that cannot be read is reported in its place and does not stop the others.
    """
    results = []
    for file, name in card_sources(path):
        try:
            result = import_card(store, file, models, chips, source=name)
        except CardFileError as error:
            result = Imported(file=clean(name), release=None, error=error.message, remedy=error.remedy)
        results.append(result)
        done(result)
    return results


def import_card(
    store: Store, file: Path, models: Mapping[str, Model], chips: Mapping[str, Chip], *, source: str
) -> Imported:
    """Import one card; the same file is the same release. Raises CardFileError where it is no card."""
    reading = read_card_file(file, source=source)
    card = reading.card
    if not card.sections:
        raise CardFileError(
            f"{reading.source}: there is no heading, so this is not a model card", remedy="name another file"
        )
    cell = _cell(facts(card, models, chips), file, models, chips)
    release, new = store.add_imported(
        cell=cell,
        key=digest({"kind": IMPORTED, "sha256": card.origin.sha256}),
        snapshot=StoredCard(card=card, unplaced=reading.unplaced).model_dump(mode="json"),
        code_version=__version__,
    )
    stored = StoredCard(card=card, unplaced=reading.unplaced)
    if not new:
        # What was kept then is what is rendered now, also where the file went by another name.
        with store.session() as session:
            row = session.get_one(ReleaseRow, release)
            cell, stored = row.cell, StoredCard.model_validate(row.snapshot)
    return Imported(
        file=reading.source, release=release, new=new, cell=cell, card=stored.card, unplaced=stored.unplaced
    )


def imported_card(store: Store, name: str) -> Card | None:
    """The card of the imported release numbered `name`; none where that is no imported release."""
    if re.fullmatch(r"[0-9]{1,9}", name) is None:
        return None
    with store.session() as session:
        row = session.get(ReleaseRow, int(name))
        if row is None or row.state != IMPORTED:
            return None
        return StoredCard.model_validate(row.snapshot).card


def _cell(found: Facts, file: Path, models: Mapping[str, Model], chips: Mapping[str, Chip]) -> str:
    """The cell that the card is of, as far as its names tell; else a name made of what it calls itself."""
    names = list(_names(found, file))
    parts = [understand(name, models, chips) for name in names]
    model = next((part.model_key for part in parts if part.model_key), None)
    chip = found.chip_key or next((part.chip_key for part in parts if part.chip_key), None)
    if model and chip:
        return f"{model}-{chip}"
    return re.sub(r"[^a-z0-9._-]+", "-", names[0].casefold())[:_LONGEST_CELL].strip("-") or IMPORTED


def _names(found: Facts, file: Path) -> Iterable[str]:
    yield from (name for name in (found.release_name, found.candidate_column) if name)
    if found.download:
        yield found.download.repository
    yield file.parent.name if file.stem.casefold() == "readme" and file.parent.name else file.stem
