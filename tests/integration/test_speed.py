"""Speed of a real server under a real load generator. The figures must fit together, however fast the machine is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from evaluation.harness.interface import Endpoint
from evaluation.speed import measure
from flagrelease.errors import ServerError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.policy import SpeedPolicy, Workload
from flagrelease.records import Speed
from flagrelease.settings import CHECKOUT
from runtime import weights
from runtime.engines import engine
from runtime.engines.interface import ServeRequest
from runtime.launch.interface import ServerSpec
from runtime.launch.process import ProcessLauncher, free_port

VLLM = CHECKOUT / ".venv-vllm/bin/vllm"
SLOTS = 2
WORKLOADS = [
    Workload(input=24, output=8, concurrency=1, requests=1),
    Workload(input=8, output=6, concurrency=SLOTS, requests=3),
]
POLICY = SpeedPolicy(floor=0.8, repeats=5, max_variation=0.05, workloads=WORKLOADS, reason="chosen for a test")
CELL = resolve(load_matrix(CHECKOUT / "matrix.yaml"), load_chips(), "smollm2-cpu")
pytestmark = pytest.mark.needs("llama_cpp", "vllm")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.checkpoint(weights.check(CELL.model), tmp_path_factory.mktemp("weights"))


@contextmanager
def served(folder: Path) -> Iterator[tuple[Endpoint, Callable[[], None]]]:
    """A served model, and what kills its server."""
    port = free_port()
    request = ServeRequest(weights.check(CELL.model).path, "m", "127.0.0.1", port)
    command = engine("llama_cpp").command(request, {"threads": 1, "context": 256, "concurrency": SLOTS})
    spec = ServerSpec(CELL.id, command, "m", "127.0.0.1", port, folder / "server.log", 60)
    with ProcessLauncher(folder / "servers").start(spec, print) as server:

        def kill() -> None:
            guard = psutil.Process(int(next((folder / "servers").iterdir()).stem))
            os.kill(guard.children()[0].pid, signal.SIGKILL)

        yield Endpoint(server.base_url, "m", SLOTS, lambda: None if server.alive() else server.exit_reason()), kill


def nothing(_: str) -> None:
    """Progress that nobody looks at."""


def run(endpoint: Endpoint, tokenizer: Path, work: Path, log: Callable[[str], None] = nothing) -> Speed:
    return measure(endpoint, tokenizer, POLICY, vllm=VLLM, work=work, log=log)


def test_figures_of_a_real_server_fit_together(tokenizer: Path, tmp_path: Path) -> None:
    with served(tmp_path) as (endpoint, _):
        speed = run(endpoint, tokenizer, tmp_path / "speed")
    assert speed.tool.startswith("vllm bench serve 0.")
    assert [point.workload for point in speed.points] == ["24/8 x 1", "8/6 x 2"]
    for point in speed.points:
        assert point.failed == 0
        rates = (point.request_throughput, point.output_throughput, point.total_throughput)
        assert [len(rate) for rate in rates] == [POLICY.repeats] * 3
        for requests, output, total in zip(*rates, strict=True):
            # Text of the answers is tokenised again, which may merge or split a token.
            assert output / requests == pytest.approx(point.output_tokens, rel=0.3)
            assert (total - output) / requests == pytest.approx(point.input_tokens, rel=0.05)
        for latency in (point.ttft_ms, point.tpot_ms, point.itl_ms):
            assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        # What one request takes is at least its first token; what is in flight at once is the concurrency.
        slowest = max(1 / rate for rate in point.request_throughput) * point.requests
        assert point.ttft_ms["p99"] / 1000 < slowest


def test_a_server_that_dies_ends_the_measurement_with_its_reason(tokenizer: Path, tmp_path: Path) -> None:
    with served(tmp_path) as (endpoint, kill):

        def log(line: str) -> None:
            if "repeat 2 of" in line:
                kill()

        with pytest.raises(ServerError, match=r"died while its speed was measured: ended by signal SIGKILL"):
            run(endpoint, tokenizer, tmp_path / "speed", log)
