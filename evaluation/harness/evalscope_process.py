"""evalscope's process: one benchmark loaded in the environment that has evalscope, asked through a pipe."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from evaluation.catalogue import Benchmark, Hub, Prepared
from evaluation.harness.offline import OFFLINE
from flagrelease.entry import Entry
from flagrelease.errors import HarnessError, PreflightError
from flagrelease.secrets import PROXIES, child_environment
from flagrelease.settings import settings

OWN_ENVIRONMENT = Path(".venv-evalscope/bin/evalscope")
WORKER = Path(__file__).with_name("evalscope_worker.py")
# Some of evalscope's own scorers still write the short name of the metric that its lists call accuracy.
SHORT_NAMES = {"accuracy": "acc"}
LAST_LINES = 5
TOKENS = {"huggingface": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), "modelscope": ("MODELSCOPE_API_TOKEN",)}
"""What evalscope needs for a data set that its hub gives to some only. Questions from a file need none."""


class Task(Entry):
    """A task of evalscope, as it stands in a benchmark file."""

    dataset: str
    generation: dict[str, Any] = Field(min_length=1)
    subset_list: list[str] | None = None
    extra_params: dict[str, Any] | None = None


class Loaded(NamedTuple):
    """A question, as the process has it."""

    number: int
    item: str
    prompt: str
    cluster: str | None
    stratum: str


class Process:
    """A process with one benchmark loaded. It ends when its input does, which is a pipe from here.

    Its methods raise HarnessError where evalscope fails; making one raises PreflightError where evalscope is not there.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._benchmark = benchmark = prepared.benchmark
        hub = benchmark.dataset if isinstance(benchmark.dataset, Hub) else None
        job = {
            "task": task_of(benchmark).model_dump(exclude_none=True),
            "hub": hub.hub if hub else "huggingface",
            "local": None if hub else str(prepared.folder / "questions.jsonl"),
        }
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            # Isolated: this folder has a file of evalscope's name, and our own libraries may be on PYTHONPATH.
            [_python(), "-I", WORKER, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=child_environment(keep=(*TOKENS[hub.hub], *PROXIES)) if hub else child_environment(OFFLINE),
        )
        try:
            first = self._read()
            if "error" in first:
                raise _not_loaded(benchmark, first["error"])
            self.questions = [_loaded(benchmark, number, told) for number, told in enumerate(first["questions"])]
        except HarnessError:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._log.close()

    def messages(self, question: Loaded) -> list[dict[str, Any]]:
        """What is to be sent."""
        answer: list[dict[str, Any]] = self._call({"messages": question.number})["messages"]
        return answer

    def score(self, question: Loaded, answer: str) -> tuple[float, str]:
        """Score in [0, 1] and the answer as it was understood."""
        if not answer.strip():
            # Some of evalscope's scorers take silence for a right answer.
            return 0.0, ""
        told, metric = self._call({"score": question.number, "answer": answer}), self._benchmark.metric
        value = told["value"].get(metric, told["value"].get(SHORT_NAMES.get(metric, metric)))
        if value is None:
            raise HarnessError(
                f"evalscope scores {self._benchmark.display} by {', '.join(told['value'])}, not by {metric}",
                remedy=f"correct `metric` in evaluation/benchmarks/{self._benchmark.key}.yaml",
            )
        return float(value), str(told["extracted"])

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        told = self._read()
        if "error" in told:
            raise HarnessError(
                f"evalscope could not handle a question of {self._benchmark.display}: {_first_line(told['error'])}",
                remedy="answers so far are kept; correct the cause and run the same command again",
            )
        return told

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        told: dict[str, Any] = json.loads(line)
        return told

    def _died(self) -> HarnessError:
        code = self._process.wait()
        self._log.seek(0)
        last = "\n".join(self._log.read().splitlines()[-LAST_LINES:])
        return HarnessError(
            f"evalscope ended with exit code {code} while it handled {self._benchmark.display}:\n{last}",
            remedy="answers so far are kept; correct the cause and run the same command again",
        )


def task_of(benchmark: Benchmark) -> Task:
    """The benchmark's task; raises HarnessError naming what is wrong in its file."""
    try:
        return Task.model_validate(benchmark.task)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["task", *map(str, first["loc"])])
        raise HarnessError(
            f"{benchmark.display} is no task of evalscope: {where}: {first['msg']}",
            remedy=f"correct evaluation/benchmarks/{benchmark.key}.yaml; `task` holds {', '.join(Task.model_fields)}",
        ) from error


def _loaded(benchmark: Benchmark, number: int, told: dict[str, Any]) -> Loaded:
    def field(name: str | None) -> str | None:
        if name is not None and name not in told["fields"]:
            raise HarnessError(
                f"questions of {benchmark.display} have no field {name}",
                remedy=f"correct evaluation/benchmarks/{benchmark.key}.yaml; there are {', '.join(told['fields'])}",
            )
        return None if name is None else str(told["fields"][name])

    return Loaded(number, told["item"], told["prompt"], field(benchmark.cluster), field(benchmark.stratum) or "")


def _not_loaded(benchmark: Benchmark, cause: str) -> HarnessError:
    if not isinstance(benchmark.dataset, Hub):
        return HarnessError(
            f"evalscope could not read the questions of {benchmark.display}: {_first_line(cause)}",
            remedy=f"correct evaluation/benchmarks/{benchmark.key}.yaml or what makes its questions",
        )
    gated = "; the data set is gated: accept its terms and set HF_TOKEN" if benchmark.dataset.gated else ""
    return HarnessError(
        f"evalscope could not load {benchmark.display} (questions: {benchmark.dataset.repository}): "
        f"{_first_line(cause)}",
        remedy=f"this host must reach the hub, or have the data set in its cache: flagrelease benchmarks check{gated}",
    )


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300]


def _python() -> Path:
    """The Python of the environment that has evalscope."""
    chosen = settings().evalscope
    if chosen is None and OWN_ENVIRONMENT.exists():
        chosen = OWN_ENVIRONMENT
    if chosen is None and (on_path := shutil.which("evalscope")):
        chosen = Path(on_path)
    if chosen is None or not chosen.exists():
        raise PreflightError(
            f"evalscope is not there: {chosen}" if chosen else "evalscope is not installed",
            remedy="in a checkout: make evalscope; elsewhere: pip install evalscope==1.14.1 in an environment of its "
            "own, and set FLAGRELEASE_EVALSCOPE to its evalscope command",
        )
    # A command that was linked onto PATH lies beside its environment's Python.
    return chosen.resolve().with_name("python")


def installed_version() -> str:
    """Version of evalscope in its environment; raises PreflightError saying how to install it."""
    return _version(_python())


@cache
def _version(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('evalscope'))"
    try:
        answer = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=True, env=child_environment()
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise PreflightError(
            f"the version of evalscope cannot be read from {python}: {error}",
            remedy="set FLAGRELEASE_EVALSCOPE to the evalscope command inside its environment, or install it again: "
            "make evalscope",
        ) from error
    return answer.stdout.strip()
