"""The flow `release`: one cell, one task a stage. What a stage does stands in `flows.stages`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, Any, Self

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flagrelease.pipeline import StageOutput
from flagrelease.records import GateResult, Stage
from flagrelease.settings import settings
from flows import serving, stages, tiers
from flows.job import make_job, preflight
from flows.report import release_report, verdict_table
from flows.session import Session, open_session
from flows.tasks import as_task
from runtime.launch.interface import Server


@flow(name="release", flow_run_name="release {cell}", persist_result=False)
def release(
    cell: Annotated[str, Field(description="the cell's id, for example qwen3-metax")],
    engine: Annotated[str | None, Field(description="serve with this engine, not the cell's own")] = None,
) -> int:
    """Release one cell: build, serve, evaluate, decide, card, publish. Returns the release's number.

    Finished stages are reused; a run that was killed goes on where it stopped.
    """
    logger = get_run_logger()
    host = settings()
    job = make_job(cell, engine, host)
    as_task("preflight", lambda: preflight(job, host))
    with open_session(job, logger.info) as session, _Serving(session) as on_demand:
        logger.info(f"release {session.release} of {cell} through {job.engine.display}")
        as_task(
            "build",
            lambda: session.run.stage(
                Stage.BUILD, lambda: stages.build(session), lambda: stages.image_is_there(session)
            ),
        )
        evaluation, found = _measure(session, on_demand)
        on_demand.stop()
        decided = as_task(
            "decide",
            lambda: session.run.stage(Stage.DECIDE, lambda: stages.decide(session, evaluation, found)),
        )
        verdict = GateResult.model_validate(decided["verdict"])
        session.store.record_verdict(session.release, verdict, evaluation)
        logger.info(f"decide: {verdict.verdict}: {verdict.reasons[0]}")
        as_task("card", lambda: session.run.stage(Stage.CARD, lambda: stages.card(session)))
        card = stages.write(session)
        as_task(
            "publish",
            lambda: session.run.stage(Stage.PUBLISH, lambda: stages.publish(session, verdict), session.published),
        )
        create_markdown_artifact(verdict_table(verdict), key=f"verdict-{_key(cell)}", description=f"Verdict on {cell}")
        create_markdown_artifact(
            card.read_text(encoding="utf-8"), key=f"card-{_key(cell)}", description=f"Card of {cell}"
        )
    create_markdown_artifact(
        release_report(session.release, host), key=f"release-{_key(cell)}", description=f"Release of {cell}"
    )
    return session.release


class _Serving:
    """The cell's server: started when a stage first needs it, never where all results are reused."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._server: Server | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server, if it runs."""
        self._server = None
        self._stack.close()

    def for_stage(self, stage: Stage, *, wanted: bool = True) -> Server | None:
        """The server, started if need be; none where the stage's result is stored or nothing is wanted of it."""
        if not wanted or self._session.run.finished(stage) is not None:
            return None
        if self._server is None:
            session = self._session
            self._server = as_task(
                "serve",
                lambda: self._stack.enter_context(
                    serving.start_server(
                        session.job, session.host, session.log, image=stages.image(session), release=session.release
                    )
                ),
            )
            session.log(f"serve: ready after {self._server.ready_after_s:.0f} s")
        return self._server


def _measure(session: Session, on_demand: _Serving) -> tuple[int, stages.Tiers]:
    """Id of the evaluation that is judged, and what the tiers beside it found."""

    def stage(stage: Stage, work: Callable[[], StageOutput]) -> dict[str, Any]:
        return as_task(stage.value, lambda: session.run.stage(stage, work))

    if session.run.finished(Stage.EVALUATE) is None:
        tiers.warn_of_power(session)
    server = on_demand.for_stage(Stage.CANARY, wanted=tiers.why_no_canary(session) is None)
    canary = stage(Stage.CANARY, lambda: tiers.canary(session, server))
    found = tiers.canary_of(canary)
    if found is not None and not found.passed:
        # The stages after it have nothing to add: a model this far off is not worth a benchmark.
        return stages.nothing_asked(session), stages.Tiers(found, [], [])
    progress = serving.SaidProgress(session.log)
    server = on_demand.for_stage(Stage.EVALUATE)
    evaluated = stage(Stage.EVALUATE, lambda: stages.evaluate_served(session, _there(server), progress))
    evaluation = int(evaluated["evaluation"])
    server = on_demand.for_stage(Stage.ESCALATE, wanted=tiers.more_is_wanted(session, evaluation))
    escalated = stage(Stage.ESCALATE, lambda: tiers.escalate(session, evaluation, server, progress))
    stages.forget_answers(session)
    server = on_demand.for_stage(Stage.SPEED, wanted=tiers.why_no_speed(session) is None)
    speed = stage(Stage.SPEED, lambda: tiers.speed(session, server))
    judged = int(escalated["evaluation"])
    return judged, tiers.found(session, judged, canary, speed)


def _there(server: Server | None) -> Server:
    """The server that an unfinished stage has."""
    if server is None:
        msg = "a finished stage was run again"
        raise AssertionError(msg)
    return server


def _key(cell: str) -> str:
    """The cell's id as an artifact key: small letters, digits and dashes."""
    return "".join(character if character.isalnum() else "-" for character in cell.lower())
