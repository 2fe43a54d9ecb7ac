"""The stages of a release as plain functions; `flows.release` wraps each in a Prefect task."""

from __future__ import annotations

import shutil
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from evaluation import baseline as baselines
from evaluation.catalogue import load_benchmarks
from evaluation.gate import decide as decide_by_gate
from evaluation.harness.interface import Endpoint, Progress
from evaluation.run import aggregate, evaluate, items_to_jsonl
from flagrelease.card.build import card_data, release_snapshot
from flagrelease.card.render import render
from flagrelease.errors import OutputError
from flagrelease.pipeline import StageOutput
from flagrelease.records import Evaluation, GateResult, Stage, Verdict, digest
from flagrelease.store import Store, StoredEvaluation
from flows.session import Job, Log, Session, provenance, required_baseline
from runtime import weights
from runtime.engines.interface import ServeRequest
from runtime.launch.interface import ServerSpec
from runtime.launch.process import ProcessLauncher, ProcessServer, free_port

HOST = "127.0.0.1"
PUBLISHED = (Verdict.CONSISTENT, Verdict.INCONCLUSIVE)
PROGRESS_EVERY_S = 5.0


def build(session: Session) -> StageOutput:
    """Check the weights and bring them into the engine's format."""
    found = weights.check(session.job.cell.model)
    form = session.job.engine.weights_format(session.job.engine_settings)
    session.log(f"build: weights {found.sha256[:12]}… as {form}")
    model_path(session.job, found, session.host.work_path)
    return StageOutput({"weights_sha256": found.sha256, "chat_template_sha256": weights.chat_template_sha256(found)})


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


def measure(job: Job, server: ProcessServer, *, work: Path, journals: Path, progress: Progress, log: Log) -> Evaluation:
    """Ask the served model the job's benchmarks."""
    found = weights.check(job.cell.model)
    endpoint = Endpoint(
        server.base_url,
        job.cell.served_name,
        job.limits.concurrency,
        lambda: None if server.alive() else server.exit_reason(),
    )
    return evaluate(
        job.benchmarks,
        endpoint,
        provenance(
            job,
            weights_sha256=found.sha256,
            chat_template_sha256=weights.chat_template_sha256(found),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        tasks=work / "tasks",
        journals=journals,
        progress=progress,
        log=log,
    )


def evaluate_served(session: Session, server: ProcessServer, progress: Progress) -> StageOutput:
    """Evaluate the served model; items, versions and the server's log are kept as evidence."""
    key = session.run.key(Stage.EVALUATE)
    journals = _journals(session)
    evaluation = measure(
        session.job, server, work=session.host.work_path, journals=journals, progress=progress, log=session.log
    )
    identifier = session.store.add_evaluation(evaluation, aggregate(evaluation), key=key, role="candidate")
    # What is kept as evidence is what is stored: an interrupted run may have stored its answers already.
    evaluation = session.store.evaluation(session.store.known_evaluation(evaluation=identifier))
    about = evaluation.model_dump_json(exclude={"items"}, indent=1)
    artefacts = [
        session.evidence.put("items", "items.jsonl", items_to_jsonl(evaluation.items)),
        session.evidence.put("provenance", "evaluation.json", about.encode()),
        session.evidence.put("server_log", "server.log", server.log_path.read_bytes()),
    ]
    return StageOutput({"evaluation": identifier}, artefacts)


def forget_answers(session: Session) -> None:
    """Remove the answers-so-far of a stored evaluation."""
    shutil.rmtree(_journals(session), ignore_errors=True)


def _journals(session: Session) -> Path:
    return session.host.work_path / "answers" / session.run.key(Stage.EVALUATE)[:16]


def stored_baseline(store: Store, identifier: str) -> StoredEvaluation:
    """The baseline in the store; brought in from its files where it is not there yet."""
    if store.evaluation_summary(baseline_id=identifier) is None:
        evaluation = baselines.load(identifier)
        key = digest(["baseline", identifier])
        store.add_evaluation(evaluation, aggregate(evaluation), key=key, role="baseline", baseline_id=identifier)
    return store.known_evaluation(baseline_id=identifier)


def decide(session: Session, evaluation: int) -> StageOutput:
    """Compare candidate and baseline item by item."""
    job, store = session.job, session.store
    identifier = required_baseline(job.cell)
    baseline = store.evaluation(stored_baseline(store, identifier))
    result = decide_by_gate(
        store.evaluation(store.known_evaluation(evaluation=evaluation)),
        baseline,
        baseline_id=identifier,
        policy=job.cell.policy,
        suite=job.cell.model.suite,
        displays={benchmark.key: benchmark.display for benchmark in load_benchmarks().values()},
        not_run={left_out.benchmark for left_out in job.not_run},
    )
    kept = session.evidence.put("verdict", "verdict.json", result.model_dump_json(indent=1).encode())
    return StageOutput({"verdict": result.model_dump(mode="json"), "evaluation": evaluation}, [kept])


def card(session: Session) -> StageOutput:
    """Render the card from the store."""
    text = render(card_data(session.store, session.release))
    kept = session.evidence.put("card", "README.md", text.encode())
    return StageOutput({"sha256": kept.sha256}, [kept])


def write_card(store: Store, release: int, output: Path) -> Path:
    """Render the release's card from the store and write it for people; the same bytes whenever it is called."""
    path = output / release_snapshot(store, release).cell.id / "README.md"
    text = render(card_data(store, release))
    aside = path.with_name(f".{path.name}.{time.monotonic_ns()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write the card {path}: {error.strerror}",
            remedy="free space or set FLAGRELEASE_OUTPUT to a folder that can be written; then: "
            f"flagrelease card render {release}",
        ) from error
    return path


def publish(session: Session, verdict: GateResult) -> StageOutput:
    """Publish card and evidence; a release that the gate does not let out is kept in the store only."""
    if verdict.verdict not in PUBLISHED:
        session.log(f"publish: not published, the verdict is {verdict.verdict}")
        return StageOutput({"published": False})
    store, release = session.store, session.release
    data = card_data(store, release)
    files = {"README.md": render(data).encode()}
    for artefact in data.evidence:
        files[f"evidence/{artefact.name}"] = session.evidence.read(artefact.sha256)
    publication = session.publisher.publish(files, session.job.target)
    store.record_publication(release, publication)
    return StageOutput({"published": True, "revision": publication.revision})


class SaidProgress:
    """Says how far an evaluation is, at most every few seconds: answered, rate, time left."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._benchmark = ""
        self._start = self._said = 0.0
        self._first = 0

    def __call__(self, benchmark: str, answered: int, total: int) -> None:
        """Take note of an answer."""
        now = time.monotonic()
        if benchmark != self._benchmark:
            self._benchmark, self._start, self._first = benchmark, now, answered - 1
            self._said = now
            if answered > 1:
                self._log(f"evaluate: {benchmark}: {answered} answers kept from an earlier run")
        done = answered == total
        if now - self._said < PROGRESS_EVERY_S and not done:
            return
        self._said = now
        if now == self._start:
            return
        rate = (answered - self._first) / (now - self._start)
        if total:
            left = (total - answered) / rate
            self._log(f"evaluate: {benchmark} {answered}/{total}, {rate:.1f}/s, {left:.0f} s left")
        else:
            self._log(f"evaluate: {benchmark} {answered} answers, {rate:.1f}/s")
