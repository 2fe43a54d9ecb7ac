"""Evaluating stand-in models. As a program, `evaluations.py URL FOLDER ANSWERS` kills itself after so many answers."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from evaluation.catalogue import Benchmark, load_benchmarks
from evaluation.harness.interface import Endpoint, Progress
from evaluation.run import EarlyStopping, evaluate, items_from_jsonl
from flagrelease.policy import EarlyStop
from flagrelease.records import Evaluation, Item
from runtime.engines.interface import ServerCommand
from runtime.launch.interface import ServerSpec
from runtime.launch.process import ProcessLauncher, ProcessServer, free_port
from tests.unit.evaluations import provenance
from tests.unit.policies import policy

STAND_IN = Path(__file__).with_name("stand_in_model.py")
AT_ONCE = 16
LOOKS = EarlyStop(from_items=1000, looks=10, z=3.0, reason="chosen for a test")


def nothing(*_: object) -> None:
    """Progress or a log that nobody looks at."""


def last_word(items: int, **changes: Any) -> Benchmark:
    return load_benchmarks()["last_word"].model_copy(update={"items": items, **changes})


def endpoint(server: ProcessServer, concurrency: int = AT_ONCE) -> Endpoint:
    return Endpoint(server.base_url, "m", concurrency, lambda: None if server.alive() else server.exit_reason())


@contextmanager
def stand_in(folder: Path, *options: str) -> Iterator[ProcessServer]:
    """A stand-in model; what it is asked is added to `folder`."""
    port = free_port()
    command = ServerCommand([sys.executable, str(STAND_IN), str(port), str(folder / "asked.jsonl"), *options], {})
    spec = ServerSpec("m-c", command, "m", "127.0.0.1", port, folder / "server.log", 60)
    with ProcessLauncher(folder / "servers").start(spec, nothing) as server:
        yield server


def kill(server: ProcessServer, folder: Path) -> None:
    """Kill the server that was started in `folder` with SIGKILL, and wait for its end to be known."""
    guard = psutil.Process(int(next((folder / "servers").iterdir()).stem))
    os.kill(guard.children()[0].pid, signal.SIGKILL)
    server.wait()


def asked(folder: Path) -> Counter[str]:
    """How often the stand-ins of `folder` were asked each question with each seed."""
    return Counter((folder / "asked.jsonl").read_text().splitlines())


def without_latency(items: Sequence[Item]) -> list[Item]:
    """The answers without what differs from run to run."""
    return [item.model_copy(update={"latency_s": None}) for item in items]


def evaluated(
    at: Endpoint,
    folder: Path,
    benchmark: Benchmark,
    *,
    baseline: Sequence[Item] | None = None,
    progress: Progress = nothing,
    log: Callable[[str], None] = nothing,
    **options: Any,
) -> Evaluation:
    """Evaluate in `folder`; with the answers of a baseline it may stop early."""
    stop = None if baseline is None else EarlyStopping(policy(early_stop=LOOKS), baseline)
    return evaluate(
        [benchmark],
        at,
        provenance(),
        tasks=folder / "tasks",
        journals=folder / "journals",
        progress=progress,
        log=log,
        stop=stop,
        **options,
    )


def main() -> None:
    url, folder, answers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    baseline = items_from_jsonl((folder / "baseline.jsonl").read_bytes())

    def die(_: str, answered: int, __: int) -> None:
        if answered == answers:
            os.kill(os.getpid(), signal.SIGKILL)

    of = len({item.item for item in baseline})
    evaluated(Endpoint(url, "m", AT_ONCE, lambda: None), folder, last_word(of), baseline=baseline, progress=die)


if __name__ == "__main__":
    main()
