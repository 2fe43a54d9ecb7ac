"""The stages around the evaluation that need a server: canary before it, more repeats and speed after it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from evaluation import canary as canaries
from evaluation import speed as speeds
from evaluation.again import add_repeats, seconds_of_a_repeat
from evaluation.canary_probes import possible
from evaluation.catalogue import load_benchmarks
from evaluation.escalation import next_repeats
from evaluation.gate import decide
from evaluation.harness.interface import Progress
from evaluation.planner import plan_power
from evaluation.run import aggregate
from flagrelease.errors import PreflightError
from flagrelease.loading import load_known_issues
from flagrelease.pipeline import StageOutput
from flagrelease.records import Evaluation, Speed, Stage
from flagrelease.store.conformance import passed
from flagrelease.verdicts import CanaryResult, SpeedVerdict
from flows import known_issues, serving, stages
from flows.job import required_baseline
from flows.operator_evidence import operators_that_ran, read_operators
from flows.session import Session
from runtime.engines import vllm
from runtime.launch.interface import Server


def warn_of_power(session: Session) -> None:
    """Say, before anything is asked, that no verdict can be reached (docs/planning.md)."""
    stored, job = stages.measured_baseline(session), session.job
    against = (
        session.store.evaluation(stored)
        if stored
        else stages.published_baseline(session.store, required_baseline(job.cell))
    )
    plan = plan_power(job.cell, job.engine.name, job.benchmarks, baseline=against)
    if plan.decides is False:
        session.log(f"plan: {plan.conclusion}; see: flagrelease plan {job.cell.id} --power")


def warn_of_known_issues(session: Session) -> None:
    """Say, before anything is served, what is known of the cell's operators. What is served stays the matrix's word."""
    image = stages.image(session)
    flag_gems = known_issues.flag_gems_of(session.job, image.versions if image else {})
    found = known_issues.issues_of(session.job, flag_gems, load_known_issues(), partial(passed, session.store))
    for line in known_issues.lines(flag_gems, found, known_issues.leave_out(session.job, found)):
        session.log(f"plan: {line}")


def why_no_canary(session: Session) -> str | None:
    """Why the canary is left out; none where it can be asked."""
    job = session.job
    if job.cell.policy.canary is None:
        return "canary: not in the policy of this cell"
    baseline = stages.measured_baseline(session)
    if baseline is None or baseline.canary is None:
        return "canary: not measured, the baseline has none"
    if not possible(job.engine.capabilities):
        return f"canary: not measured, {job.engine.display} gives no log-probabilities"
    return None


def canary(session: Session, server: Server | None) -> StageOutput:
    """Tier 0: the candidate's next-token distributions on the baseline's own texts."""
    policy, baseline = session.job.cell.policy.canary, stages.measured_baseline(session)
    if server is None or policy is None or baseline is None or baseline.canary is None:
        return StageOutput({"canary": None, "note": why_no_canary(session)})
    result = canaries.measure(
        baseline.canary, serving.endpoint_of(session.job, server), session.job.engine.capabilities, policy, session.log
    )
    kept = session.evidence.put("canary", "canary.json", result.model_dump_json(indent=1).encode())
    ran = read_operators(session, server, Stage.CANARY)
    return StageOutput({"canary": result.model_dump(mode="json"), "note": None, **ran.output}, [kept, *ran.artefacts])


def canary_of(output: Mapping[str, object]) -> CanaryResult | None:
    """The result that the stage `canary` left."""
    return CanaryResult.model_validate(output["canary"]) if output["canary"] else None


def wanted_repeats(session: Session, evaluation: Evaluation, left_s: float) -> dict[str, int]:
    """Repeats in all of each benchmark that the gate asks for; empty where the evaluation is enough."""
    baseline = stages.measured_baseline(session)
    policy = session.job.cell.policy
    if baseline is None or policy.escalation is None:
        return {}
    result = decide(
        evaluation,
        session.store.evaluation(baseline),
        baseline_id=baseline.baseline_id or "",
        policy=policy,
        benchmarks=load_benchmarks(),
        not_run={left_out.benchmark for left_out in session.job.not_run},
        operators=operators_that_ran(session),
    )
    planned = {benchmark.key: benchmark.repeats for benchmark in session.job.benchmarks}
    return next_repeats(result, planned, policy, seconds=seconds_of_a_repeat(evaluation), left_s=left_s)


def more_is_wanted(session: Session, evaluation: int) -> bool:
    """Whether the gate asks for repeats of a stored evaluation."""
    if session.job.cell.policy.escalation is None or session.run.finished(Stage.ESCALATE) is not None:
        return False
    whole = session.store.evaluation(session.store.known_evaluation(evaluation=evaluation))
    return bool(wanted_repeats(session, whole, 60 * session.job.cell.policy.escalation.budget_minutes))


def escalate(session: Session, evaluation: int, server: Server | None, progress: Progress) -> StageOutput:
    """Ask again where the gate wants it: a confirmation of a loss, repeats where a verdict is undecided.

    Every round is decided on all answers so far, so that a confirmation is pooled with what it confirms.
    """
    policy = session.job.cell.policy.escalation
    if server is None or policy is None:
        return StageOutput({"evaluation": evaluation})
    stored = session.store.known_evaluation(evaluation=evaluation)
    whole, start = session.store.evaluation(stored), time.monotonic()
    more = whole
    while wanted := wanted_repeats(session, more, 60 * policy.budget_minutes - (time.monotonic() - start)):
        said = ", ".join(f"{name} {count} times" for name, count in wanted.items())
        session.log(f"escalate: asking again, in all: {said}")
        more = add_repeats(
            more,
            [benchmark for benchmark in session.job.benchmarks if benchmark.key in wanted],
            wanted,
            serving.endpoint_of(session.job, server),
            tasks=session.host.work_path / "tasks",
            journals=stages.journals(session, Stage.ESCALATE),
            progress=progress,
        )
    if more is whole:
        return StageOutput({"evaluation": evaluation})
    key = session.run.key(Stage.ESCALATE)
    identifier = session.store.add_evaluation(more, aggregate(more), key=key, role="candidate")
    return StageOutput({"evaluation": identifier}, stages.evaluation_evidence(session, identifier, "-again"))


def why_no_speed(session: Session) -> str | None:
    """Why speed is not measured; none where it can be."""
    baseline = stages.measured_baseline(session)
    if session.job.cell.policy.speed is None:
        return "speed: not in the policy of this cell"
    if baseline is None or baseline.speed is None:
        return "speed: not measured, the baseline has none"
    if "stream" not in session.job.engine.capabilities:
        return f"speed: not measured, {session.job.engine.display} does not stream"
    try:
        vllm.executable()
    except PreflightError as error:
        return f"speed: not measured, as it is measured with vLLM's load generator and {error.message}"
    return None


def speed(session: Session, server: Server | None) -> StageOutput:
    """Tier 2: throughput and latency under fixed loads."""
    policy = session.job.cell.policy.speed
    if server is None or policy is None:
        return StageOutput({"speed": None, "note": why_no_speed(session)})
    measured = serving.measure_speed(session.job, server, policy, session.host.work_path, session.log)
    kept = session.evidence.put("speed", "speed.json", measured.model_dump_json(indent=1).encode())
    return StageOutput({"speed": measured.model_dump(mode="json"), "note": None}, [kept])


def found(
    session: Session, evaluation: int, canary_output: Mapping[str, object], speed_output: Mapping[str, object]
) -> stages.Tiers:
    """What the tiers beside the evaluation say, for the verdict."""
    policy, baseline = session.job.cell.policy, stages.measured_baseline(session)
    notes = [str(output["note"]) for output in (canary_output, speed_output) if output["note"]]
    if policy.fidelity is not None and "tool_calls" not in session.job.harnesses:
        notes.append("fidelity: not measured, the suite has no tool calls")
    verdicts: list[SpeedVerdict] = []
    if speed_output["speed"] and policy.speed is not None and baseline is not None:
        measured = Speed.model_validate(speed_output["speed"])
        verdicts, warnings = speeds.judge(measured, baseline.speed, policy.speed, policy.alpha)
        notes += warnings
        ours, theirs = session.store.known_evaluation(evaluation=evaluation).provenance, baseline.provenance
        if ours.platform != theirs.platform:
            notes.append(f"speed: on {ours.platform}, the baseline's on {theirs.platform}: hosts are compared too")
    return stages.Tiers(canary_of(canary_output), verdicts, notes)
