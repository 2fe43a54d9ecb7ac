"""The flow `release`: one cell, one task a stage. What a stage does stands in `flows.stages`."""

from __future__ import annotations

import time
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flagrelease.entry import Revision
from flagrelease.errors import ApprovalNeededError, StoreLostError
from flagrelease.pipeline import StageOutput
from flagrelease.records import Stage
from flagrelease.settings import Settings, settings
from flagrelease.verdicts import GateResult
from flows import approval, artifacts, serving, stages, tiers
from flows.job import Job, make_job, preflight
from flows.own_baseline import require_own_baseline
from flows.session import Session, open_session, open_store
from flows.stage_tasks import StageTasks
from flows.tasks import as_task
from runtime.launch.interface import Log, Server

LOST_TRIES, LOST_PAUSE_S = 3, 30.0
"""A database that is away between two stages."""


def run_name() -> str:
    """What a run of the flow is called: its cell, and what it was asked that is not the usual."""
    asked = flow_run.parameters
    said = [
        f"{name} {asked[name]}" for name in ("engine", "revision", "suite", "repeats") if asked.get(name) is not None
    ]
    said += ["not published"] if asked.get("publish") is False else []
    said += ["forced"] if asked.get("force") else []
    return f"release {asked['cell']}" + (f" ({', '.join(said)})" if said else "")


@flow(name="release", flow_run_name=run_name, persist_result=False)
def release(
    cell: Annotated[str, Field(description="the cell's id, for example qwen3-metax")],
    *,
    engine: Annotated[str | None, Field(description="serve with this engine, not the cell's own")] = None,
    revision: Annotated[
        Revision | None, Field(description="commit, tag or branch of the weights' repository, not the matrix's own")
    ] = None,
    suite: Annotated[str | None, Field(description="ask this suite of the matrix, not the model's own")] = None,
    repeats: Annotated[int | None, Field(ge=1, description="of each question, instead of each benchmark's own")] = None,
    publish: Annotated[bool, Field(description="whether what the gate lets out is published")] = True,
    force: Annotated[bool, Field(description="run every stage again, also where its result is there")] = False,
) -> int:
    """Release one cell: build, serve, evaluate, decide, card, publish. Returns the release's number.

    Finished stages are reused; a run that was killed goes on where it stopped, a forced one too.
    """
    logger, host = get_run_logger(), settings()
    try:
        with artifacts.shown(cell, host) as shown:
            salt = str(flow_run.id) if force else None
            job = make_job(
                cell, engine, host, revision=revision, suite=suite, repeats=repeats, publish=publish, salt=salt
            )
            as_task("preflight", lambda: _preflight(job, host))
            for _ in range(LOST_TRIES):
                try:
                    return _release(job, shown, logger.info)
                except StoreLostError as error:
                    # Between two stages no task tries again. What was finished is reused.
                    logger.warning(f"the database is away, going on in {LOST_PAUSE_S:.0f} s: {error.message}")
                    time.sleep(LOST_PAUSE_S)
            return _release(job, shown, logger.info)
    except ApprovalNeededError as error:
        # Not sooner: the release is noted as waiting, and its locks are given back.
        approval.suspend(error)
        raise


def _release(job: Job, shown: artifacts.Shown, log: Log) -> int:
    """The release of the job from its first unfinished stage on; returns its number."""
    cell = job.cell.id
    with open_session(job, log) as session, StageTasks(session) as tasks:
        shown.session = session
        log(f"release {session.release} of {cell} through {job.engine.display}")
        for stage, reason in session.reasons.items():
            log(f"plan: {stage}: {reason}")
        tasks.run(Stage.BUILD, lambda: stages.build(session), lambda: stages.image_is_there(session))
        evaluation, found = _measure(session, tasks)
        tasks.stop_server()
        decided = tasks.run(Stage.DECIDE, lambda: stages.decide(session, evaluation, found))
        verdict = GateResult.model_validate(decided["verdict"])
        session.store.record_verdict(session.release, verdict, evaluation)
        log(f"decide: {verdict.verdict}: {verdict.reasons[0]}")
        artifacts.verdict(cell, verdict)
        tasks.run(Stage.CARD, lambda: stages.card(session))
        artifacts.card(cell, stages.write(session).read_text(encoding="utf-8"))
        approval.hold(session, verdict)
        tasks.run(Stage.PUBLISH, lambda: stages.publish(session, verdict), session.published)
    return session.release


def _preflight(job: Job, host: Settings) -> None:
    """As `flows.job.preflight`; and a database that is being restarted is waited for, by another try."""
    preflight(job, host)
    open_store(host).close()
    require_own_baseline(job, host)


def _measure(session: Session, tasks: StageTasks) -> tuple[int, stages.Tiers]:
    """Id of the evaluation that is judged, and what the tiers beside it found."""
    if session.run.finished(Stage.EVALUATE) is None:
        tiers.warn_of_power(session)
        tiers.warn_of_known_issues(session)
    if tiers.why_no_canary(session) is None:
        canary = tasks.ask(Stage.CANARY, lambda server: tiers.canary(session, server))
    else:
        canary = tasks.run(Stage.CANARY, lambda: tiers.canary(session, None))
    found = tiers.canary_of(canary)
    if found is not None and not found.passed:
        # The stages after it have nothing to add: a model this far off is not worth a benchmark.
        return stages.nothing_asked(session), stages.Tiers(found, [], [])
    said = serving.SaidProgress(session.log)
    progress = artifacts.ShownProgress(session.job.cell.id, session.job.benchmarks, said)

    def evaluate(server: Server) -> StageOutput:
        with progress.shown(Stage.EVALUATE):
            return stages.evaluate_served(session, server, progress)

    evaluated = tasks.ask(Stage.EVALUATE, evaluate)
    evaluation = int(evaluated["evaluation"])
    if tiers.more_is_wanted(session, evaluation):
        escalated = tasks.ask(Stage.ESCALATE, lambda server: tiers.escalate(session, evaluation, server, said))
    else:
        escalated = tasks.run(Stage.ESCALATE, lambda: tiers.escalate(session, evaluation, None, said))
    stages.forget_answers(session)
    if tiers.why_no_speed(session) is None:
        speed = tasks.ask(Stage.SPEED, lambda server: tiers.speed(session, server))
    else:
        speed = tasks.run(Stage.SPEED, lambda: tiers.speed(session, None))
    judged = int(escalated["evaluation"])
    return judged, tiers.found(session, judged, canary, speed)
