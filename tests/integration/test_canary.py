"""The canary on real servers: a model passes against itself, damaged weights do not, two engines speak the same ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evaluation.canary import make_reference, measure, write
from flagrelease.errors import ServerError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.policy import CanaryPolicy
from flagrelease.settings import CHECKOUT
from runtime import weights
from runtime.engines import engine
from runtime.engines.interface import ServeRequest
from runtime.launch.interface import ServerSpec
from runtime.launch.process import ProcessLauncher, ProcessServer, free_port
from tests.damage import damaged
from tests.integration.evaluations import endpoint, kill, nothing

POLICY = CanaryPolicy(prompts=8, tokens=16, positions=4, factor=2, reason="small, for tests")
LLAMA_CPP = {"threads": 1, "context": 2048}
VLLM = {"cpu": True, "dtype": "float32", "max_model_len": 2048}
DAMAGED = "blk.10.ffn_down.weight"

pytestmark = pytest.mark.needs("llama_cpp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary")


@pytest.fixture(scope="module")
def found() -> weights.Weights:
    return weights.check(resolve(load_matrix(CHECKOUT / "matrix.yaml"), load_chips(), "smollm2-cpu").model)


@pytest.fixture(scope="module")
def float16(folder: Path, found: weights.Weights) -> Path:
    return weights.float16(found, folder)


@contextmanager
def served(name: str, path: Path, settings: dict[str, Any], folder: Path) -> Iterator[ProcessServer]:
    port = free_port()
    command = engine(name).command(ServeRequest(path, "m", "127.0.0.1", port), settings)
    spec = ServerSpec("m-c", command, "m", "127.0.0.1", port, folder / f"{name}.log", 300)
    with ProcessLauncher(folder / "servers").start(spec, nothing) as server:
        yield server


def test_a_model_passes_against_itself_and_its_damaged_copy_does_not(folder: Path, float16: Path) -> None:
    can = engine("llama_cpp").capabilities
    with served("llama_cpp", float16, LLAMA_CPP, folder) as server:
        prompts = write(endpoint(server, 1), can, POLICY, nothing)
        reference = make_reference(prompts, endpoint(server, 1), can, "nothing", nothing)
    assert all(len(prompt.positions) == POLICY.positions for prompt in reference.prompts)
    assert reference.floor.positions == POLICY.prompts * POLICY.positions
    assert reference.floor.mean_abs_logprob < 1e-6
    assert reference.floor.top1_agreement == 1

    said: list[str] = []
    broken = damaged(float16, folder / "damaged.gguf", 1, DAMAGED)
    with served("llama_cpp", broken, LLAMA_CPP, folder) as server:
        result = measure(reference, endpoint(server, 1), can, POLICY, said.append)
    assert not result.passed
    assert result.found.mean_abs_logprob > 5 * result.bars.mean_abs_logprob
    assert result.reasons[0].startswith("mean |Δ log p| ")
    assert sorted(result.worst) == list(range(POLICY.prompts))
    assert "canary: FAILED on 32 tokens in" in said[-1]


def test_a_server_that_dies_ends_the_canary_with_its_reason(folder: Path, found: weights.Weights) -> None:
    can = engine("llama_cpp").capabilities
    with served("llama_cpp", found.path, LLAMA_CPP, folder) as server:
        prompts = write(endpoint(server, 1), can, POLICY.model_copy(update={"prompts": 1, "tokens": 4}), nothing)
        kill(server, folder)
        with pytest.raises(ServerError, match=r"died during the canary[\s\S]*SIGKILL"):
            make_reference(prompts, endpoint(server, 1), can, "nothing", nothing)


@pytest.mark.needs("vllm")
def test_one_engine_meets_the_reference_of_another_and_its_damaged_copy_does_not(
    folder: Path, found: weights.Weights, float16: Path
) -> None:
    can = engine("vllm").capabilities
    with served("vllm", weights.checkpoint(found, folder), VLLM, folder) as server:
        prompts = write(endpoint(server, 8), can, POLICY, nothing)
        reference = make_reference(prompts, endpoint(server, 1), can, "requests in flight", nothing)
    assert all(prompt.positions == list(range(len(prompt.continuation))) for prompt in reference.prompts)
    assert reference.floor.mean_abs_logprob < 1e-5

    can = engine("llama_cpp").capabilities
    with served("llama_cpp", float16, LLAMA_CPP, folder) as server:
        same = measure(reference, endpoint(server, 1), can, POLICY, nothing)
    assert same.passed, same.reasons
    assert same.found.positions == POLICY.prompts * POLICY.positions

    broken = damaged(float16, folder / "damaged-against-vllm.gguf", 1, DAMAGED)
    with served("llama_cpp", broken, LLAMA_CPP, folder) as server:
        assert not measure(reference, endpoint(server, 1), can, POLICY, nothing).passed
