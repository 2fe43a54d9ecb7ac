"""A card under the lint: what it says, and where its text says it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from flagrelease.card.data import Block, Card
from flagrelease.card.facts import Facts, facts
from flagrelease.card.lint.chips import ChipClaim, claims
from flagrelease.card.lint.knowledge import Knowledge
from flagrelease.card.lint.model_names import same_model
from flagrelease.card.lint.scores import Scores, scores
from flagrelease.card.sections import block_of

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^`]*)$")

_RELEASE = re.compile(r"(?i)[a-z](?=.*\d)[\w.]*(?:-[\w.]+)*-flagos(?:-[\w.]+)*")
"""A heading that is a release's name."""
_SHOWN = 60
_LONGEST = 500
"""Characters of an image, a column or a heading up to which it is looked at; no name is longer."""


class Claim(NamedTuple):
    """A name that the card gives, and where."""

    place: str
    name: str


class Nested(NamedTuple):
    """A fence that opens inside another: the outer one was never closed. Line indices, from 0."""

    opened: int
    again: int | None
    """None: the outer fence is open at the end of the file."""


@dataclass(frozen=True)
class Subject:
    """A card, its text, and what it is checked against."""

    card: Card
    text: str
    knowledge: Knowledge
    folder: Path | None = None
    """Where the card's file lies, with what it links to; none: not known."""

    @cached_property
    def facts(self) -> Facts:
        """What the card says."""
        return facts(self.card, self.knowledge.models, self.knowledge.chips)

    @cached_property
    def lines(self) -> list[str]:
        """Lines of the text; the last one is empty where the text ends in a newline."""
        return self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")

    @cached_property
    def scores(self) -> Scores:
        """The results table in numbers."""
        return scores(self.facts.metrics)

    def line(self, *needles: str | None) -> int | None:
        """The first line (from 1) that holds the first of `needles` that any line holds."""
        for needle in needles:
            if needle:
                for number, line in enumerate(self.lines, 1):
                    if needle in line:
                        return number
        return None

    def row_line(self, metric: str) -> int | None:
        """The line of a benchmark's row in a table."""
        for number, line in enumerate(self.lines, 1):
            if metric in line:
                cell, bar, _ = line.lstrip(" \t|").partition("|")
                if bar and cell.strip() == metric:
                    return number
        return self.line(metric)

    @cached_property
    def _fences(self) -> tuple[frozenset[int], tuple[Nested, ...]]:
        inside: set[int] = set()
        nested: list[Nested] = []
        fence, opened = "", 0
        for index, line in enumerate(self.lines):
            mark = _FENCE.match(line.rstrip())
            if not fence:
                if mark:
                    fence, opened = mark[1], index
                    inside.add(index)
                continue
            inside.add(index)
            if mark and mark[1][0] == fence[0] and len(mark[1]) >= len(fence):
                if mark[2].strip():
                    nested.append(Nested(opened, index))
                    opened = index
                else:
                    fence = ""
        if fence:
            nested.append(Nested(opened, None))
        return frozenset(inside), tuple(nested)

    @property
    def code(self) -> frozenset[int]:
        """Indices (from 0) of lines that are code, with their fences."""
        return self._fences[0]

    @property
    def unclosed(self) -> tuple[Nested, ...]:
        """Fences that were never closed."""
        return self._fences[1]

    @cached_property
    def prose(self) -> list[tuple[int, str]]:
        """Lines outside code and front matter, with their index (from 0)."""
        begin = 0
        if self.lines[0].strip() == "---" and "---" in (rest := [line.strip() for line in self.lines[1:]]):
            begin = rest.index("---") + 2
        return [(i, line) for i, line in enumerate(self.lines) if i >= begin and i not in self.code]

    @cached_property
    def images(self) -> list[str]:
        """Images that the card pulls or runs, each once."""
        images = dict.fromkeys([*self.facts.images_pulled, *self.facts.images_run])
        return [image for image in images if len(image) <= _LONGEST]

    @cached_property
    def full_names(self) -> list[Claim]:
        """Names that are made of a model's full name: of the release, of columns, of a heading."""
        said = self.facts
        found = [Claim("introduction", said.release_name)] if said.release_name else []
        for place, column in (("baseline column", said.baseline_column), ("candidate column", said.candidate_column)):
            if column and len(column) <= _LONGEST and not re.search(r"\s", column) and re.search(r"[-_]", column):
                found.append(Claim(place, column))
        for section in self.card.sections:
            if section.block is None and len(section.title) <= _LONGEST and _RELEASE.fullmatch(section.title):
                found.append(Claim("heading", section.title))
        return [claim for claim in found if self.knowledge.stem(claim.name)]

    @cached_property
    def model(self) -> str | None:
        """Stem of the model that most of the card's full names say, the introduction's where they are split."""
        stems = [self.knowledge.stem(claim.name) for claim in self.full_names]
        if not stems:
            return None
        votes = Counter({one: sum(same_model(one, other) for other in stems) for one in dict.fromkeys(stems)})
        return votes.most_common(1)[0][0]

    @cached_property
    def chip(self) -> str | None:
        """Key of the chip that most of the card's places name, the introduction's where they are split."""
        # A place has one voice, however many devices or images it names.
        said = dict.fromkeys((claim.place, key) for claim in self.chip_claims for key in sorted(claim.chips))
        keys = [key for _, key in said]
        return max(keys, key=keys.count, default=None)

    @cached_property
    def chip_claims(self) -> list[ChipClaim]:
        """What every place of the card says of the chip."""
        return claims(self)

    @property
    def measured(self) -> bool:
        """Whether FlagRelease itself measured what stands on the card."""
        block = (self.card.front_matter or {}).get("flagrelease")
        return isinstance(block, dict) and "release" in block


def heading_block(line: str) -> Block | None:
    """The block of a card that a line is the heading of."""
    return block_of(line.lstrip("#").strip()) if line.startswith("#") and len(line) <= _LONGEST else None


def shortened(name: str) -> str:
    """A long name's end."""
    return name if len(name) <= _SHOWN else f"…{name[-_SHOWN:]}"
