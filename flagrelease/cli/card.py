"""`flagrelease card`: render, read back, check and look at model cards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flagrelease.card.styles import Language, Style
from flagrelease.cli import card_import, card_lint, card_show

app = typer.Typer(no_args_is_help=True, help="Model cards: render, import, lint, show.")


@app.command()
def render(
    name: Annotated[str, typer.Argument(help="a release's number, or a cell (its newest finished release)")],
    style: Annotated[Style, typer.Option(help="classic: the source cards' sections, no more")] = Style.VERIFIED,
    language: Annotated[
        Language | None, typer.Option(help="of headings and prose; an imported card's own by default")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="the card's file; by default README.md in FLAGRELEASE_OUTPUT/<cell>")
    ] = None,
) -> None:
    """Render a card from the store alone; of a cell without a release, from its published scores."""
    from flagrelease.card.build import find_card
    from flagrelease.card.files import write_card
    from flagrelease.loading import load_chips, load_matrix, resolve_all
    from flagrelease.settings import settings
    from flagrelease.store import Store

    host = settings()
    cells = {cell.id: cell for cell in resolve_all(load_matrix(host.matrix_path), load_chips())}
    store = Store.open(host.store_url)
    try:
        card = find_card(store, name, cells, style, language)
    finally:
        store.close()
    folder = card.measured.cell.id if card.measured else name
    typer.echo(write_card(card, output or host.output_path / folder / "README.md"))


app.command(name="import")(card_import.import_)
app.command()(card_lint.lint)
app.command()(card_show.show)
