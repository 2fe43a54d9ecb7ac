"""Why a stage runs: what became of it before, what changed since, or what it follows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from flagrelease.matrix import ResolvedCell
from flagrelease.pipeline import UPSTREAM, Plan
from flagrelease.records import Stage
from flagrelease.store.plans import Attempt, PastRelease, PastStage
from flows.plan_changes import Change, changes, facts
from flows.plan_records import Reason, StagePlan

AFTER_CANARY = (Stage.EVALUATE, Stage.ESCALATE, Stage.SPEED)
"""What is not asked of a model whose canary failed."""
LONGEST = 160
"""Letters of an error in a line."""


class Known(NamedTuple):
    """What the store knows of a cell, and what the cell is today."""

    cell: ResolvedCell
    plan: Plan
    attempts: Mapping[str, Attempt]
    """By stage key."""
    past: Mapping[Stage, PastStage]
    newest: PastRelease | None
    """The cell's newest release."""
    resumed: PastRelease | None
    """The release that would go on: it was made from what the cell is today."""
    published: bool
    """Whether what was published stands."""
    canary_failed: bool
    snapshot: Callable[[int], Mapping[str, Any]]
    """The resolved cell of a release, as JSON."""


def stage_plans(known: Known) -> list[StagePlan]:
    """What becomes of each stage, without times."""
    running: set[Stage] = set()
    found = []
    for stage in Stage:
        attempt = known.attempts.get(known.plan.keys[stage])
        if attempt is not None and attempt.completed and (stage != Stage.PUBLISH or known.published):
            found.append(StagePlan(stage=stage, action="reuse", release=attempt.release))
        elif known.canary_failed and stage in AFTER_CANARY:
            canary = known.attempts[known.plan.keys[Stage.CANARY]].release
            why = Reason(kind="canary", text=f"the canary failed in release {canary}", release=canary)
            found.append(StagePlan(stage=stage, action="skip", reasons=[why]))
        else:
            found.append(StagePlan(stage=stage, action="run", reasons=_reasons(stage, known, attempt, running)))
            running.add(stage)
    return found


def _reasons(stage: Stage, known: Known, attempt: Attempt | None, running: Collection[Stage]) -> list[Reason]:
    if known.newest is None:
        return [Reason(kind="first release", text="first release")]
    found = []
    if attempt is not None:
        found.append(_before(attempt, known))
    upstream = [before.value for before in UPSTREAM[stage] if before in running]
    past = known.past.get(stage)
    if past is not None and not (attempt is not None and attempt.completed):
        found += [
            Reason(
                kind="inputs",
                text=change.text,
                what=change.what,
                key=change.key or None,
                old=change.old,
                new=change.new,
                release=past.release,
            )
            for change in _changes(stage, known, past, opaque=not upstream)
        ]
    if upstream:
        found.append(Reason(kind="upstream", text=f"follows {' and '.join(upstream)}"))
    return found or [_otherwise(stage, known, past)]


def _before(attempt: Attempt, known: Known) -> Reason:
    """What became of the stage when it was tried last."""
    if attempt.completed:
        return Reason(
            kind="publication",
            text=f"what release {attempt.release} published is gone or was changed",
            release=attempt.release,
        )
    resumed = known.resumed
    if resumed is not None and resumed.id == attempt.release and resumed.state == "interrupted":
        return Reason(kind="unfinished", text=f"interrupted in release {attempt.release}", release=attempt.release)
    if attempt.state == "running":
        return Reason(kind="unfinished", text=f"not finished in release {attempt.release}", release=attempt.release)
    error = (attempt.error or "").partition("\n")[0]
    error = error if len(error) <= LONGEST else f"{error[: LONGEST - 1]}…"
    return Reason(kind="failed", text=f"failed in release {attempt.release}: {error}", release=attempt.release)


def _changes(stage: Stage, known: Known, past: PastStage, *, opaque: bool) -> list[Change]:
    """What changed in the stage's own inputs; what a hash hides is looked up, or left out where it is not `opaque`."""
    found = changes(past.inputs, known.plan.inputs[stage])
    if stage != Stage.CARD or past.inputs.get("facts") == known.plan.inputs[stage]["facts"]:
        return found
    visible = [change for change in found if change.what != "facts on the card"]
    if not opaque:
        # What changed has its name in the stages before.
        return visible
    hidden = facts(known.snapshot(past.release), known.cell.model_dump(mode="json"))
    return visible + hidden if hidden else found


def _otherwise(stage: Stage, known: Known, past: PastStage | None) -> Reason:
    """Why a stage runs whose own inputs are those of its newest run, with all before it at hand."""
    if past is None:
        newest = known.newest.id if known.newest else None
        release = known.resumed.id if known.resumed else newest
        return Reason(kind="not reached", text=f"not reached in release {release}", release=release)
    other = [
        before.value
        for before in UPSTREAM[stage]
        if before in known.past and known.past[before].key != known.plan.keys[before]
    ]
    if other:
        text = f"another result of {' and '.join(other)} than in release {past.release}"
        return Reason(kind="upstream", text=text, release=past.release)
    if past.key == known.plan.keys[stage]:
        return Reason(kind="not reached", text=f"not finished in release {past.release}", release=past.release)
    text = f"FlagRelease does this otherwise than in release {past.release}"
    return Reason(kind="code", text=text, release=past.release)
