"""Finds what is wrong with a card, before it is published. docs/card-lint.md lists the rules."""

from __future__ import annotations

from pathlib import Path

from flagrelease.card.data import Card
from flagrelease.card.lint import commands, identity, images, markdown, other_cards, results
from flagrelease.card.lint.findings import Edit, Finding, Rule, Severity
from flagrelease.card.lint.fix import Change, Fixed, fix
from flagrelease.card.lint.knowledge import Knowledge, KnownBenchmark, knowledge
from flagrelease.card.lint.subject import Subject
from flagrelease.card.read import read_card

__all__ = [
    "RULES",
    "Change",
    "Edit",
    "Finding",
    "Fixed",
    "Knowledge",
    "KnownBenchmark",
    "Rule",
    "Severity",
    "errors_of",
    "fix",
    "knowledge",
    "lint",
    "lint_text",
]

RULES: tuple[Rule, ...] = (
    *identity.RULES,
    *images.RULES,
    *commands.RULES,
    *results.RULES,
    *other_cards.RULES,
    *markdown.RULES,
)
_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


def lint(card: Card, text: str, known: Knowledge, *, folder: Path | None = None) -> list[Finding]:
    """All findings on a card and the text that it was read from: errors first, then by line.

    `folder` is where the card lies; without it links to files beside it are not checked.
    """
    subject = Subject(card, text, known, folder)
    found = [finding for rule in RULES for finding in rule.findings(subject)]
    return sorted(found, key=lambda finding: (_ORDER[finding.severity], finding.line or 0))


def lint_text(text: str, known: Knowledge, *, source: str, folder: Path | None = None) -> list[Finding]:
    """All findings on a card's text; `source` names it in errors."""
    return lint(read_card(text, source=source).card, text, known, folder=folder)


def errors_of(text: str, known: Knowledge, *, source: str, folder: Path | None = None) -> list[Finding]:
    """The findings that keep a card from being published."""
    return [finding for finding in lint_text(text, known, source=source, folder=folder) if finding.severity == "error"]
