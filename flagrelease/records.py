"""The words of FlagRelease as types: items, evaluations, verdicts. Everything here can be written as JSON."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON: sorted keys, no spaces. Equal values give equal digests."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Record(BaseModel):
    """Base of all records: immutable, and no key is accepted that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stack(StrEnum):
    """Whose kernels ran: the vendor's own, or FlagOS (FlagGems operators)."""

    NATIVE = "native"
    FLAGOS = "flagos"


class Verdict(StrEnum):
    """What the gate says of a benchmark or a cell."""

    CONSISTENT = "CONSISTENT"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


class Stage(StrEnum):
    """The stages of a release that leave a result, in their order."""

    BUILD = "build"
    EVALUATE = "evaluate"
    DECIDE = "decide"
    CARD = "card"
    PUBLISH = "publish"


class Item(Record):
    """One question of a benchmark, as it was answered once."""

    benchmark: str
    item: str = Field(description="SHA-256 of the question's content")
    repeat: int = Field(default=0, ge=0)
    score: float = Field(ge=0, le=1)
    prompt: str = Field(description="SHA-256 of what was sent to the model, template and few-shot included")
    answer: str = Field(description="what the model said; for log-likelihood tasks the scores as JSON")
    extracted: str = Field(description="what the benchmark's filter made of the answer")
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


class BenchmarkRun(Record):
    """How one benchmark was asked. Two runs compare only if these are equal (see `gate.hygiene`)."""

    benchmark: str
    dataset_sha256: str = Field(description="of the question file; empty where the harness fetches it itself")
    task_sha256: str = Field(description="of the task definition: prompt, filter, metric")
    few_shot: int
    generation: dict[str, Any] = Field(description="sampling and limits: temperature, max_gen_toks, until, …")
    api: Literal["chat", "completions"]
    items: int
    repeats: int = 1


class Provenance(Record):
    """What an evaluation measured: model, engine, host, harness."""

    model: str
    chip: str
    stack: Stack
    engine: str
    engine_version: str
    engine_settings: dict[str, Any]
    weights_sha256: str
    chat_template_sha256: str
    harness: str
    harness_version: str
    platform: str = Field(description="processor and operating system, for people")
    code_version: str
    created: str = Field(description="UTC, ISO 8601")


class Result(Record):
    """Aggregate of one benchmark of an evaluation. Scores are shares in [0, 1]."""

    benchmark: str
    n: int = Field(description="distinct items")
    repeats: int
    score: float
    lower: float = Field(description="lower bound of the score's 95 % interval")
    upper: float


class Evaluation(Record):
    """One evaluation run: what was asked of what, and every answer."""

    provenance: Provenance
    benchmarks: list[BenchmarkRun]
    items: list[Item]


class HygieneCheck(Record):
    """One condition without which the comparison says nothing; a failed one makes the verdict INVALID."""

    name: str
    passed: bool
    detail: str


class BenchmarkVerdict(Record):
    """The gate's finding on one benchmark. Scores and differences are shares in [0, 1], margins in points."""

    benchmark: str
    display: str
    role: Literal["gated", "advisory"]
    verdict: Verdict
    n: int = Field(description="items compared")
    repeats: int
    baseline: float
    candidate: float
    difference: float = Field(description="candidate − baseline, mean over items")
    standard_error: float
    lower: float = Field(description="lower bound of the 90 % interval of the difference")
    upper: float
    margin_points: float = Field(description="largest loss accepted, in percentage points")
    p_value: float = Field(description="one-sided, of no loss")
    p_adjusted: float = Field(description="after Holm over the gated benchmarks; p_value for advisory ones")
    lost: int = Field(description="items on which the candidate scores below the baseline")
    won: int
    missing: int = Field(description="items the candidate left unanswered; they count as wrong")
    different: bool = Field(description="a gain beyond the margin: usually a difference in prompt or limits")
    reason: str


class PooledVerdict(Record):
    """Mean difference over the gated benchmarks."""

    difference: float
    standard_error: float
    lower: float = Field(description="one-sided 95 % bound")
    margin_points: float
    non_inferior: bool


class GateResult(Record):
    """The verdict on a cell with its whole derivation."""

    verdict: Verdict
    baseline_id: str
    hygiene: list[HygieneCheck]
    benchmarks: list[BenchmarkVerdict]
    pooled: PooledVerdict | None
    reasons: list[str]


class Artefact(Record):
    """A file that proves something, known by its hash."""

    kind: str = Field(description="server_log, items, card, harness_log, …")
    name: str
    sha256: str
    size: int = Field(description="bytes")


class PublishedFile(Record):
    """One file of a publication."""

    path: str
    sha256: str
    size: int


class Publication(Record):
    """What was published where, as read back from there."""

    publisher: str
    target: str
    revision: str = Field(description="hash of the manifest")
    files: list[PublishedFile]
