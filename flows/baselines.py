"""Measuring a baseline: the reference is served and asked twice, so that its noise is known. No Prefect in here.

What is finished is kept in a folder of this host until the baseline is stored, so a run that was killed goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from evaluation import baseline as baselines
from evaluation import canary as canaries
from evaluation.canary_probes import possible
from flagrelease.errors import FlagReleaseError, MatrixError, OutputError, PreflightError, UnknownNameError
from flagrelease.loading import load_matrix
from flagrelease.records import CanaryPrompt, CellImage, Evaluation, Record, digest
from flagrelease.settings import Settings
from flagrelease.store.database import check_writable
from flagrelease.yaml_file import suggest
from flows import serving
from flows.job import OUTPUT_MIB, Job, make_job, measured_inputs, preflight
from flows.locks import alone, devices
from flows.session import open_store
from runtime.launch.interface import Log, Server
from runtime.preflight import check_host

RecordT = TypeVar("RecordT", bound=BaseModel)


class FirstPass(Record):
    """What the first of the two passes left."""

    evaluation: Evaluation
    texts: list[CanaryPrompt] | None


@dataclass(frozen=True, kw_only=True)
class BaselineRun:
    """A baseline that is being measured."""

    job: Job
    again: Job
    """The same system, with what may differ in the A/A pass."""
    repeats: Mapping[str, int]
    """How often each question of a benchmark is asked."""
    host: Settings
    image: CellImage | None
    """That the server runs in; none: it is a process of this host."""
    folder: Path
    """What is finished so far."""
    output: Path | None
    log: Log

    @property
    def how(self) -> str:
        """What differs between the two passes, for people."""
        changed = [f"{name}={value}" for name, value in self.job.cell.model.reference.again.items()]
        return f"served again with {', '.join(changed)}" if changed else "served again, nothing changed"


def reference_job(name: str, engine: str | None, host: Settings, *, revision: str | None = None) -> Job:
    """How the reference is served: of a cell as it says; of a model through its only cell that this host can serve.

    `revision`: another one of the weights than the matrix's.

    Raises UnknownNameError; PreflightError with all cells where not exactly one can be served; and as `make_job`.
    """
    matrix = load_matrix(host.matrix_path)
    if name in matrix.cell_ids():
        return make_job(name, engine, host, revision=revision)
    if name not in matrix.models:
        known = [*matrix.models, *matrix.cell_ids()]
        raise UnknownNameError(f"there is no model or cell `{name}`", remedy=suggest(name, known))
    possible_here, lines = [], []
    for cell in (cell.id for cell in matrix.cells if cell.model == name):
        try:
            job = make_job(cell, engine, host, revision=revision)
            check_host(job.cell, job.engine.name)
        except FlagReleaseError as error:
            lines.append(f"\n  - {cell}: {' '.join(error.message.split())}")
        else:
            possible_here.append(job)
            lines.append(f"\n  - {cell}: can be served")
    if len(possible_here) != 1:
        found = f"{len(possible_here)} of the cells" if possible_here else "none of the cells"
        raise PreflightError(
            f"{found} of {name} can be served on this host:{''.join(lines)}",
            remedy="name the cell: flagrelease baseline run <cell>" if possible_here else "run it on the reference",
        )
    return possible_here[0]


def check(job: Job, host: Settings, output: Path | None) -> None:
    """Check that this machine has what the run needs; raises the error that names it."""
    preflight(job, host)
    _again(job, host)
    if output is not None:
        check_writable(output, OUTPUT_MIB, OutputError)


@contextmanager
def open_run(
    job: Job, host: Settings, log: Log, *, repeats: int | None = None, output: Path | None = None
) -> Iterator[BaselineRun]:
    """Begin or resume measuring; `repeats` instead of each benchmark's own, `output` as in `keep`."""
    again, policy = _again(job, host), job.cell.policy
    asked = {benchmark.key: repeats or benchmark.repeats for benchmark in job.benchmarks}
    # What is kept belongs to exactly these weights, this engine, these questions and texts.
    thresholds = policy.thresholds()
    tiers = [thresholds["canary"], thresholds["speed"]]
    name = f"baseline-{digest([measured_inputs(job), again.engine_settings, asked, tiers])[:16]}"
    with alone(host.work_path / "locks" / f"{name}.lock", f"measuring this baseline of {job.cell.cell.model}"):
        yield BaselineRun(
            job=job,
            again=again,
            repeats=asked,
            host=host,
            image=serving.provided_image(job, host, log, send=False).image if job.cell.container else None,
            folder=host.work_path / "answers" / name,
            output=output,
            log=log,
        )


def measure_baseline(
    job: Job, host: Settings, log: Log, *, repeats: int | None = None, output: Path | None = None
) -> str:
    """Measure a baseline and keep it; returns its id. Goes on where a run that was killed stopped."""
    with open_run(job, host, log, repeats=repeats, output=output) as run:
        return keep(run, second_pass(run, first_pass(run)))


def first_pass(run: BaselineRun) -> FirstPass:
    """Serve the reference; ask its benchmarks, let it write the canary's texts, measure its speed."""

    def work() -> FirstPass:
        with _served(run, run.job) as server:
            with _devices(run, "first pass"):
                evaluation = _ask(run, run.job, server, "first")
                texts = _canary_texts(run, server)
            policy = run.job.cell.policy.speed
            speed = None
            if policy is not None:
                try:
                    with _devices(run, "speed", exclusive=True):
                        speed = serving.measure_speed(run.job, server, policy, run.host.work_path, run.log)
                except PreflightError as error:
                    run.log(f"speed: not measured: {error.message}")
        return FirstPass(evaluation=evaluation.model_copy(update={"speed": speed}), texts=texts)

    return _once(run.folder / "first.json", FirstPass, work, lambda: run.log("first pass: kept from an earlier run"))


def second_pass(run: BaselineRun, first: FirstPass) -> Evaluation:
    """Serve the reference once more and ask the same again: the whole baseline, with its noise floors."""

    def work() -> Evaluation:
        run.log(f"A/A: the same questions again, {run.how}")
        with _served(run, run.again) as server, _devices(run, "A/A pass"):
            again = _ask(run, run.again, server, "again")
            canary = None
            if first.texts is not None:
                canary = canaries.make_reference(
                    first.texts,
                    serving.endpoint_of(run.again, server),
                    run.again.engine.capabilities,
                    run.how,
                    run.log,
                )
        floors = baselines.noise_floors(first.evaluation, again, run.how)
        return first.evaluation.model_copy(update={"floors": floors, "canary": canary})

    return _once(run.folder / "whole.json", Evaluation, work, lambda: run.log("A/A pass: kept from an earlier run"))


def keep(run: BaselineRun, evaluation: Evaluation) -> str:
    """Store the baseline, and write its files below `output` if there is one; returns its id."""
    with closing(open_store(run.host)) as store:
        identifier = baselines.keep(evaluation, store, run.output)
    shutil.rmtree(run.folder, ignore_errors=True)
    return identifier


def _again(job: Job, host: Settings) -> Job:
    """The job with what changes in the A/A pass; raises MatrixError where the engine does not know it."""
    model, changed = job.cell.cell.model, job.cell.model.reference.again
    settings = {**job.engine_settings, **changed}
    try:
        job.engine.settings(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MatrixError(
            f"{host.matrix_path}: models.{model}.reference.again: {job.engine.name} does not take it: "
            f"{where}: {first['msg']}",
            remedy=f"name settings of the engine that the baseline is measured with; those of {job.engine.name} are: "
            f"{', '.join(type(job.engine.settings({})).model_fields)}",
        ) from error
    return replace(job, engine_settings=settings)


def _devices(run: BaselineRun, what: str, *, exclusive: bool = False) -> AbstractContextManager[None]:
    return devices(run.host.work_path / "locks", run.job.cell.chip.key, what, run.log, exclusive=exclusive)


@contextmanager
def _served(run: BaselineRun, job: Job) -> Iterator[Server]:
    with serving.start_server(job, run.host, run.log, image=run.image) as server:
        run.log(f"serve: ready after {server.ready_after_s:.0f} s")
        yield server


def _ask(run: BaselineRun, job: Job, server: Server, journals: str) -> Evaluation:
    return serving.measure(
        job,
        server,
        image=run.image,
        work=run.host.work_path,
        journals=run.folder / journals,
        progress=serving.SaidProgress(run.log),
        log=run.log,
        repeats=run.repeats,
    )


def _canary_texts(run: BaselineRun, server: Server) -> list[CanaryPrompt] | None:
    """The canary's texts as the reference writes them; none where it is not in the policy or cannot be measured."""
    policy, capabilities = run.job.cell.policy.canary, run.job.engine.capabilities
    if policy is None:
        return None
    if not possible(capabilities):
        run.log(f"canary: not measured, {run.job.engine.display} gives no log-probabilities")
        return None
    return canaries.write(serving.endpoint_of(run.job, server), capabilities, policy, run.log)


def _once(path: Path, kind: type[RecordT], work: Callable[[], RecordT], kept: Callable[[], None]) -> RecordT:
    """What the file holds (then `kept` is called), else what `work` gives, which is kept there."""
    if path.exists():
        kept()
        return kind.model_validate_json(path.read_bytes())
    found = work()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    aside.write_text(found.model_dump_json(), encoding="utf-8")
    aside.replace(path)
    return found
