"""One release of one cell, put together: matrix → plan → store. Knows nothing of Prefect."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evaluation.catalogue import Benchmark, fingerprint, judging, load_benchmarks, missing, require_questions, select
from evaluation.run import HARNESSES
from flagrelease import __version__
from flagrelease.card.build import Snapshot
from flagrelease.card.data import NotRun
from flagrelease.card.names import card_names
from flagrelease.card.render import template_sha256
from flagrelease.errors import BaselineError, MatrixError, OutputError, PreflightError, PublishError, StoreError
from flagrelease.evidence import EvidenceFolder
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.matrix import ResolvedCell
from flagrelease.pipeline import Plan, ReleaseRun, plan
from flagrelease.publish.folder import FolderPublisher
from flagrelease.records import Provenance, Stage, digest
from flagrelease.settings import Settings, settings
from flagrelease.store import Store
from flagrelease.store.database import check_writable
from flows.locks import alone
from runtime import weights
from runtime.engines import ENGINES
from runtime.engines import engine as engine_named
from runtime.engines.interface import Engine, EngineSettings
from runtime.preflight import check_host

HOME_MIB = 50
OUTPUT_MIB = 5
Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be released, and how: decided before anything is started or written."""

    cell: ResolvedCell
    engine: Engine
    engine_settings: dict[str, Any]
    benchmarks: list[Benchmark]
    not_run: list[NotRun]

    @property
    def limits(self) -> EngineSettings:
        """The engine's settings, validated."""
        return self.engine.settings(self.engine_settings)

    @property
    def may_stop_early(self) -> bool:
        """Whether a benchmark is large enough to be stopped when it is decided."""
        rule = self.cell.policy.early_stop
        return rule is not None and any((b.items or 0) >= rule.from_items for b in self.benchmarks)

    @property
    def harnesses(self) -> list[str]:
        """Names of the harnesses that ask."""
        return sorted({benchmark.harness for benchmark in self.benchmarks if benchmark.harness})

    @property
    def target(self) -> str:
        """Repository that the release is published to."""
        return card_names(self.cell).repository


def make_job(cell_id: str, engine_name: str | None, host: Settings) -> Job:
    """Read the matrix and say what a release of the cell is; writes nothing.

    Raises MatrixError, UnknownNameError, PreflightError.
    """
    cell = resolve(load_matrix(host.matrix_path), load_chips(), cell_id)
    name = engine_name or cell.cell.engine
    raw = dict(cell.engine_settings(name))
    if cell.cell.launcher == "container":
        # Says what this machine lacks for such a cell; a container cell does not get further yet.
        check_host(cell, name)
    engine = engine_named(name)
    if name not in cell.cell.engines:
        raise PreflightError(
            f"{cell_id} has no settings for the engine {name}",
            remedy=f"add `engines: {{{name}: {{…}}}}` to the cell in {host.matrix_path}",
        )
    try:
        engine.settings(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MatrixError(
            f"{host.matrix_path}: {cell_id}: engines.{name}.{where}: {first['msg']}",
            remedy=f"its settings are: {', '.join(type(engine.settings({})).model_fields)}",
        ) from error
    run, not_run = [], []
    for benchmark in select(load_benchmarks(), cell.suite):
        reason = missing(benchmark, engine.capabilities, engine.display)
        if reason is None:
            run.append(benchmark)
        else:
            not_run.append(NotRun(benchmark=benchmark.key, display=benchmark.display, reason=reason))
    if not run:
        raise PreflightError(
            f"none of the benchmarks of {cell_id} can be run through {engine.display}",
            remedy="see why: flagrelease benchmarks; give the model another suite or engine",
        )
    return Job(cell=cell, engine=engine, engine_settings=raw, benchmarks=run, not_run=not_run)


def preflight(job: Job, host: Settings) -> None:
    """Check that this machine has what the job needs; raises the error that names it."""
    check_host(job.cell, job.engine.name)
    for benchmark in job.benchmarks:
        require_questions(benchmark)
    EvidenceFolder(host.evidence_url)
    check_writable(host.home_path, HOME_MIB, StoreError)
    check_writable(host.output_path, OUTPUT_MIB, OutputError)


def served_inputs(job: Job) -> dict[str, Any]:
    """What decides how the model is served."""
    return {
        "cell": job.cell.id,
        "stack": job.cell.cell.stack,
        "engine": job.engine.name,
        "engine_version": job.engine.version(),
        "engine_settings": job.engine_settings,
    }


def measured_inputs(job: Job) -> dict[Stage, dict[str, Any]]:
    """What decides the answers of the job: weights in the form that is served, engine, harness, questions."""
    packaged = job.cell.model.weights
    form = job.engine.weights_format(job.engine_settings)
    return {
        Stage.BUILD: {
            "weights": packaged.sha256 if packaged else None,
            "format": form,
            "converter": weights.converter_version(form),
        },
        Stage.EVALUATE: {
            **served_inputs(job),
            "harnesses": {name: HARNESSES[name].version() for name in job.harnesses},
            "benchmarks": [fingerprint(benchmark) for benchmark in job.benchmarks],
        },
    }


def make_plan(job: Job) -> Plan:
    """Inputs and keys of every stage of the job."""
    cell, policy = job.cell, job.cell.policy.thresholds()
    served, measured, baseline = served_inputs(job), measured_inputs(job), required_baseline(cell)
    judged = {"baseline": baseline, "policy": policy, "benchmarks": [judging(b) for b in job.benchmarks]}
    if job.may_stop_early:
        # Where an evaluation ends depends on what it is compared with.
        measured[Stage.EVALUATE]["early_stop"] = judged
    return plan(
        {
            **measured,
            Stage.CANARY: {**served, "baseline": baseline, "canary": policy["canary"]},
            Stage.ESCALATE: judged,
            Stage.SPEED: {
                **served,
                "baseline": baseline,
                "speed": policy["speed"],
                "load_generator": _load_generator() if policy["speed"] else None,
            },
            Stage.DECIDE: {**judged, "overrides": cell.overrides},
            Stage.CARD: {"template": template_sha256(), "facts": digest(cell.model_dump(mode="json"))},
            Stage.PUBLISH: {"publisher": FolderPublisher.name, "target": job.target},
        }
    )


def _load_generator() -> str | None:
    """Version of what puts load on a server; none where this host lacks it, so that getting it is noticed."""
    try:
        return ENGINES["vllm"].version()
    except PreflightError:
        return None


def required_baseline(cell: ResolvedCell) -> str:
    """Id of the baseline that the cell's model is compared with; raises BaselineError where it has none."""
    baseline = cell.model.reference.baseline
    if baseline is None:
        raise BaselineError(
            f"{cell.cell.model} has no baseline to compare with",
            remedy=f"measure one on the reference ({cell.model.reference.description}): "
            f"flagrelease baseline run {cell.id}, then name it in matrix.yaml as reference.baseline",
        )
    return baseline


def provenance(
    job: Job, *, weights_sha256: str, chat_template_sha256: str, tokenizer_sha256: str, created: str
) -> Provenance:
    """Where an evaluation of this job comes from."""
    return Provenance(
        model=job.cell.cell.model,
        chip=job.cell.cell.chip,
        stack=job.cell.cell.stack,
        engine=job.engine.name,
        engine_version=job.engine.version(),
        engine_settings=job.engine_settings,
        weights_sha256=weights_sha256,
        chat_template_sha256=chat_template_sha256,
        tokenizer_sha256=tokenizer_sha256,
        harnesses={name: HARNESSES[name].version() for name in job.harnesses},
        platform=f"{_processor()}, {platform.system()} {platform.release()}",
        code_version=__version__,
        created=created,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} threads)" if names else platform.machine()


@dataclass(frozen=True, kw_only=True)
class Session:
    """A release under way."""

    job: Job
    host: Settings
    store: Store
    evidence: EvidenceFolder
    publisher: FolderPublisher
    run: ReleaseRun
    log: Log

    @property
    def release(self) -> int:
        """Id of the release."""
        return self.run.release

    def published(self) -> bool:
        """Whether what the stage `publish` did still stands."""
        key = self.run.key(Stage.PUBLISH)
        return still_published(self.store, self.publisher, key, self.release, self.job.target)


def still_published(store: Store, publisher: FolderPublisher, key: str, release: int, target: str) -> bool:
    """Whether what the stage `publish` with this key did for a release still stands."""
    done = store.finished_stage(Stage.PUBLISH, key)
    return done is not None and (not done.output["published"] or publication_stands(store, publisher, release, target))


def publication_stands(store: Store, publisher: FolderPublisher, release: int, target: str) -> bool:
    """Whether the target holds what this release, or a newer one, published there."""
    try:
        current = publisher.current(target)
    except PublishError:
        # Somebody changed what is there; publishing again puts it right.
        return False
    return current is not None and store.newest_publisher_of(current.target, current.revision) >= release


def open_store(host: Settings) -> Store:
    """The store of this host."""
    return Store.open(host.store_url)


def publisher_of(host: Settings) -> FolderPublisher:
    """Where releases are published: a folder that looks like a hub."""
    return FolderPublisher(host.output_path / "hub")


@contextmanager
def open_session(job: Job, log: Log) -> Iterator[Session]:
    """Begin or resume the release of the job; an exception inside is recorded as its failure."""
    host = settings()
    the_plan = make_plan(job)
    with (
        alone(host.work_path / "locks" / f"{job.cell.id}.lock", f"releasing {job.cell.id}"),
        closing(open_store(host)) as store,
    ):
        snapshot = Snapshot(
            cell=job.cell,
            engine=job.engine.name,
            engine_display=job.engine.display,
            displays={benchmark.key: benchmark.display for benchmark in job.benchmarks},
            not_run=job.not_run,
        )
        release = store.begin_release(
            cell=job.cell.id,
            key=the_plan.release_key,
            engine=job.engine.name,
            snapshot=snapshot.model_dump(mode="json"),
            code_version=__version__,
        )
        try:
            yield Session(
                job=job,
                host=host,
                store=store,
                evidence=EvidenceFolder(host.evidence_url),
                publisher=publisher_of(host),
                run=ReleaseRun(store, release, the_plan, log),
                log=log,
            )
        except BaseException as error:
            interrupted = not isinstance(error, Exception)
            store.finish_release(release, "interrupted" if interrupted else "failed", str(error) or None)
            raise
        store.finish_release(release, "completed")


def finished_release(job: Job, host: Settings) -> int | None:
    """Id of the completed release of exactly this job, if its publication stands; nothing is to be done then."""
    the_plan = make_plan(job)
    with closing(open_store(host)) as store:
        row = store.release_by_key(the_plan.release_key)
        if row is None or row.state != "completed":
            return None
        stands = still_published(store, publisher_of(host), the_plan.keys[Stage.PUBLISH], row.id, job.target)
        card = host.output_path / job.cell.id / "README.md"
        return row.id if stands and card.exists() else None
