"""Which cells of the matrix are meant: by chip, model, suite, tag, and by what became of their newest release."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import NamedTuple

from pydantic import AwareDatetime, Field

from flagrelease.errors import UnknownNameError
from flagrelease.matrix import ResolvedCell
from flagrelease.records import Record
from flagrelease.yaml_misfits import suggest


class Newest(NamedTuple):
    """The newest release of a cell, as the store knows it."""

    state: str
    """`completed`, `failed`, `interrupted` or `running`."""
    time: datetime
    """When it came to that, with its time zone."""
    stale: bool
    """Whether what the cell would be released from now is no longer what it was released from."""


class Selection(Record):
    """Which cells are meant. A cell has to fit all that is given, and of each list one pattern; nothing given: all.

    Patterns are names, or have `*`, `?` and `[…]` as in a shell; capitals do not matter.
    """

    chips: list[str] = Field(default_factory=list, description="key or other name of a chip: huawei is ascend")
    models: list[str] = Field(default_factory=list, description="key of a model, or its name on cards")
    suites: list[str] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    stale: bool = Field(default=False, description="only cells without a release of what the matrix says now")
    failed: bool = Field(default=False, description="only cells whose newest release failed or was interrupted")
    changed_since: AwareDatetime | None = Field(
        default=None, description="only cells whose newest release came to its state then or later"
    )

    def matches(self, cell: ResolvedCell, newest: Newest | None = None) -> bool:
        """Whether a cell is meant; `newest` is its newest release, none where it has none."""
        return (
            all(fits(patterns, names(cell)) for _, patterns, names in self._patterns() if patterns)
            and not (self.stale and newest is not None and newest.state == "completed" and not newest.stale)
            and not (self.failed and (newest is None or newest.state not in {"failed", "interrupted"}))
            and not (self.changed_since and (newest is None or newest.time < self.changed_since))
        )

    def select(self, cells: Sequence[ResolvedCell], newest: Mapping[str, Newest]) -> list[ResolvedCell]:
        """Those of `cells` that are meant, in their order; `newest` has the newest release of each cell by its id.

        Raises UnknownNameError for a pattern that fits no cell at all: it is misspelt.
        """
        for kind, patterns, names in self._patterns():
            known = {name for cell in cells for name in names(cell)} if patterns else set()
            for pattern in patterns:
                if not fits([pattern], known):
                    msg = f"no cell of the matrix has a {kind} called `{pattern}`"
                    raise UnknownNameError(msg, remedy=suggest(pattern, known))
        return [cell for cell in cells if self.matches(cell, newest.get(cell.id))]

    def _patterns(self) -> Iterable[tuple[str, list[str], Callable[[ResolvedCell], Iterable[str]]]]:
        """What is chosen by patterns: its kind, the patterns, and what a cell is called there, in small letters."""
        return (
            ("chip", self.chips, lambda cell: cell.chip.names),
            ("model", self.models, lambda cell: [cell.cell.model, cell.model.display.casefold()]),
            ("suite", self.suites, lambda cell: [cell.model.suite]),
            ("tag", self.tags, lambda cell: cell.cell.tags),
        )


def fits(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Whether one of the patterns fits one of the names; capitals do not matter."""
    return any(fnmatchcase(name.casefold(), pattern.casefold()) for pattern in patterns for name in names)
