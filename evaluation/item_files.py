"""Scored answers from files: our own JSON lines, and the sample logs that lm-eval writes (docs/compare.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from flagrelease.entry import Entry
from flagrelease.errors import ItemFileError, MatrixError
from flagrelease.records import digest
from flagrelease.yaml_file import validate

Kind = Literal["item file", "lm-eval sample logs"]
ModelT = TypeVar("ModelT", bound=BaseModel)

SAMPLE_LOG = re.compile(r"samples_(.+?)(?:_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl")
UNNAMED_TASK = "samples"
"""The benchmark of a sample log that was renamed: two such files compare, since items are known by their content."""


class ItemLine(Entry):
    """One answer of a file. What the file does not tell is None."""

    benchmark: str = Field(min_length=1)
    item: str = Field(min_length=1, description="what the question is known by; the same on both sides")
    score: float = Field(ge=0, le=1)
    repeat: int = Field(default=0, ge=0)
    prompt: str | None = Field(default=None, description="what was sent to the model, or its hash")
    answer: str | None = None
    extracted: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None
    cluster: str | None = Field(default=None, description="items with the same value share a passage or a picture")


class SampleLine(Entry):
    """One line of lm-eval's sample log; each metric has a key of its own besides these."""

    model_config = ConfigDict(extra="allow")

    doc_id: int
    doc_hash: str
    filter: str
    metrics: list[str]
    prompt_hash: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    resps: list[Any] = Field(default_factory=list)


class Asked(NamedTuple):
    """One benchmark of a file: its answers, and what the file tells of how they were got."""

    lines: list[ItemLine]
    scoring: str
    """Filter and metric where the file names them."""
    generation: dict[str, Any] | None
    """Sampling and limits; none where the file does not tell."""


class ItemFile(NamedTuple):
    """What a file, or a folder of sample logs, holds."""

    path: Path
    kind: Kind
    benchmarks: dict[str, Asked]


def read(path: Path, *, filters: Sequence[str] = (), metrics: Sequence[str] = ()) -> ItemFile:
    """The answers at `path`; of each sample log those of the one filter and metric that it has, or that is named.

    Raises ItemFileError naming file and line.
    """
    if path.is_dir():
        logs = _logs_of(path)
        asked = {task: _samples(task, log, _objects(log), filters, metrics) for task, log in logs.items()}
        return ItemFile(path, "lm-eval sample logs", asked)
    lines = _objects(path)
    if "doc_id" in lines[0][1]:
        match = SAMPLE_LOG.fullmatch(path.name)
        task = match[1] if match else UNNAMED_TASK
        return ItemFile(path, "lm-eval sample logs", {task: _samples(task, path, lines, filters, metrics)})
    if filters or metrics:
        raise ItemFileError(
            f"{path} is an item file: it has one score an answer, and neither filters nor metrics to choose from",
            remedy="leave out --filter and --metric",
        )
    return ItemFile(path, "item file", _items(path, lines))


def _logs_of(folder: Path) -> dict[str, Path]:
    """The sample log of each task in a folder."""
    logs: dict[str, Path] = {}
    for log in sorted(folder.iterdir()):
        match = SAMPLE_LOG.fullmatch(log.name)
        if match is None:
            continue
        task = match[1]
        if task in logs:
            raise ItemFileError(
                f"{folder} has several sample logs of {task}: {logs[task].name}, {log.name}",
                remedy="give one of the files, or a folder with those of one run",
            )
        logs[task] = log
    if not logs:
        raise ItemFileError(
            f"the folder {folder} has no sample logs (samples_<task>_<time>.jsonl)",
            remedy="give an item file, or the folder named after the model below lm-eval's --output_path; "
            "lm-eval writes sample logs with --log_samples",
        )
    return logs


def _objects(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file, each with its line; at least one."""
    try:
        lines = list(_decoded(path, path.read_bytes().split(b"\n")))
    except OSError as error:
        raise ItemFileError(
            f"{path}: cannot be read: {error.strerror}",
            remedy="give an item file that this user may read, or a sample log, or a folder of such logs",
        ) from None
    if not lines:
        raise ItemFileError(f"{path}: the file is empty", remedy="give a file with one JSON object a line")
    return lines


def _decoded(path: Path, lines: Sequence[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig"))
        # Besides broken JSON: bytes that are no text, numbers of thousands of digits, brackets without end.
        except (ValueError, RecursionError) as error:
            why = f"not valid JSON: {error}"
        else:
            if isinstance(value, dict):
                yield number, value
                continue
            why = "expected a JSON object ({…})"
        raise ItemFileError(f"{path}:{number}: {why}", remedy="write one JSON object a line")


def _validated(model: type[ModelT], path: Path, number: int, data: Mapping[str, Any]) -> ModelT:
    """A line as `model`; whatever does not fit is said with its place, as for files of the matrix."""
    try:
        return validate(model, path, data, {(): number})
    except MatrixError as error:
        raise ItemFileError(error.message, remedy=error.remedy) from None


def _twice(path: Path, first: int, number: int, what: str) -> ItemFileError:
    return ItemFileError(f"{path}:{number}: {what} is there twice, first on line {first}", remedy="keep one of the two")


def _items(path: Path, lines: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Asked]:
    """The benchmarks of an item file, in their order."""
    asked: dict[str, Asked] = {}
    seen: dict[tuple[str, str, int], int] = {}
    for number, data in lines:
        line = _validated(ItemLine, path, number, data)
        first = seen.setdefault((line.benchmark, line.item, line.repeat), number)
        if first != number:
            raise _twice(path, first, number, f"repeat {line.repeat} of item {line.item} of {line.benchmark}")
        asked.setdefault(line.benchmark, Asked([], "", None)).lines.append(line)
    for name, benchmark in asked.items():
        repeats = sorted({line.repeat for line in benchmark.lines})
        if repeats != list(range(len(repeats))):
            raise ItemFileError(
                f"{path}: the repeats of {name} are numbered {', '.join(map(str, repeats))}",
                remedy="number them 0, 1, 2, …",
            )
    return asked


def _samples(
    task: str,
    path: Path,
    lines: Sequence[tuple[int, dict[str, Any]]],
    filters: Sequence[str],
    metrics: Sequence[str],
) -> Asked:
    """One task from its sample log."""
    samples = [(number, _validated(SampleLine, path, number, data)) for number, data in lines]
    filter_name = _choose(path, "filter", [sample.filter for _, sample in samples], filters)
    samples = [(number, sample) for number, sample in samples if sample.filter == filter_name]
    metric = _choose(path, "metric", [name for _, sample in samples for name in sample.metrics], metrics)
    docs: dict[int, int] = {}
    alike: dict[str, int] = {}
    found = []
    for number, sample in samples:
        first = docs.setdefault(sample.doc_id, number)
        if first != number:
            raise _twice(path, first, number, f"doc_id {sample.doc_id} with filter {filter_name}")
        # Some data sets hold a question several times: the later ones get names of their own.
        copy = alike[sample.doc_hash] = alike.get(sample.doc_hash, -1) + 1
        found.append(
            ItemLine(
                benchmark=task,
                item=digest([sample.doc_hash, copy]) if copy else sample.doc_hash,
                score=_score(path, number, sample, metric),
                prompt=sample.prompt_hash,
                answer=_answer(sample),
            )
        )
    return Asked(found, f"filter {filter_name}, metric {metric}", _generation(samples[0][1]))


def _choose(path: Path, what: str, names: Sequence[str], wanted: Sequence[str]) -> str:
    """The one of a log's filters or metrics that is compared."""
    known = list(dict.fromkeys(names))
    found = [name for name in known if name in wanted] if wanted else known
    if len(found) == 1:
        return found[0]
    message = f"{path} has {len(found)} {what}s to choose from: {', '.join(found) or 'none'}"
    if wanted and not found:
        message = f"{path} has no {what} {' or '.join(wanted)}; it has: {', '.join(known)}"
    raise ItemFileError(message, remedy=f"choose one with --{what} NAME (again for logs of other tasks)")


def _score(path: Path, number: int, sample: SampleLine, metric: str) -> float:
    value = (sample.model_extra or {}).get(metric)
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    raise ItemFileError(
        f"{path}:{number}: {metric} is {json.dumps(value):.60}, not a score from 0 to 1",
        remedy="choose a metric that scores each item from 0 to 1 with --metric NAME",
    )


def _answer(sample: SampleLine) -> str | None:
    """The text that was generated, or the log-likelihoods as JSON; none where the log has no responses."""
    first = sample.resps[0] if sample.resps else None
    if isinstance(first, list) and first and isinstance(first[0], str):
        return first[0]
    return json.dumps(sample.resps) if sample.resps else None


def _generation(sample: SampleLine) -> dict[str, Any] | None:
    """Sampling and limits: the second argument of a generation; log-likelihoods have a text there, and no settings."""
    first = sample.arguments.get("gen_args_0")
    second = first.get("arg_1") if isinstance(first, dict) else None
    if isinstance(second, dict):
        return second
    return {} if isinstance(second, str) else None
