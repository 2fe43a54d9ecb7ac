"""Serving a job's model on this host and asking it: what releases and baselines have in common."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from evaluation import speed as speeds
from evaluation.harness.interface import Endpoint, Progress
from evaluation.run import EarlyStopping, evaluate
from flagrelease.policy import SpeedPolicy
from flagrelease.records import Evaluation, Speed
from flows.session import Job, Log, provenance
from runtime import weights
from runtime.engines import vllm
from runtime.engines.interface import ServeRequest
from runtime.launch.interface import ServerSpec
from runtime.launch.process import ProcessLauncher, ProcessServer, free_port

HOST = "127.0.0.1"
PROGRESS_EVERY_S = 5.0
PROGRESS_WINDOW = 12


def model_path(job: Job, found: weights.Weights, work: Path) -> Path:
    """Where the engine reads the model on this host; converted first where the engine needs another form."""
    form = job.engine.weights_format(job.engine_settings)
    if form == "gguf":
        return found.path
    convert = weights.checkpoint if form == "safetensors" else weights.float16
    return convert(found, work / "weights")


def start_server(
    job: Job, work: Path, log: Log, *, host: str = HOST, port: int | None = None
) -> AbstractContextManager[ProcessServer]:
    """Serve the job's model; the server ends with the context."""
    found = weights.check(job.cell.model)
    path = model_path(job, found, work)
    chosen = port or free_port(host)
    served = job.cell.served_name
    request = ServeRequest(path, served, host, chosen)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    spec = ServerSpec(
        cell=job.cell.id,
        command=job.engine.command(request, job.engine_settings),
        served_name=served,
        host=host,
        port=chosen,
        log_path=work / "logs" / f"{job.cell.id}-{job.engine.name}-{stamp}.log",
        ready_timeout_s=job.limits.ready_timeout_s,
    )
    log(f"serve: {job.engine.display} {job.engine.version()} is loading {job.cell.model.display}")
    return ProcessLauncher(work / "servers").start(spec, log)


def endpoint_of(job: Job, server: ProcessServer) -> Endpoint:
    """The served model, as harnesses see it."""
    return Endpoint(
        server.base_url,
        job.cell.served_name,
        job.limits.concurrency,
        lambda: None if server.alive() else server.exit_reason(),
    )


def measure(
    job: Job,
    server: ProcessServer,
    *,
    work: Path,
    journals: Path,
    progress: Progress,
    log: Log,
    repeats: Mapping[str, int] | None = None,
    stop: EarlyStopping | None = None,
) -> Evaluation:
    """Ask the served model the job's benchmarks, each as often as it says or as `repeats` does."""
    found = weights.check(job.cell.model)
    return evaluate(
        job.benchmarks,
        endpoint_of(job, server),
        provenance(
            job,
            weights_sha256=found.sha256,
            chat_template_sha256=weights.chat_template_sha256(found),
            tokenizer_sha256=weights.tokenizer_sha256(found),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        tasks=work / "tasks",
        journals=journals,
        progress=progress,
        log=log,
        repeats=repeats,
        stop=stop,
    )


def measure_speed(job: Job, server: ProcessServer, policy: SpeedPolicy, work: Path, log: Log) -> Speed:
    """Throughput and latency of the served model; raises PreflightError where this host has no load generator."""
    tokenizer = weights.checkpoint(weights.check(job.cell.model), work / "weights")
    results = work / "speed" / f"{job.cell.id}-{job.engine.name}"
    return speeds.measure(endpoint_of(job, server), tokenizer, policy, vllm=vllm.executable(), work=results, log=log)


class SaidProgress:
    """Says how far an evaluation is, at most every few seconds: answered, rate of the last minute, time left."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._benchmark = ""
        self._answered = self._asked = 0
        self._said = 0.0
        self._recent: deque[tuple[float, int]] = deque(maxlen=PROGRESS_WINDOW)

    def __call__(self, benchmark: str, answered: int, total: int) -> None:
        """Take note of an answer, or of those that were kept."""
        now = time.monotonic()
        if benchmark != self._benchmark or answered < self._answered:
            self._benchmark, self._answered, self._asked, self._said = benchmark, 0, 0, now
            self._recent.clear()
            self._recent.append((now, 0))
        new = answered - self._answered
        self._answered = answered
        if new > 1:
            # Answers come one by one, so these were not asked for now.
            self._log(f"evaluate: {benchmark}: {new} answers kept from an earlier run")
            return
        self._asked += new
        if new == 0 or (now - self._said < PROGRESS_EVERY_S and answered < total):
            return
        self._said = now
        since, asked = self._recent[0]
        self._recent.append((now, self._asked))
        rate = (self._asked - asked) / max(now - since, 1e-3)
        left = (total - answered) / rate
        self._log(f"evaluate: {benchmark} {answered}/{total}, {rate:.1f}/s, {left:.0f} s left")
