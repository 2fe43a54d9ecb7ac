"""What a card says, as data: built from the store alone (`card.build`), turned into text by `card.render`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flagrelease.matrix import ResolvedCell
from flagrelease.records import Artefact, GateResult, ImportedBaseline, Provenance, Record


class CardRow(Record):
    """One benchmark of the results table. Scores are shares in [0, 1]."""

    benchmark: str
    display: str
    baseline: float
    baseline_interval: tuple[float, float] | None = Field(description="none: published without items")
    candidate: float
    candidate_interval: tuple[float, float]
    n: int
    repeats: int


class NotRun(Record):
    """A benchmark of the suite that was not run, and why."""

    benchmark: str
    display: str
    reason: str


class CardData(Record):
    """Everything that stands on the card of one release."""

    release: int
    cell: ResolvedCell
    engine: str
    engine_version: str
    released: str = Field(description="UTC date, YYYY-MM-DD")
    code_version: str
    rows: list[CardRow]
    not_run: list[NotRun]
    gate: GateResult
    candidate: Provenance
    baseline: Provenance | None = Field(description="none: the baseline is `published` scores")
    published: ImportedBaseline | None = None
    evidence: list[Artefact]
    environment: list[tuple[str, str]] = Field(description="rows of the environment table: item, version")
    language: Literal["en"] = "en"
