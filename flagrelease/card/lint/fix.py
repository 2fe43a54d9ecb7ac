"""Corrects what is mechanical: findings whose right text is certain from the card itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flagrelease.card.lint.findings import Finding
from flagrelease.records import Record

_ROUNDS = 5
"""A closed code block can bring further findings to light; more rounds than this never help."""


class Change(Record):
    """What was changed, and for which rule."""

    rule: str
    line: int
    before: list[str]
    after: list[str]


class Fixed(Record):
    """A card's text after the changes."""

    text: str
    changes: list[Change]


def fix(text: str, check: Callable[[str], Sequence[Finding]]) -> Fixed:
    """The text with every finding corrected that has an edit; `check` lints a text."""
    changes: list[Change] = []
    ending = "\r" if "\r\n" in text else ""
    for _ in range(_ROUNDS):
        lines = text.split("\n")
        untouched = len(lines) + 1
        made: list[Change] = []
        edited = [(finding.rule, finding.edit) for finding in check(text) if finding.edit]
        # From the end, so that line numbers hold; of two that touch, the first waits for the next round.
        for rule, edit in sorted(edited, key=lambda each: -each[1].line):
            begin, end = edit.line - 1, edit.line - 1 + edit.removed
            if end < untouched:
                made.append(Change(rule=rule, line=edit.line, before=lines[begin:end], after=edit.lines))
                lines[begin:end] = [line + ending if line else line for line in edit.lines]
                untouched = edit.line
        if not edited:
            break
        changes += reversed(made)
        text = "\n".join(lines)
    return Fixed(text=text, changes=changes)
