"""Faults planted in the operators of a small real model are found as exactly the culprits among all that it uses.

The operators are torch's own, hooked by a stand-in for FlagGems; model, server, canary and search are the real ones.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from evaluation import canary
from evaluation.again import ask_items
from evaluation.canary import make_reference, measure, write
from evaluation.canary_texts import texts
from evaluation.catalogue import prepare
from evaluation.harness.interface import Endpoint
from evaluation.run import HARNESSES
from flagrelease.bisect.journal import Journal
from flagrelease.bisect.judge import allowed_wrong, can_tell, exceedance, most_starts
from flagrelease.bisect.records import BisectResult, JudgedBy, Judging, Measured, Outcome, Status
from flagrelease.bisect.search import bisect
from flagrelease.errors import ServerError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.policy import CanaryPolicy
from flagrelease.records import CanaryReference
from flagrelease.secrets import child_environment
from flagrelease.settings import CHECKOUT, settings
from flows.bisect import bisect_job
from flows.bisect_items import Against
from flows.job import make_job
from runtime import operators, weights
from runtime.launch.process import free_port
from tests.end_to_end.commands import servers_below
from tests.integration.evaluations import last_word, nothing

HERE = Path(__file__).parent
PYTHON = CHECKOUT / ".venv-vllm/bin/python"
POLICY = CanaryPolicy(prompts=8, tokens=8, positions=8, factor=2, reason="small, for tests")
SHORT = (0, 5, 10, 15)
"""Texts that are read: a story, a dialogue, code, an explanation, of some 20 tokens each."""
FLIPPING = "rsqrt=epsilon"
"""A fault that costs answers."""
CAN = frozenset({"prompt_logprobs"})

pytestmark = [pytest.mark.needs("llama_cpp", "vllm"), pytest.mark.slow]


class ForkedTorch:
    """Servers of the small model, one at a time."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._list = folder / "operators.txt"
        self.starts = 0

    def _ask(self, **command: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def _failure(self) -> str | None:
        code = self._ask(do="ended")
        return None if code is None else f"ended with code {code}"

    @contextmanager
    def serve(
        self, *, gems: bool = True, exclude: frozenset[str] = frozenset(), faults: str = ""
    ) -> Iterator[Endpoint]:
        port = free_port()
        self.starts += 1
        # As a release's server is told: a list cannot tell some functions apart.
        told = operators.functions(exclude)
        self._ask(do="start", port=port, gems=gems, exclude=told, faults=faults, path=str(self._list))
        url = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + 60
            while not _healthy(url) and time.monotonic() < until:
                time.sleep(0.02)
            yield Endpoint(url, "m", 1, self._failure)
        finally:
            self._ask(do="stop")

    def listed(self) -> list[str]:
        return operators.parse(self._list.read_text())


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedTorch]:
    folder = tmp_path_factory.mktemp("bisect")
    found = weights.check(resolve(load_matrix(CHECKOUT / "matrix.yaml"), load_chips(), "smollm2-cpu").model)
    options = {
        "model": weights.checkpoint(found, folder),
        "served-name": "m",
        "host": "127.0.0.1",
        "port": 0,
        "dtype": "float32",
        "attention": "eager",
        "threads": 1,
        "max-model-len": 2048,
    }
    argv = [
        str(PYTHON),
        str(HERE / "forked_torch_server.py"),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    environment = child_environment({"PYTHONPATH": str(HERE / "stand_in_flag_gems"), "HF_HUB_OFFLINE": "1"})
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    try:
        yield ForkedTorch(process, folder)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(20)


@pytest.fixture(scope="module")
def reference(torch: ForkedTorch) -> CanaryReference:
    with pytest.MonkeyPatch.context() as patch, torch.serve(gems=False) as endpoint:
        patch.setattr(canary, "texts", lambda count: [texts(2 * count)[number] for number in SHORT])
        prompts = write(endpoint, CAN, POLICY, nothing)
    with torch.serve(gems=False) as endpoint:
        return make_reference(prompts, endpoint, CAN, "nothing", nothing)


@pytest.fixture(scope="module")
def hooked(torch: ForkedTorch, reference: CanaryReference) -> list[str]:
    """All operators of the stand-in that the model uses, by the list that the server wrote."""
    with torch.serve() as endpoint:
        assert measure(reference, endpoint, CAN, POLICY, nothing).passed
    return torch.listed()


def searched(
    torch: ForkedTorch, reference: CanaryReference, hooked: list[str], path: Path, *, faults: str
) -> tuple[BisectResult, int]:
    def one(removed: frozenset[str], _run: int) -> Measured:
        start = time.monotonic()
        try:
            with torch.serve(exclude=removed, faults=faults) as endpoint:
                found = measure(reference, endpoint, CAN, POLICY, nothing)
        except ServerError as error:
            return Measured(statistic=None, seconds=time.monotonic() - start, error=error.message)
        assert set(torch.listed()) == set(hooked) - removed
        return Measured(statistic=exceedance(found), seconds=time.monotonic() - start, canary=found)

    before = torch.starts
    with Journal(path / "journal.jsonl", {"faults": faults}) as journal:
        result = bisect(hooked, one, journal, print)
    return result, torch.starts - before


def test_a_sound_model_has_no_culprit(
    torch: ForkedTorch, reference: CanaryReference, hooked: list[str], tmp_path: Path
) -> None:
    assert len(hooked) >= 15
    assert {"mm", "bmm", "mean_dim", "rsqrt", "cat", "silu", "_softmax"} <= set(hooked)
    result, starts = searched(torch, reference, hooked, tmp_path, faults="")
    assert (result.status, starts) == (Status.NO_CULPRIT, 1)


@pytest.mark.parametrize("planted", ["mean_dim=drop_tail", "rsqrt=epsilon", "mm=float16", "cat=swap", "silu=crash"])
def test_one_planted_fault_is_the_culprit(
    torch: ForkedTorch, reference: CanaryReference, hooked: list[str], tmp_path: Path, planted: str
) -> None:
    operator, _, fault = planted.partition("=")
    result, starts = searched(torch, reference, hooked, tmp_path, faults=planted)
    assert result.remove == [operator]
    assert result.culprits[0].alone is (Outcome.CRASHED if fault == "crash" else Outcome.BAD)
    assert starts <= most_starts(len(hooked))


def test_two_faults_and_a_crash_at_once_are_all_culprits(
    torch: ForkedTorch, reference: CanaryReference, hooked: list[str], tmp_path: Path
) -> None:
    result, _ = searched(torch, reference, hooked, tmp_path, faults="mean_dim=drop_tail,cat=swap,silu=crash")
    assert set(result.remove) == {"mean_dim", "cat", "silu"}
    assert {culprit.operator for culprit in result.culprits if culprit.alone is Outcome.CRASHED} == {"silu"}
    silu = next(culprit for culprit in result.culprits if culprit.operator == "silu")
    assert "died during the canary: ended with code -11" in (silu.error or "")


def test_a_fault_is_found_by_the_answers_that_it_cost(torch: ForkedTorch, hooked: list[str], tmp_path: Path) -> None:
    benchmark = last_word(12)
    names = [question.item for question in HARNESSES["lm_eval"].questions(prepare(benchmark, tmp_path / "tasks"))]

    def right(items: Sequence[str], **served: Any) -> set[str]:
        answers = tmp_path / "answers" / str(torch.starts)
        with torch.serve(**served) as endpoint:
            found = ask_items([benchmark], {benchmark.key: items}, endpoint, tasks=tmp_path / "tasks", journals=answers)
        assert {item.item for item in found} == set(items)
        return {item.item for item in found if item.score}

    flipped = sorted(right(names, gems=False) - right(names, faults=FLIPPING))[:5]
    allowed = allowed_wrong(len(flipped), len(names), 3)
    judging = Judging(by=JudgedBy.ITEMS, asked=len(flipped), allowed=allowed)
    assert can_tell(len(flipped), len(hooked))

    def one(removed: frozenset[str], _run: int) -> Measured:
        wrong = sorted(set(flipped) - right(flipped, exclude=removed, faults=FLIPPING))
        return Measured(statistic=len(wrong) / allowed, seconds=1, wrong={benchmark.key: wrong})

    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        result = bisect(hooked, one, journal, print, judging=judging)
    assert result.remove == [FLIPPING.partition("=")[0]]
    assert len(result.steps) <= most_starts(len(hooked))
    assert result.floors == [0.0] * len(result.floors)


def test_servers_that_are_started_anew_show_the_same(
    torch: ForkedTorch, reference: CanaryReference, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torch.starts
    matrix = yaml.safe_load((CHECKOUT / "matrix.yaml").read_text())
    (cell,) = (each for each in matrix["cells"] if each["model"] == "smollm2")
    cell |= {"engine": "torch_reference", "stack": "flagos", "engines": {"torch_reference": {"threads": 1}}}
    matrix["policy"]["suites"]["smoke"]["canary"] = POLICY.model_dump(mode="json")
    (home / "matrix.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(home / "matrix.yaml"))
    monkeypatch.setenv("FLAGRELEASE_TORCH", str(PYTHON))
    monkeypatch.setenv("PYTHONPATH", str(HERE / "stand_in_flag_gems"))
    monkeypatch.setenv("FLAG_GEMS_STAND_IN_FAULTS", "rsqrt=epsilon")
    settings.cache_clear()
    job = make_job("smollm2-cpu", None, settings())
    found = bisect_job(job, Against("reference", reference), ["mean_dim", "rsqrt"], settings(), print)
    assert found.result.remove == ["rsqrt"]
    assert yaml.safe_load(found.deny_list) == {"engines": {"torch_reference": {"without_operators": ["rsqrt"]}}}
    report = next(path for path in found.files if path.name == "report-rsqrt.md").read_text()
    assert "torch" in report
    assert servers_below(home) == []
