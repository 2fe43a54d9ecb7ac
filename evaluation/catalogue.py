"""The benchmarks: one file each in `evaluation/benchmarks/`, and their question files on this host."""

from __future__ import annotations

import difflib
import hashlib
import json
import uuid
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator

from evaluation import generators
from flagrelease.entry import Entry, Key, Sha256
from flagrelease.errors import HarnessError, MatrixError, UnknownNameError
from flagrelease.loading import load_yaml, validate
from flagrelease.packages import install_command, packaged_file
from flagrelease.records import digest


class Generated(Entry):
    """Questions that the project makes from a seed."""

    kind: Literal["generated"]
    generator: str = Field(description="function of evaluation.generators")
    seed: int


class Packaged(Entry):
    """Questions that a Python package carries, as JSON lines."""

    kind: Literal["package"]
    package: str = Field(description="pinned requirement")
    file: str = Field(description="path inside site-packages")
    sha256: Sha256
    licence: str
    origin: str = Field(description="where the questions come from")


class Hub(Entry):
    """Questions that the harness fetches from a hub by its own definition."""

    kind: Literal["hub"]
    repository: str
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    gated: bool = Field(default=False, description="the hub asks for an accepted licence and a token")


Dataset = Annotated[Generated | Packaged | Hub, Field(discriminator="kind")]


class Benchmark(Entry):
    """One benchmark: what is asked, how, and how answers are scored."""

    key: Key
    display: str = Field(description="name in tables")
    description: str
    aliases: list[str] = Field(default_factory=list, description="other names found on cards")
    harness: Literal["lm_eval", "evalscope", "tool_calls"] | None = Field(
        description="adapter that runs it here; none: not supported yet"
    )
    other_harnesses: list[str] = Field(default_factory=list, description="harnesses known to have it")
    needs: Literal["generate", "prompt_logprobs"] = "generate"
    api: Literal["chat", "completions"] = "chat"
    dataset: Dataset | None = None
    task: dict[str, Any] | list[str] | None = Field(
        default=None, description="the harness's task: a definition, or names of lm-eval's whose items are pooled"
    )
    metric: str = Field(default="exact_match", description="the harness's metric that scores an item")
    filter: str = Field(default="none", description="lm-eval filter whose answer is scored")
    scale: Literal["right_or_wrong", "graded"] = Field(default="right_or_wrong", description="of an item's score")
    items: int | None = Field(default=None, description="number of questions; none: not fixed")
    few_shot: int = 0
    repeats: int = Field(default=1, ge=1, description="how often each question is asked")
    cluster: str | None = Field(
        default=None, description="field of a question; questions with the same value share a passage or picture"
    )
    stratum: str | None = Field(default=None, description="field of a question: its subject, for stopping early")
    role: Literal["gated", "advisory"] = Field(default="gated", description="gated: decides, if it has enough items")
    # A reason stands before what it is for: so the check is made, and told, where the number stands.
    margin_reason: str | None = Field(default=None, min_length=10)
    margin_points: float | None = Field(
        default=None, gt=0, le=100, validate_default=True, description="its own margin; needs a reason"
    )
    discordance_source: str | None = Field(default=None, min_length=10)
    discordance: float | None = Field(
        default=None,
        ge=0,
        le=1,
        validate_default=True,
        description="published share of answers that differ between two equal systems; needs its source",
    )
    source: str = Field(description="where these facts come from")

    @field_validator("margin_points")
    @classmethod
    def _margin_has_its_reason(cls, value: float | None, info: ValidationInfo) -> float | None:
        return _explained("margin", value, "reason", info.data.get("margin_reason"))

    @field_validator("discordance")
    @classmethod
    def _discordance_has_its_source(cls, value: float | None, info: ValidationInfo) -> float | None:
        return _explained("discordance", value, "source", info.data.get("discordance_source"))


def _explained(what: str, value: float | None, why: str, said: str | None) -> float | None:
    if value is not None and said is None:
        msg = f"{what} without {why}: say in `{what}_{why}` where it comes from"
        raise ValueError(msg)
    if value is None and said is not None:
        msg = f"`{what}_{why}` without a {what}"
        raise ValueError(msg)
    return value


class Prepared(NamedTuple):
    """A benchmark with its question and task files on this host."""

    benchmark: Benchmark
    folder: Path
    dataset_sha256: str
    task_sha256: str


def load_benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by key; raises MatrixError naming file and line."""
    folder = Path(str(files("evaluation").joinpath("benchmarks")))
    found = (_benchmark(path, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.yaml")))
    return {benchmark.key: benchmark for benchmark in found}


@cache
def _benchmark(path: Path, changed: int) -> Benchmark:  # noqa: ARG001 - a file that was changed is read anew
    data, positions = load_yaml(path)
    benchmark = validate(Benchmark, path, data, positions)
    if benchmark.key != path.stem:
        raise MatrixError(f"{path}: key is {benchmark.key}", remedy=f"name the file {benchmark.key}.yaml")
    return benchmark


def select(benchmarks: dict[str, Benchmark], suite: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of a suite; raises UnknownNameError with the nearest name."""
    for key in suite:
        if key not in benchmarks:
            near = difflib.get_close_matches(key, benchmarks, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(benchmarks)}"
            raise UnknownNameError(f"there is no benchmark `{key}`", remedy=hint)
    return [benchmarks[key] for key in suite]


def missing(benchmark: Benchmark, capabilities: frozenset[str], engine: str) -> str | None:
    """Why the benchmark cannot be run through an engine with these capabilities; none if it can."""
    if benchmark.harness is None:
        return f"no harness adapter yet (it is in {', '.join(benchmark.other_harnesses) or 'none that is known'})"
    if benchmark.needs not in capabilities:
        return f"needs log-probabilities of the prompt, which {engine} does not give"
    return None


def require_questions(benchmark: Benchmark) -> None:
    """Raise PreflightError where the package that carries the benchmark's questions is not installed."""
    if isinstance(benchmark.dataset, Packaged):
        packaged_file(benchmark.dataset.package, benchmark.dataset.file, f"the questions of {benchmark.display}")


# What of a benchmark decides nothing that is asked: what is said of it, and how answers are judged.
_FACTS = {"discordance", "discordance_source", "margin_reason"}
_SAID = {"display", "description", "aliases", "other_harnesses", "source"} | _FACTS
_JUDGED = {"role", "margin_points"}


def fingerprint(benchmark: Benchmark) -> dict[str, str]:
    """What decides the benchmark's questions and scoring, for stage keys; known before anything is fetched."""
    asked = benchmark.model_dump(mode="json", exclude=_SAID | _JUDGED)
    return {"benchmark": benchmark.key, "definition": digest(asked)}


def judging(benchmark: Benchmark) -> dict[str, Any]:
    """What decides how the benchmark's answers are judged, for stage keys."""
    return benchmark.model_dump(mode="json", include=_JUDGED | {"key", "display"})


def prepare(benchmark: Benchmark, folder: Path) -> Prepared:
    """Write the benchmark's question file, and for lm-eval its task file, below `folder`.

    Raises PreflightError where a package is missing, HarnessError where questions are not what they should be.
    """
    dataset = benchmark.dataset
    if isinstance(dataset, Hub) or not isinstance(benchmark.task, dict):
        return Prepared(benchmark, folder, "", digest(benchmark.task))
    if isinstance(dataset, Generated):
        questions = generators.GENERATORS[dataset.generator](dataset.seed, benchmark.items or 0)
        data = "".join(json.dumps(question, ensure_ascii=False) + "\n" for question in questions).encode()
    elif isinstance(dataset, Packaged):
        data = _packaged(dataset)
    else:
        raise HarnessError(f"{benchmark.key} names no questions", remedy="add `dataset` to its benchmark file")
    task_sha256 = digest(benchmark.task)
    dataset_sha256 = hashlib.sha256(data).hexdigest()
    own = folder / f"{benchmark.key}-{digest([task_sha256, dataset_sha256])[:12]}"
    own.mkdir(parents=True, exist_ok=True)
    questions_file = own / "questions.jsonl"
    _write(questions_file, data)
    if benchmark.harness != "lm_eval":
        return Prepared(benchmark, own, dataset_sha256, task_sha256)
    task = {
        "task": benchmark.key,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(questions_file)}},
        "test_split": "test",
        "num_fewshot": benchmark.few_shot,
        **benchmark.task,
    }
    # JSON is YAML: what lm-eval reads is exactly what was hashed.
    _write(own / f"{benchmark.key}.yaml", json.dumps(task, indent=1, ensure_ascii=False).encode())
    return Prepared(benchmark, own, dataset_sha256, task_sha256)


def _packaged(dataset: Packaged) -> bytes:
    path = packaged_file(dataset.package, dataset.file, "questions")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != dataset.sha256:
        raise HarnessError(
            f"{path} is not the question file that the benchmark names: it has another hash",
            remedy=f"{install_command(dataset.package)} --force-reinstall",
        )
    return data


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    if path.exists() and path.read_bytes() == data:
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    aside.write_bytes(data)
    aside.replace(path)
