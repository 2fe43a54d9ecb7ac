"""`flagrelease card import`: published cards read into the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flagrelease.card.importing import Imported

_SHOWN = 100


def import_(
    path: Annotated[Path, typer.Argument(help="a card's file, or a folder of cards (*.md in it and below)")],
    as_json: Annotated[bool, typer.Option("--json", help="for programs: an object, for a folder a list")] = False,
) -> None:
    """Read published cards into the store, as releases that were imported and not measured.

    Says line by line what of each file has no place on a card. The same file is the same release. A file that cannot be
    read does not stop the others; the command then ends with exit code 26.
    """
    import json
    import sys

    from rich.console import Console
    from rich.progress import Progress

    from flagrelease.card.importing import card_sources, import_cards
    from flagrelease.errors import CardFileError
    from flagrelease.loading import load_chips, load_matrix
    from flagrelease.settings import settings
    from flagrelease.store import Store

    host = settings()
    models, chips = load_matrix(host.matrix_path).models, load_chips()
    files = card_sources(path)
    store = Store.open(host.store_url)
    try:
        console = Console(file=sys.stderr)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("reading cards", total=len(files))
            results = import_cards(store, path, models, chips, lambda _: progress.advance(task))
    finally:
        store.close()
    if as_json:
        said = [_for_programs(result) for result in results]
        typer.echo(json.dumps(said if path.is_dir() else said[0], indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(line for result in results for line in _report(result)))
    failed = sum(result.error is not None for result in results)
    if failed:
        typer.secho(f"{failed} of {len(results)} files could not be imported", fg="red", err=True)
        raise typer.Exit(CardFileError.exit_code)


def _for_programs(result: Imported) -> dict[str, object]:
    about = result.model_dump(mode="json", include={"file", "release", "new", "cell", "unplaced", "error"})
    return about | {"sha256": result.card.origin.sha256 if result.card else None}


def _report(result: Imported) -> Iterator[str]:
    """What became of a file, for people."""
    if result.card is None:
        yield f"{result.file}: NOT imported: {result.error}"
        yield f"  -> {result.remedy}"
        return
    again = "" if result.new else " (imported before)"
    yield f"{result.file}: release {result.release}{again}, imported as {result.cell}"
    yield f"  read: {', '.join(_read(result))}"
    yield f"  no place on a card: {len(result.unplaced) or 'no'} line{'s' if len(result.unplaced) != 1 else ''}"
    for line in result.unplaced:
        text = " ".join(line.text.split())
        yield f"    line {line.number}: {line.reason}: {text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'}"
    yield f"  render it: flagrelease card render {result.release} --style classic --output FILE"


def _read(result: Imported) -> Iterator[str]:
    from collections import Counter

    card = result.card
    if card is None:
        return
    for what, value in (
        ("name", card.release_name),
        ("chip", card.chip),
        ("container release", card.container_release),
        ("licence", card.licence and card.licence.name),
    ):
        yield f"{what} {value}" if value else f"no {what}"
    yield f"{len(card.sections)} headings"
    kinds = Counter[str](content.kind for section in card.sections for content in section.contents)
    words = {"table": "table", "code": "block of code", "client": "client snippet"}
    for kind, word in words.items():
        plural = word.replace("block", "blocks") if kind == "code" else f"{word}s"
        yield f"{kinds[kind]} {word if kinds[kind] == 1 else plural}"
