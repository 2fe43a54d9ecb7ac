"""A card without any fault, as text, and what the lint says of it when something is changed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from evaluation.catalogue import load_benchmarks
from flagrelease.card.compose import published_card
from flagrelease.card.data import Table
from flagrelease.card.lint import Finding, Knowledge, knowledge, lint_text
from flagrelease.card.render import render
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.settings import data_path

MATRIX = load_matrix(data_path("matrix.yaml"))
CHIPS = load_chips()
Change = tuple[str, str]


@cache
def known() -> Knowledge:
    return knowledge(MATRIX, CHIPS, load_benchmarks())


def published(cell: str) -> str:
    """The rendered card of the scores that were published for a cell."""
    return render(published_card(resolve(MATRIX, CHIPS, cell)))


@cache
def good() -> str:
    """Qwen3-8B on MetaX as it was published, with its driver corrected and the number of questions added."""
    card = published_card(resolve(MATRIX, CHIPS, "qwen3-metax"))
    table = next(content for section in card.sections for content in section.contents if isinstance(content, Table))
    counted = [
        "| Metrics | Qwen3-8B-H100-CUDA | Qwen3-8B-Metax-FlagOS | n |\n| --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} | {n} |" for row, n in zip(table.rows, (30, 1192, 1000, 12032, 756), strict=True)),
    ]
    plain = ["| Metrics | Qwen3-8B-H100-CUDA | Qwen3-8B-Metax-FlagOS |\n| --- | --- | --- |"]
    plain += [f"| {' | '.join(row)} |" for row in table.rows]
    return changed(
        render(card),
        ("\n".join(plain), "\n".join(counted)),
        ("Kernel Mode Driver Version: 2.3.0", "Version: 3.3.12"),
    )


def changed(text: str, *changes: Change) -> str:
    """The text with each old part replaced by the new one, wherever it stands; the old part must stand there."""
    for old, new in changes:
        assert old in text, f"the card does not hold {old!r} any more: change the test's example"
        text = text.replace(old, new)
    return text


def findings(text: str, *, folder: Path | None = None) -> list[Finding]:
    return lint_text(text, known(), source="README.md", folder=folder)


def rules(text: str, *, folder: Path | None = None) -> set[str]:
    return {finding.rule for finding in findings(text, folder=folder)}


def found(text: str, rule: str, *, folder: Path | None = None) -> list[Finding]:
    return [finding for finding in findings(text, folder=folder) if finding.rule == rule]
