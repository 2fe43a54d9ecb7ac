"""The files of a card: README.md, and the plot that it shows."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from flagrelease.card.data import Card
from flagrelease.card.forest import forest_plot
from flagrelease.card.render import PLOT, render, shows_plot
from flagrelease.errors import OutputError


def is_card_file(name: str) -> bool:
    """Whether a name means a card's file, there or not; else it is a release's number or a cell."""
    path = Path(name)
    return "/" in name or path.suffix in {".md", ".txt"} or (path.is_file() and not name.isdecimal())


def card_files(card: Card) -> dict[str, bytes]:
    """Everything that is published of a card but the evidence, by file name."""
    files = {"README.md": render(card).encode()}
    plot = forest_plot(card.measured) if card.measured and shows_plot(card) else None
    return files | ({PLOT: plot.encode()} if plot else {})


def write_card(card: Card, path: Path) -> Path:
    """Write a card for people, its plot beside it; the same bytes whenever it is called."""
    for name, content in reversed(card_files(card).items()):
        write_whole(path if name == "README.md" else path.with_name(name), content)
    return path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises OutputError where it cannot be written."""
    aside = path.with_name(f".{path.name}.{time.monotonic_ns()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise OutputError(
            f"cannot write the card {path}: {error.strerror}",
            remedy="free space or name another place (FLAGRELEASE_OUTPUT, --output); then run the same command again",
        ) from error
