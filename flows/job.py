"""What a release of a cell is, decided before anything is started or written: job, stage inputs, provenance."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evaluation.catalogue import Benchmark, fingerprint, judging, load_benchmarks, missing, require_questions, select
from evaluation.run import HARNESSES
from flagrelease import __version__
from flagrelease.card.data import NotRun
from flagrelease.card.names import card_names
from flagrelease.card.render import template_sha256
from flagrelease.errors import BaselineError, MatrixError, OutputError, PreflightError, StoreError
from flagrelease.evidence import EvidenceFolder
from flagrelease.loading import load_chips, load_known_issues, load_matrix, resolve
from flagrelease.matrix import ResolvedCell
from flagrelease.pipeline import Plan, plan
from flagrelease.provenance.keys import signing_key
from flagrelease.publication_policy import PublicationPolicy
from flagrelease.publish.folder import FolderPublisher
from flagrelease.records import CellImage, Provenance, Stack, Stage, digest
from flagrelease.settings import Settings
from flagrelease.store import Store, conformance
from flagrelease.store.database import check_writable
from flows.asked import with_revision, with_suite
from flows.plan_changes import no_facts
from runtime import weights
from runtime.engines import ENGINES
from runtime.engines import engine as engine_named
from runtime.engines.interface import Engine, EngineSettings
from runtime.image.provide import planned
from runtime.image.recipe import canonical
from runtime.preflight import check_host

FLAG_GEMS = "flag-gems"
"""FlagGems' canonical name as a package."""
HOME_MIB = 50
OUTPUT_MIB = 5


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be released, and how: decided before anything is started or written."""

    cell: ResolvedCell
    engine: Engine
    engine_settings: dict[str, Any]
    benchmarks: list[Benchmark]
    not_run: list[NotRun]
    image_inputs: dict[str, Any] | None
    """What decides the image that the server runs in; none: it is a process of this host."""
    revision: str | None = None
    """The weights' revision, where another one was asked for than the matrix's own."""
    publish: bool = True
    """Whether what the gate lets out is published."""
    hubs: Sequence[str] = ()
    """Names of the hubs that it is published to, beside the folder."""
    publication: PublicationPolicy = field(default_factory=PublicationPolicy)
    """What of it may go to the hubs. It decides no result: another policy is no other release."""
    salt: str | None = None
    """Where nothing is to be reused: which run it is that does everything anew."""

    @property
    def engine_version(self) -> str:
        """Version of the engine: the installed one, or the one that the matrix pins in the image."""
        if self.image_inputs is None:
            return self.engine.version()
        return self.pins.get(self.engine.package, "of the base image")

    def version_in(self, image: CellImage | None) -> str:
        """Version of the engine that serves: the one in the image, else `engine_version`."""
        return self.engine_version if image is None else image.versions[self.engine.package]

    @property
    def pins(self) -> dict[str, str]:
        """Versions that the matrix pins in the image, by the packages' canonical names; empty for a process."""
        pins = self.image_inputs["recipe"]["pins"] if self.image_inputs else []
        return {canonical(pin["package"]): str(pin["version"]) for pin in pins}

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


def make_job(
    cell_id: str,
    engine_name: str | None,
    host: Settings,
    *,
    revision: str | None = None,
    suite: str | None = None,
    repeats: int | None = None,
    publish: bool = True,
    salt: str | None = None,
) -> Job:
    """Read the matrix and say what a release of the cell is; writes nothing.

    `revision`: another one of the weights, which must be on this host; `suite`: another one of the matrix than the
    model's; `repeats`: instead of each benchmark's own; `salt`: nothing is reused but what was made with the same one.
    Raises MatrixError, UnknownNameError, PreflightError, WeightsError.
    """
    matrix = load_matrix(host.matrix_path)
    cell = resolve(matrix, load_chips(), cell_id)
    if suite is not None:
        cell = with_suite(matrix, cell, suite)
    other = None if revision == cell.model.source.revision else revision
    job = job_of(cell if other is None else with_revision(cell, other), engine_name, host)
    benchmarks = [one if repeats is None else one.model_copy(update={"repeats": repeats}) for one in job.benchmarks]
    publication = matrix.publication
    return replace(job, benchmarks=benchmarks, revision=other, publish=publish, publication=publication, salt=salt)


def job_of(
    cell: ResolvedCell, engine_name: str | None, host: Settings, benchmarks: dict[str, Benchmark] | None = None
) -> Job:
    """What a release of the cell is; writes nothing. Raises MatrixError, UnknownNameError, PreflightError."""
    name = engine_name or cell.cell.engine
    raw = dict(cell.engine_settings(name))
    engine = engine_named(name)
    if name not in cell.cell.engines and not (cell.container and name == cell.cell.engine):
        raise PreflightError(
            f"{cell.id} has no settings for the engine {name}",
            remedy=f"add `engines: {{{name}: {{…}}}}` to the cell in {host.matrix_path}",
        )
    try:
        engine.settings(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MatrixError(
            f"{host.matrix_path}: {cell.id}: engines.{name}.{where}: {first['msg']}",
            remedy=f"its settings are: {', '.join(type(engine.settings({})).model_fields)}",
        ) from error
    run, not_run = [], []
    for benchmark in select(load_benchmarks() if benchmarks is None else benchmarks, cell.suite):
        reason = missing(benchmark, engine.capabilities, engine.display)
        if reason is None:
            run.append(benchmark)
        else:
            not_run.append(NotRun(benchmark=benchmark.key, display=benchmark.display, reason=reason))
    if not run:
        raise PreflightError(
            f"none of the benchmarks of {cell.id} can be run through {engine.display}",
            remedy="see why: flagrelease benchmarks; give the model another suite or engine",
        )
    return Job(
        cell=cell,
        engine=engine,
        engine_settings=raw,
        benchmarks=run,
        not_run=not_run,
        image_inputs=planned(cell, host) if cell.container else None,
        hubs=host.hubs,
    )


def preflight(job: Job, host: Settings) -> None:
    """Check that this machine has what the job needs; raises the error that names it."""
    check_host(job.cell, job.engine.name)
    if job.cell.cell.stack is Stack.FLAGOS:
        # A mistake in a file of one's own is told before anything is built.
        load_known_issues()
    for benchmark in job.benchmarks:
        require_questions(benchmark)
    EvidenceFolder(host.evidence_url)
    # A key that cannot be used is told before hours of evaluation.
    signing_key(host.home_path)
    check_writable(host.home_path, HOME_MIB, StoreError)
    check_writable(host.output_path, OUTPUT_MIB, OutputError)


def served_inputs(job: Job) -> dict[str, Any]:
    """What decides how the model is served."""
    return {
        "cell": job.cell.id,
        "stack": job.cell.cell.stack,
        "engine": job.engine.name,
        "engine_version": job.engine_version,
        "engine_settings": job.engine_settings,
        **({"container": job.cell.container.options} if job.cell.container else {}),
    }


def measured_inputs(job: Job) -> dict[Stage, dict[str, Any]]:
    """What decides the answers of the job: weights in the form that is served, engine, harness, questions."""
    packaged, source = job.cell.model.weights, job.cell.model.source
    revision = [source.revision] if source.revision else []
    form = job.engine.weights_format(job.engine_settings)
    return {
        Stage.BUILD: {
            "weights": packaged.sha256 if packaged else [source.repository, source.sha256, *revision],
            "format": form,
            "converter": weights.converter_version(form),
            **({"image": job.image_inputs} if job.image_inputs else {}),
        },
        Stage.EVALUATE: {
            **served_inputs(job),
            "harnesses": {name: HARNESSES[name].version() for name in job.harnesses},
            "benchmarks": [fingerprint(benchmark) for benchmark in job.benchmarks],
        },
    }


def make_plan(job: Job, checked: Sequence[str] = ()) -> Plan:
    """Inputs and keys of every stage of the job; `checked`: the files that its card may name (`checked_files`)."""
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
            Stage.CARD: {
                "template": template_sha256(),
                "facts": digest(cell.model_dump(mode="json", exclude=no_facts())),
                **({"conformance": list(checked)} if checked else {}),
            },
            Stage.PUBLISH: {
                "publisher": FolderPublisher.name,
                "target": job.target,
                **({"hubs": sorted(job.hubs)} if job.hubs else {}),
                **({} if job.publish else {"publish": False}),
            },
        },
        job.salt,
    )


def checked_files(store: Store, job: Job) -> list[str]:
    """SHA-256 of the checks of FlagGems' operators that the job's card may name, on its chip in its model's sizes.

    Where the matrix does not pin FlagGems, of every version: which one the image has is not known before it is built.
    """
    cell = job.cell.cell
    if cell.stack is not Stack.FLAGOS:
        return []
    return conformance.files(store, job.cell.chip.key, job.pins.get(FLAG_GEMS), cell.model)


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


def provenance(job: Job, found: weights.Weights, image: CellImage | None) -> Provenance:
    """Where an evaluation of this job comes from: served in `image`, or by a process of this host."""
    return Provenance(
        model=job.cell.cell.model,
        chip=job.cell.cell.chip,
        stack=job.cell.cell.stack,
        engine=job.engine.name,
        engine_version=image.versions[job.engine.package] if image else job.engine.version(),
        engine_settings=job.engine_settings,
        weights_sha256=found.sha256,
        chat_template_sha256=weights.chat_template_sha256(found),
        tokenizer_sha256=weights.tokenizer_sha256(found),
        image_digest=(image.digest or image.id) if image else None,
        harnesses={name: HARNESSES[name].version() for name in job.harnesses},
        platform=f"{_processor()}, {platform.system()} {platform.release()}",
        code_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} threads)" if names else platform.machine()
