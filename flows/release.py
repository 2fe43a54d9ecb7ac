"""The flow `release`: one cell, one task a stage. What a stage does stands in `flows.stages`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, TypeVar

from prefect import Task, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flagrelease.pipeline import StageOutput
from flagrelease.records import GateResult, Stage
from flagrelease.settings import settings
from flows import stages
from flows.report import release_report, verdict_table
from flows.session import Session, make_job, open_session, preflight

T = TypeVar("T")


def _as_task(name: str, work: Callable[[], T]) -> T:
    """Run `work` as a Prefect task; the store, not Prefect, remembers results."""
    return Task(work, name=name, cache_policy=NO_CACHE, persist_result=False)()


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
    _as_task("preflight", lambda: preflight(job, host))
    with open_session(job, logger.info) as session:
        logger.info(f"release {session.release} of {cell} through {job.engine.display}")
        _as_task("build", lambda: session.run.stage(Stage.BUILD, lambda: stages.build(session)))
        evaluation = _evaluate(session)
        decided = _as_task(
            "decide",
            lambda: session.run.stage(Stage.DECIDE, lambda: stages.decide(session, evaluation)),
        )
        verdict = GateResult.model_validate(decided["verdict"])
        session.store.record_verdict(session.release, verdict, evaluation)
        logger.info(f"decide: {verdict.verdict}: {verdict.reasons[0]}")
        _as_task("card", lambda: session.run.stage(Stage.CARD, lambda: stages.card(session)))
        card = stages.write_card(session.store, session.release, host.output_path)
        _as_task(
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


def _evaluate(session: Session) -> int:
    """Id of the evaluation: the stored one, or a new one of the model served here."""
    if session.run.finished(Stage.EVALUATE) is not None:
        # A stored evaluation needs no server.
        reused = session.run.stage(Stage.EVALUATE, _never)
        return int(reused["evaluation"])
    with ExitStack() as served:
        server = _as_task(
            "serve",
            lambda: served.enter_context(stages.start_server(session.job, session.host.work_path, session.log)),
        )
        session.log(f"serve: ready after {server.ready_after_s:.0f} s")
        measured = _as_task(
            "evaluate",
            lambda: session.run.stage(
                Stage.EVALUATE,
                lambda: stages.evaluate_served(session, server, stages.SaidProgress(session.log)),
            ),
        )
        stages.forget_answers(session)
        return int(measured["evaluation"])


def _never() -> StageOutput:
    msg = "a finished stage was run again"
    raise AssertionError(msg)


def _key(cell: str) -> str:
    """The cell's id as an artifact key: small letters, digits and dashes."""
    return "".join(character if character.isalnum() else "-" for character in cell.lower())
