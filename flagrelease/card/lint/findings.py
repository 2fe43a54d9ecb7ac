"""What the lint says: rules, and what they find on a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from flagrelease.records import Record

if TYPE_CHECKING:
    from flagrelease.card.lint.subject import Subject


class Severity(StrEnum):
    """How bad a finding is. A card with an error is not published."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


class Edit(Record):
    """A change of a card's text that is certain to be right: some of its lines, replaced."""

    line: int = Field(ge=1, description="first line that is replaced")
    removed: int = Field(ge=0, description="how many lines are replaced; 0: lines are put in before `line`")
    lines: list[str] = Field(description="what stands there instead")


class Finding(Record):
    """One thing that is wrong with a card."""

    rule: str
    severity: Severity
    place: str = Field(description="in words, for example `environment table`")
    line: int | None = Field(description="where that stands, counted from 1; none: nowhere in particular")
    cause: str
    remedy: str
    edit: Edit | None = Field(default=None, description="none: what is right cannot be told from the card alone")


class Hit(NamedTuple):
    """What a rule's check yields."""

    place: str
    cause: str
    line: int | None = None
    edit: Edit | None = None


class Rule(NamedTuple):
    """A class of errors that cards are checked for."""

    name: str
    severity: Severity
    finds: str
    """What is wrong with a card that the rule finds, in one phrase."""
    remedy: str
    check: Callable[[Subject], Iterator[Hit]]

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """What the rule finds on the card."""
        for hit in self.check(subject):
            yield Finding(
                rule=self.name,
                severity=self.severity,
                place=hit.place,
                line=hit.line,
                cause=hit.cause,
                remedy=self.remedy,
                edit=hit.edit,
            )


def listed(items: list[str], most: int = 4) -> str:
    """Some items in words: `a, b and 3 more`."""
    shown = items[:most]
    rest = len(items) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
