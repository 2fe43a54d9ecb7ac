"""How tables of operators are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 300
"""Characters: reasons and symptoms are long, and a terminal wraps them."""


def print_table(table: Table) -> None:
    """Print it as wide as its texts are, with no markup read in them."""
    from rich.console import Console

    Console(width=_WIDTH, soft_wrap=True, markup=False, highlight=False).print(table)
