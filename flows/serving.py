"""Serving a job's model on this host and asking it: what releases and baselines have in common."""

from __future__ import annotations

import shlex
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from evaluation import speed as speeds
from evaluation.harness.interface import Endpoint, Progress
from evaluation.run import EarlyStopping, evaluate
from flagrelease.card.text import printable
from flagrelease.errors import ImageError, MatrixError, PreflightError, WeightsError
from flagrelease.matrix import Container, ResolvedCell
from flagrelease.policy import SpeedPolicy
from flagrelease.records import CellImage, Evaluation, Speed
from flagrelease.settings import Settings
from flows.job import Job, provenance
from runtime import weights
from runtime.engines import vllm
from runtime.engines.interface import ServeRequest
from runtime.image.provide import Provided, image_of
from runtime.launch.chip_container import cell_container
from runtime.launch.container import ContainerLauncher
from runtime.launch.container_preflight import host_path
from runtime.launch.container_spec import ContainerSpec, Mount
from runtime.launch.interface import Launcher, Log, Server, ServerSpec
from runtime.launch.process import ProcessLauncher, free_port

HOST = "127.0.0.1"
PROGRESS_EVERY_S = 5.0
PROGRESS_WINDOW = 12


def model_path(job: Job, found: weights.Weights, work: Path) -> Path:
    """Where the engine reads the model on this host; converted first where the engine needs another form."""
    form = job.engine.weights_format(job.engine_settings)
    if found.path.is_dir() and form != "safetensors":
        raise WeightsError(
            f"{job.engine.display} reads a GGUF file, and the weights of {job.cell.model.display} are a checkpoint",
            remedy="give the cell another engine, or the model packaged GGUF weights (matrix.yaml)",
        )
    if form == "gguf":
        return found.path
    convert = weights.checkpoint if form == "safetensors" else weights.float16
    return convert(found, work / "weights")


def path_inside(job: Job) -> Path:
    """Where a container of the cell sees the model."""
    folder = Path(job.cell.model_folder)
    checkpoint = job.engine.weights_format(job.engine_settings) == "safetensors"
    return folder if checkpoint else folder / f"{job.cell.cell.model}.gguf"


def provided_image(job: Job, host: Settings, log: Log, *, send: bool) -> Provided:
    """The image of the job's cell, which has its engine; `send`: pushed where a registry is configured."""
    provided = image_of(job.cell, host, log, send=send)
    _engine_version(job, provided.image)
    return provided


def _engine_version(job: Job, image: CellImage | None) -> str:
    """Version of the engine in the image, or on this host; raises ImageError where the image has none."""
    if image is None:
        return job.engine.version()
    if job.engine.package not in image.versions:
        raise ImageError(
            f"the image of {job.cell.id} has no {job.engine.package}, which {job.engine.display} is served by",
            remedy="pin it under `versions` of the cell in matrix.yaml, or name a base image that has it",
        )
    return image.versions[job.engine.package]


def start_server(
    job: Job,
    host: Settings,
    log: Log,
    *,
    image: CellImage | None = None,
    release: int | None = None,
    address: str = HOST,
    port: int | None = None,
) -> AbstractContextManager[Server]:
    """Serve the job's model as its cell says, in a container of `image` or a process; it ends with the context.

    Without `image` a cell's container is made from the one that is built for it here, or was before. `release`: whose
    server it is, as the container's label says.
    """
    found = weights.check(job.cell.model)
    path, chosen = model_path(job, found, host.work_path), port or free_port(address)
    launcher: Launcher
    if job.cell.container is None:
        launcher = ProcessLauncher(host.work_path / "servers")
        request = ServeRequest(path, job.cell.served_name, address, chosen, job.cell.cell.stack)
    else:
        image = image or provided_image(job, host, log, send=False).image
        inside = path_inside(job)
        container = _container(job.cell, job.cell.container, image, path, inside)
        name = "" if release is None else str(release)
        launcher = ContainerLauncher(container, chip=job.cell.chip, release=name, paths=[str(inside)])
        # Through a network of its own a container is reached at its address there, not at the host's.
        listens = address if container.network == "host" else "0.0.0.0"  # noqa: S104
        request = ServeRequest(inside, job.cell.served_name, listens, chosen, job.cell.cell.stack, inside=True)
    command = job.engine.command(request, job.engine_settings)
    if request.inside:
        # The image's healthcheck asks at the port that the card prints.
        command = command._replace(environment={**command.environment, "FLAGRELEASE_PORT": str(chosen)})
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    spec = ServerSpec(
        cell=job.cell.id,
        command=command,
        served_name=job.cell.served_name,
        host=address,
        port=chosen,
        log_path=host.work_path / "logs" / f"{job.cell.id}-{job.engine.name}-{stamp}.log",
        ready_timeout_s=job.limits.ready_timeout_s,
    )
    # An image may have been built for another engine that reads the same weights.
    version = _engine_version(job, image)
    where = f" in {image.reference}" if image else ""
    log(f"serve: {job.engine.display} {version} is loading {job.cell.model.display}{where}")
    return launcher.start(spec, log)


def _container(cell: ResolvedCell, container: Container, image: CellImage, path: Path, inside: Path) -> ContainerSpec:
    """The cell's container as its card starts it, of just this image, with the model where the card puts it."""
    spec = cell_container(container, cell.chip)
    mounts = list(spec.mounts)
    if host_path(spec, str(inside)) != path:
        # The card's reader has the model in the folder itself; here it may lie elsewhere.
        mounts = [mount for mount in mounts if mount.target.rstrip("/") != cell.model_folder]
        try:
            mounts.append(Mount(source=str(path), target=str(inside), modes=("ro",)))
        except ValidationError as error:
            raise PreflightError(
                f"{path} cannot be mounted into a container: no mount may hold a colon or a control character",
                remedy="set FLAGRELEASE_HOME to a folder without one",
            ) from error
    return spec.model_copy(update={"image": image.reference, "mounts": tuple(mounts)})


def typed_lines(job: Job) -> list[str]:
    """What a person types to serve the cell's model: in its container, or on a host that has the engine."""
    request = ServeRequest(
        path_inside(job),
        job.cell.served_name,
        "0.0.0.0",  # noqa: S104 - the card's reader asks from elsewhere
        job.cell.cell.port,
        job.cell.cell.stack,
        inside=True,
    )
    command = job.engine.command(request, job.engine_settings)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in command.environment.items()]
    lines = [*exports, *command.lines]
    for line in lines:
        if line != printable(line):
            raise MatrixError(
                f"{job.cell.id}: the command that serves it holds what no card can print: {line!r}",
                remedy="take it out of served_name or of the engine's settings (matrix.yaml)",
            )
    return lines


def endpoint_of(job: Job, server: Server) -> Endpoint:
    """The served model, as harnesses see it."""
    return Endpoint(
        server.base_url,
        job.cell.served_name,
        job.limits.concurrency,
        lambda: None if server.alive() else server.exit_reason(),
    )


def measure(
    job: Job,
    server: Server,
    *,
    image: CellImage | None,
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
        provenance(job, found, image),
        tasks=work / "tasks",
        journals=journals,
        progress=progress,
        log=log,
        repeats=repeats,
        stop=stop,
    )


def measure_speed(job: Job, server: Server, policy: SpeedPolicy, work: Path, log: Log) -> Speed:
    """Throughput and latency of the served model.

    Raises PreflightError where this host has no load generator, or the engine does not stream.
    """
    if "stream" not in job.engine.capabilities:
        raise PreflightError(f"{job.engine.display} does not stream", remedy="measure speed through another engine")
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
