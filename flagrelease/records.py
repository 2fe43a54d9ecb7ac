"""The words of FlagRelease as types: what is measured, kept and published. Everything here can be written as JSON.

What the gate says of it stands in `flagrelease.verdicts`.
"""

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


class Stage(StrEnum):
    """The stages of a release that leave a result, in their order."""

    BUILD = "build"
    CANARY = "canary"
    EVALUATE = "evaluate"
    ESCALATE = "escalate"
    SPEED = "speed"
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
    latency_s: float | None = Field(default=None, description="seconds from request to whole answer")
    cluster: str | None = Field(default=None, description="items with the same value share a passage or a picture")


class BenchmarkRun(Record):
    """How one benchmark was asked. What two runs that compare must share is in `evaluation.hygiene`."""

    benchmark: str
    dataset_sha256: str = Field(description="of the question file; empty where the harness fetches it itself")
    task_sha256: str = Field(description="of the task definition: prompt, filter, metric")
    few_shot: int
    generation: dict[str, Any] = Field(description="sampling and limits: temperature, max_gen_toks, until, …")
    api: Literal["chat", "completions"]
    harness: str
    items: int = Field(description="distinct items asked")
    repeats: int = 1
    stopped_of: int | None = Field(default=None, description="items of the benchmark, where it was stopped early")
    concurrency: int | None = Field(
        default=None, description="requests in flight that were found to be best; none where it was not looked for"
    )


class NoiseFloor(Record):
    """How often one and the same system changes an answer (A/A): what a difference has to exceed to mean anything."""

    benchmark: str
    n: int = Field(description="items asked twice or more")
    flips: int = Field(description="items whose score changed")
    discordance: float = Field(description="mean square of the difference between two runs of the same system")
    how: str = Field(description="what differed between the runs, for people")


class CellImage(Record):
    """The container image that a cell is served from."""

    name: str = Field(description="registry/project/name:tag")
    id: str = Field(description="the container engine's id: SHA-256 of the image's configuration")
    key: str = Field(description="content key: hash of all that the image is made of")
    digest: str | None = Field(description="of its manifest in the registry; none: it was not pushed")
    base: str = Field(description="the base image by digest, or the engine's id of one that no registry knows")
    versions: dict[str, str] = Field(description="of the packages in it that serve, by canonical name")

    @property
    def reference(self) -> str:
        """What a container is made from: the image by digest, or by the engine's id where no registry has it."""
        return f"{self.name.rpartition(':')[0]}@{self.digest}" if self.digest else self.id

    @property
    def by_key(self) -> str:
        """Its name on every host that builds it from the same inputs."""
        return f"{self.name.rpartition(':')[0]}:{self.key[:16]}"


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
    tokenizer_sha256: str
    harnesses: dict[str, str] = Field(description="version of each harness that asked")
    image_digest: str | None = Field(default=None, description="of the container image; none: no container")
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


class OperatorList(Record):
    """Operators of FlagGems that ran, as the server itself listed them while it ran."""

    sources: list[str] = Field(description="files of the server that name an operator")
    operators: list[str] = Field(description="names of FlagGems' functions, sorted, each once")


class Degree(StrEnum):
    """How much of what the stack should have run did run."""

    FULL = "full"
    PARTIAL = "partial"
    NONE = "none"
    UNKNOWN = "unknown"
    """Some ran, and nothing is known to compare them with."""


class OperatorEvidence(Record):
    """Operators of FlagGems that ran, beside those that should have; compared once, when the lists were read."""

    degree: Degree
    ran: list[str] = Field(description="names of FlagGems' functions, sorted, each once")
    expected: list[str] = Field(default_factory=list, description="empty where nothing is known to compare with")
    missing: list[str] = Field(default_factory=list, description="expected, and not among those that ran")
    left_out_but_ran: list[str] = Field(
        default_factory=list, description="that ran although the cell's settings leave them out"
    )
    expectation: str = Field(default="", description="in words: who says what was expected; empty: nobody")


class TopToken(Record):
    """One of the likeliest next tokens."""

    token: int = Field(description="id in the model's vocabulary")
    logprob: float


class CanaryPrompt(Record):
    """A text of the baseline's own, and how likely the baseline found its tokens."""

    prompt: list[int] = Field(description="token ids that came before")
    continuation: list[int] = Field(description="token ids that the baseline wrote")
    positions: list[int] = Field(description="indices into `continuation` that are scored")
    logprobs: list[float] = Field(description="of the continuation's token at each position")
    top: list[list[TopToken]] = Field(description="likeliest tokens at each position, likeliest first")


class CanaryStatistics(Record):
    """How far two systems' next-token distributions lie apart on the same text."""

    positions: int
    mean_abs_logprob: float = Field(description="mean |difference| of the text's own tokens, nats")
    top1_agreement: float = Field(description="share of positions with the same likeliest token")
    kl: float = Field(description="mean Kullback-Leibler divergence on the baseline's likeliest tokens, nats")


class CanaryReference(Record):
    """The baseline's side of the canary, and how far the baseline lies from itself (A/A)."""

    prompts: list[CanaryPrompt]
    floor: CanaryStatistics
    how: str = Field(description="what differed between the two runs that `floor` compares, for people")


class SpeedPoint(Record):
    """One workload, asked `repeats` times after a warm-up. Lists have one value a repeat."""

    workload: str = Field(description="<input tokens>/<output tokens> x <concurrency>")
    input_tokens: int
    output_tokens: int
    concurrency: int
    requests: int = Field(description="per repeat")
    request_throughput: list[float] = Field(description="requests a second")
    output_throughput: list[float] = Field(description="output tokens a second")
    total_throughput: list[float] = Field(description="input and output tokens a second")
    ttft_ms: dict[str, float] = Field(description="time to first token: p50, p90, p99")
    tpot_ms: dict[str, float] = Field(description="time per output token after the first: p50, p90, p99")
    itl_ms: dict[str, float] = Field(description="inter-token latency: p50, p90, p99")
    failed: int = Field(description="requests without an answer")


class Speed(Record):
    """Throughput and latency of a served model."""

    tool: str = Field(description="load generator and its version")
    points: list[SpeedPoint]


class Published(Record):
    """A score that was published without its items."""

    benchmark: str
    score: float
    printed: str = Field(description="as it was published")
    n: int | None = Field(default=None, description="items, where they are known")


class Evaluation(Record):
    """One evaluation run: what was asked of what, and every answer."""

    provenance: Provenance
    benchmarks: list[BenchmarkRun]
    items: list[Item]
    floors: list[NoiseFloor] = Field(default_factory=list, description="of a baseline: its A/A noise")
    canary: CanaryReference | None = None
    speed: Speed | None = None


class ImportedBaseline(Record):
    """Published scores of a model on the reference, without items: no evidence, only something to look at."""

    model: str
    label: str = Field(description="of the column they stood in, for example H100-CUDA")
    source: str
    scores: list[Published]


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
