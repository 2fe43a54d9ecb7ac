"""Whether the numbers that a card prints are those of the statement: results table, front matter, model index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flagrelease.card.data import Block, Card, CardRow, Table
from flagrelease.card.figures import percent, points
from flagrelease.card.inline import plain_text
from flagrelease.card.read import read_card
from flagrelease.card.text import printable
from flagrelease.errors import CardFileError
from flagrelease.provenance.statement import Measured
from flagrelease.records import digest
from flagrelease.verdicts import BenchmarkVerdict

CARD = "README.md"

_NUMERAL = re.compile(r"[+−-]?\d+(?:\.\d+)?")
_COLUMNS = ("benchmark", "baseline", "candidate", "difference", "interval", "n × repeats", "verdict")
"""Of the results table of a card in the style that is published."""


def card_problems(content: bytes, measured: Measured, evidence: Mapping[str, str]) -> list[str]:
    """What the card says otherwise than the statement. `evidence`: SHA-256 of each of its files, by name."""
    try:
        card = read_card(content.decode(), source=CARD).card
    except (CardFileError, UnicodeDecodeError) as error:
        return [f"{CARD}: it cannot be read as a card: {error}".splitlines()[0]]
    problems = [*_block_problems(card, measured, evidence), *_index_problems(card, measured), *_table(card, measured)]
    return [f"{CARD}: {problem}" for problem in problems]


def numbers_of(measured: Measured) -> int:
    """How many scores, bounds, differences and counts of the results table are compared."""
    findings = _findings(measured)
    rows = [_expected(row, findings.get(row.benchmark)) for row in measured.rows]
    return sum(len(_NUMERAL.findall(cell)) for row in rows for cell in row)


def _block_problems(card: Card, measured: Measured, evidence: Mapping[str, str]) -> list[str]:
    """Of the block `flagrelease` in the front matter."""
    block = (card.front_matter or {}).get("flagrelease")
    expected = {
        "cell": measured.cell,
        "release": measured.release,
        "verdict": measured.gate.verdict.value,
        "baseline": printable(measured.gate.baseline_id),
        "evidence_sha256": digest(dict(evidence)),
    }
    if not isinstance(block, dict):
        return ["its front matter has no block `flagrelease`"]
    return [
        f"its front matter says {key}: {printable(block.get(key))}, stated is {value}"
        for key, value in expected.items()
        if block.get(key) != value
    ]


def _index_problems(card: Card, measured: Measured) -> list[str]:
    """Of the scores in `model-index`, where hubs read them."""
    said: dict[str, float] = {}
    try:
        for model in (card.front_matter or {}).get("model-index", []):
            for result in model["results"]:
                (metric,) = result["metrics"]
                said[str(result["dataset"]["type"])] = metric["value"]
    except (KeyError, ValueError, TypeError, AttributeError):
        return ["its `model-index` is not as a release's"]
    expected = {printable(row.benchmark): round(100 * row.candidate, 3) for row in measured.rows}
    return [
        f"its `model-index` says {printable(said.get(name, 'nothing'))} for {printable(name)}, "
        f"stated is {expected.get(name, 'nothing')}"
        for name in sorted(said.keys() | expected.keys())
        if said.get(name) != expected.get(name)
    ]


def _table(card: Card, measured: Measured) -> list[str]:
    """Of the results table."""
    tables = [content for content in card.contents(Block.RESULTS) if isinstance(content, Table)]
    if len(tables) != bool(measured.rows):
        return [f"it has {len(tables)} tables of results, not {int(bool(measured.rows))}"]
    rows = tables[0].rows if tables else []
    if any(len(row) != len(_COLUMNS) for row in rows):
        return [f"its results table has not the columns {', '.join(_COLUMNS)}"]
    printed: dict[str, list[str]] = {plain_text(row[0]): [plain_text(cell) for cell in row] for row in rows}
    findings = _findings(measured)
    expected = {
        plain_text(printable(row.display)): _expected(row, findings.get(row.benchmark)) for row in measured.rows
    }
    problems = [f"its results table has no row {name}" for name in sorted(expected.keys() - printed.keys())]
    problems += [f"its results table has a row {name}, which is not stated" for name in printed if name not in expected]
    if len(printed) < len(rows):
        problems.append("its results table has two rows of one name")
    for name in expected.keys() & printed.keys():
        for column, said, wanted in zip(_COLUMNS[1:], printed[name][1:], expected[name], strict=True):
            if _comparable(said) != _comparable(wanted):
                problems.append(f"{name}: {column}: it prints {said}, stated is {wanted}")
    return problems


def _findings(measured: Measured) -> dict[str, BenchmarkVerdict]:
    return {finding.benchmark: finding for finding in measured.gate.benchmarks}


def _expected(row: CardRow, finding: BenchmarkVerdict | None) -> list[str]:
    """What stands in the columns after the first, by the numbers in it and its first word."""
    before = _bounds(row.baseline_interval) if row.baseline_interval else ""
    cells = [f"{percent(row.baseline)} {before}", f"{percent(row.candidate)} {_bounds(row.candidate_interval)}"]
    count = f"{row.n} × {row.repeats}"
    if finding is None:
        return [*cells, "", "", count, ""]
    of = f" of {finding.stopped_of}" if finding.stopped_of else ""
    bounds = f"{points(finding.lower, 2)} to {points(finding.upper, 2)}"
    return [*cells, points(finding.difference), bounds, f"{row.n}{of} × {row.repeats}", finding.verdict.value]


def _bounds(interval: tuple[float, float]) -> str:
    return f"({percent(interval[0], 1)} – {percent(interval[1], 1)})"


def _comparable(cell: str) -> tuple[Any, ...]:
    """What must agree whatever the card's language: the numbers as printed, and the verdict."""
    verdict = re.match(r"[A-Z]{4,}", cell)
    return (*_NUMERAL.findall(cell), verdict and verdict[0])
