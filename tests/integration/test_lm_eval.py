"""lm-eval on a real server: each answer is kept as it comes, and a dead server ends the evaluation with its reason."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from evaluation.catalogue import Prepared, load_benchmarks, prepare
from evaluation.harness.interface import Endpoint
from evaluation.harness.lm_eval import LmEval
from flagrelease.errors import HarnessError, ServerError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.records import Item
from flagrelease.settings import CHECKOUT
from runtime import weights
from runtime.engines import engine
from runtime.engines.interface import ServeRequest
from runtime.launch.interface import ServerSpec
from runtime.launch.process import ProcessLauncher, ProcessServer, free_port

ITEMS = 30
pytestmark = pytest.mark.needs("llama_cpp")


@contextmanager
def served(folder: Path) -> Iterator[tuple[ProcessServer, Endpoint]]:
    cell = resolve(load_matrix(CHECKOUT / "matrix.yaml"), load_chips(), "smollm2-cpu")
    llama, port = engine("llama_cpp"), free_port()
    request = ServeRequest(weights.check(cell.model).path, "m", "127.0.0.1", port)
    command = llama.command(request, {"threads": 1, "context": 2048})
    spec = ServerSpec(cell.id, command, "m", "127.0.0.1", port, folder / "server.log", 60)
    with ProcessLauncher(folder / "servers").start(spec, print) as server:
        yield server, Endpoint(server.base_url, "m", 1, lambda: None if server.alive() else server.exit_reason())


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    benchmark = load_benchmarks()["last_word"].model_copy(update={"items": ITEMS})
    return prepare(benchmark, tmp_path / "tasks")


def nothing(*_: object) -> None:
    """Progress that nobody looks at."""


def measured(prepared: Prepared, folder: Path, journal: Path) -> list[Item]:
    with served(folder) as (_, endpoint):
        return LmEval().measure(prepared, endpoint, journal, nothing).items


def test_a_server_that_dies_ends_the_evaluation_and_answers_are_kept(prepared: Prepared, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with served(tmp_path) as (server, endpoint):
        guard = psutil.Process(int(next((tmp_path / "servers").iterdir()).stem))
        llama = guard.children()[0].pid

        def kill(_: str, answered: int, __: int) -> None:
            if answered == ITEMS // 2:
                os.kill(llama, signal.SIGKILL)
                server.wait()

        with pytest.raises(ServerError, match=r"died while it was asked Last word[\s\S]*SIGKILL"):
            LmEval().measure(prepared, endpoint, journal, kill)
    kept = journal.read_text().splitlines()
    assert len(kept) == ITEMS // 2

    resumed = measured(prepared, tmp_path, journal)
    assert journal.read_text().splitlines()[: ITEMS // 2] == kept
    assert len(journal.read_text().splitlines()) == ITEMS
    assert resumed == measured(prepared, tmp_path, tmp_path / "undisturbed.jsonl")


def test_a_half_written_answer_is_asked_again(prepared: Prepared, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    whole = measured(prepared, tmp_path, journal)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:10])
    assert measured(prepared, tmp_path, journal) == whole
    assert len(journal.read_text().splitlines()) == ITEMS


def test_a_task_that_lm_eval_does_not_have_is_named(tmp_path: Path) -> None:
    benchmark = load_benchmarks()["aime24"].model_copy(update={"task": ["aime1924"]})
    with served(tmp_path) as (_, endpoint), pytest.raises(HarnessError, match=r"could not run AIME 2024.*aime1924"):
        LmEval().measure(prepare(benchmark, tmp_path), endpoint, tmp_path / "journal", nothing)
