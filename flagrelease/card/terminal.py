"""A card as text in a terminal."""

from __future__ import annotations

from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table
from rich.text import Text

from flagrelease.card.preview import parsed, parts, plain_rows


def print_card(card_text: str, console: Console) -> None:
    """Print a card: its front matter as a small table, then its text. Pictures are named in their place."""
    card = parts(card_text)
    own = card.metadata.get("flagrelease")
    rows = plain_rows(card.metadata)
    rows += [(f"flagrelease.{key}", value) for key, value in plain_rows(own)] if isinstance(own, dict) else []
    if rows:
        table = Table("Front matter", "", box=None, padding=(0, 2, 0, 0))
        for key, value in rows:
            table.add_row(Text(key), Text(value, overflow="fold"))
        console.print(table, "")
    if card.fault:
        console.print(f"The front matter could not be read: {card.fault}\n", markup=False, highlight=False)
    body = _CardMarkdown("", hyperlinks=False)
    # Parsed by us: Rich would leave out HTML, of which a reader should see that it is there.
    body.parsed = parsed(card.body)
    console.print(body)


class _WholeTable(TableElement):
    """A table whose cells are broken where they are too long; Rich would cut them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
            yield table


class _CardMarkdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": _WholeTable}
