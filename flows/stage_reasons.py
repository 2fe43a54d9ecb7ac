"""Why each stage of a release that begins is run or reused: what `flagrelease plan` says, of just this release."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flagrelease.pipeline import Plan
from flagrelease.records import Stage
from flagrelease.store import Store, plans
from flagrelease.store.plans import PastStage
from flows.job import Job
from flows.plan_reasons import Known, stage_plans


def stage_reasons(store: Store, job: Job, plan: Plan, published: Callable[[int], bool]) -> dict[Stage, str]:
    """What is to become of each stage and why, as `StagePlan.text` says it; asked before the release is begun.

    `published`: whether what the release with this id published still stands.
    """
    attempts = plans.attempts(store, plan.keys.values())
    canary, publish = (attempts.get(plan.keys[stage]) for stage in (Stage.CANARY, Stage.PUBLISH))
    left = plans.outputs(store, [canary.row])[canary.row] if canary is not None and canary.completed else {}
    known = Known(
        cell=job.cell,
        plan=plan,
        attempts=attempts,
        past=_newest_runs(plans.past_stages(store, [job.cell.id]).get(job.cell.id, {}), job.engine.name),
        newest=plans.newest_releases(store).get(job.cell.id),
        resumed=plans.releases_by_key(store, [plan.release_key]).get(plan.release_key),
        published=publish is not None and publish.completed and published(publish.release),
        canary_failed=not (left.get("canary") or {"passed": True})["passed"],
        snapshot=lambda release: plans.cell_snapshots(store, [release]).get(release, {}),
    )
    forced = "run (asked to run everything again)"
    return {each.stage: forced if job.salt and each.action == "run" else each.text for each in stage_plans(known)}


def _newest_runs(runs: Mapping[str, Mapping[Stage, PastStage]], engine: str) -> dict[Stage, PastStage]:
    """The newest run of each stage: through this engine, else through any."""
    others = [stages for name, stages in runs.items() if name != engine]
    return {stage: run for stages in (*others, runs.get(engine, {})) for stage, run in stages.items()}
