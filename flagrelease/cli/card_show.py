"""`flagrelease card show`: a card in the terminal, as a web page, or against the one that was published."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from flagrelease.card.styles import Language, Style

if TYPE_CHECKING:
    from flagrelease.settings import Settings

NARROWEST, WIDEST = 80, 140
"""Columns of text in a terminal. Where there is none, as in a file, the widest."""


class _Shown(NamedTuple):
    text: str
    title: str
    pictures: dict[str, str]
    cell: str | None


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="a release's number, a cell (its newest finished release), or a path with / or .md: a card"
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option("--html", dir_okay=False, help="write a web page that looks as on a hub, and print its path"),
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="show what differs from the card that the cell published last")
    ] = False,
    style: Annotated[Style, typer.Option(help="classic: the source cards' sections, no more")] = Style.VERIFIED,
    language: Annotated[
        Language | None, typer.Option(help="of headings and prose; an imported card's own by default")
    ] = None,
) -> None:
    """Show a card in the terminal, or with --html as a web page that works offline.

    --style and --language are for cards from the store; a file is shown as it is.
    Exit code: 0, with --diff too, whether anything differs or not; 10 and above an error.
    """
    from flagrelease.card.files import is_card_file
    from flagrelease.settings import settings

    host = settings()
    shown = _of_file(Path(name)) if is_card_file(name) else _of_store(name, style, language, host)
    if diff:
        _print_difference(shown, host)
    if html:
        from flagrelease.card.files import write_whole
        from flagrelease.card.preview import page

        write_whole(html, page(shown.text, title=shown.title, pictures=shown.pictures).encode())
        typer.echo(html)
    if not diff and not html:
        from rich.console import Console

        from flagrelease.card.terminal import print_card

        columns = shutil.get_terminal_size((WIDEST, 0)).columns
        print_card(shown.text, Console(width=min(max(columns, NARROWEST), WIDEST)))


def _of_file(path: Path) -> _Shown:
    from flagrelease.card.read import read_card_file
    from flagrelease.card.render import PLOT

    card = read_card_file(path).card
    pictures = {}
    if (plot := path.with_name(PLOT)).is_file():
        pictures[PLOT] = plot.read_text(encoding="utf-8", errors="replace")
    own = (card.front_matter or {}).get("flagrelease")
    cell = own.get("cell") if isinstance(own, dict) else None
    return _Shown(
        path.read_text(encoding="utf-8"), card.release_name or path.stem, pictures, str(cell) if cell else None
    )


def _of_store(name: str, style: Style, language: Language | None, host: Settings) -> _Shown:
    from flagrelease.card.build import find_card
    from flagrelease.card.files import card_files
    from flagrelease.card.names import ORGANISATION
    from flagrelease.loading import load_chips, load_matrix, resolve_all
    from flagrelease.store import Store
    from flagrelease.store.queries import release_view

    cells = {cell.id: cell for cell in resolve_all(load_matrix(host.matrix_path), load_chips())}
    with closing(Store.open(host.store_url)) as store:
        card = find_card(store, name, cells, style, language)
        cell = release_view(store, int(name)).cell if name.isdecimal() else name
    files = {path: content.decode() for path, content in card_files(card).items()}
    return _Shown(
        files.pop("README.md"),
        f"{ORGANISATION}/{card.release_name}" if card.release_name else card.origin.source or name,
        files,
        cell,
    )


def _print_difference(shown: _Shown, host: Settings) -> None:
    from flagrelease.card.preview import card_diff
    from flagrelease.card.published import last_published
    from flagrelease.errors import CardFileError
    from flagrelease.store import Store
    from flows.session import publisher_of

    if shown.cell is None:
        raise CardFileError(
            f"the card of {shown.title} does not say which cell it is of (flagrelease.cell in its front matter)",
            remedy="name the cell or the release in the place of the file",
        )
    with closing(Store.open(host.store_url)) as store:
        published = last_published(store, shown.cell, publisher_of(host).root)
    if published is None:
        typer.echo(f"{shown.cell}: nothing was published yet, so there is nothing to compare with")
        return
    typer.echo(f"{shown.cell}: compared with the card of release {published.release}, published as {published.path}")
    if not published.unchanged:
        typer.echo("That file was changed after it was published; this compares with what stands there now.")
    difference = card_diff(published.text, shown.text) or "Nothing differs.\n"
    for line in difference.splitlines():
        typer.secho(line, fg={"+": "green", "-": "red", "@": "cyan"}.get(line[:1]))
