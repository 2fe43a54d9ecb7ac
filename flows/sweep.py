"""The flow `sweep`: what of the matrix is stale is released, each cell in a run of its own on a host of its chip."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flagrelease.chip import Chip
from flagrelease.loading import load_chips, load_known_issues
from flagrelease.operators.known_issues import KnownIssue
from flagrelease.selection import Selection
from flagrelease.settings import settings
from flagrelease.store import Store, sweeps
from flagrelease.sweep import Outcome, SweepView, causes, line_of, summary
from flows.patience import patiently
from flows.plan import plan_matrix
from flows.plan_records import MatrixPlan
from flows.plan_times import works
from flows.scheduling import HOUR, Schedule, Work, slot_seconds
from flows.session import open_store
from flows.sweep_loop import Seen, follow
from flows.sweep_report import Outcomes, line, matrix_table, report
from flows.sweep_runs import IMAGE, PrefectRuns, cancel_runs
from runtime.launch.interface import Log

SHORTEST_S, LONGEST_S = 1.0, 15.0
"""Between two looks at the runs: the longer a sweep lasts, the less it asks."""
OF_ELAPSED = 0.02
SHOWN_S = 60.0
"""At least between two artifacts of a sweep under way."""


def _cancel(flow: object, flow_run: Any, state: object) -> None:  # noqa: ARG001 - Prefect calls it by these names
    with get_client(sync_client=True) as client:
        cancel_runs(client, str(flow_run.id))


Names = list[str]


@flow(name="sweep", flow_run_name="sweep", persist_result=False, on_cancellation=[_cancel])
def sweep(
    *,
    chips: Annotated[Names, Field(description="of these chips only; names or patterns such as meta*")] = [],  # noqa: B006
    models: Annotated[Names, Field(description="of these models only; names or patterns")] = [],  # noqa: B006
    suites: Annotated[Names, Field(description="of models with these suites only")] = [],  # noqa: B006
    tags: Annotated[Names, Field(description="only cells with one of these tags")] = [],  # noqa: B006
    failed: Annotated[bool, Field(description="only cells whose newest release failed or was interrupted")] = False,
    hours: Annotated[float | None, Field(gt=0, description="budget: hours of each slot of a chip")] = None,
    gpu_hours: Annotated[float | None, Field(gt=0, description="budget: hours of devices, for each chip")] = None,
    publish: Annotated[bool, Field(description="whether what the gate lets out is published")] = True,
) -> State[Any]:
    """Release every cell that is stale, the longest first, with what several share made once.

    Each cell is a run of its own in its chip's work pool; this one only follows them. A cell that fails stops no other.
    A sweep that was interrupted goes on where it stopped; one over an unchanged matrix does nothing.
    """
    logger, host, key = get_run_logger(), settings(), str(flow_run.id)
    selection = Selection(chips=chips, models=models, suites=suites, tags=tags, failed=failed)
    plan = patiently(lambda: plan_matrix(host, selection), logger.info)
    counts = plan.counts
    logger.info(
        f"{len(plan.cells)} cells: {counts['unchanged']} unchanged, {counts['run']} to release, "
        f"{counts['blocked']} blocked"
    )
    # Read once: what somebody writes into the file meanwhile ends no sweep.
    issues = load_known_issues()
    with closing(open_store(host)) as store, get_client(sync_client=True) as client:
        known = sweeps.begin(store, key, dict(flow_run.parameters))
        runs = PrefectRuns(
            client,
            key,
            cells=[cell.cell for cell in plan.cells if cell.action == "run"],
            images={f"{IMAGE}{image.id}": image.cells[0] for image in plan.images},
            parameters={} if publish else {"publish": False},
            log=logger.info,
        )
        schedule = _schedule(works(plan.cells, plan.images, _values(plan)), plan, runs.seen(), hours, gpu_hours)
        of_cells = Outcomes(store, plan.cells, known.outcomes, known.started_at)
        followed = _Followed(store, known, of_cells, issues, logger.info)
        state = "interrupted"
        try:
            follow(schedule, runs, lambda seen: followed.tell(schedule, seen), followed.pause)
            outcomes = followed.outcomes.all
            state = "failed" if any(outcome.state == "failed" for outcome in outcomes) else "completed"
        finally:
            patiently(lambda: sweeps.end(store, known.id, state), logger.info)
    patiently(lambda: _show(outcomes, issues), logger.info)
    said = "; ".join([summary(outcomes), *(line_of(cause) for cause in causes(outcomes, issues))])
    logger.info(said)
    return Failed(message=said) if state == "failed" else Completed(message=said)


class _Followed:
    """A sweep under way, told to the store, the log and Prefect's artifacts."""

    def __init__(
        self, store: Store, known: SweepView, outcomes: Outcomes, issues: Sequence[KnownIssue], log: Log
    ) -> None:
        self._store, self._id, self._issues, self._log = store, known.id, issues, log
        self.outcomes, self._written = outcomes, known.outcomes
        self._begun = self._shown = time.monotonic()

    def tell(self, schedule: Schedule, seen: Mapping[str, Seen]) -> None:
        """Note what was seen of the runs."""
        ended = patiently(lambda: self._note(schedule, seen), self._log)
        for outcome in ended:
            self._log(line(outcome))
        if ended and time.monotonic() - self._shown > SHOWN_S:
            patiently(lambda: _show(self._written, self._issues), self._log)
            self._shown = time.monotonic()

    def pause(self) -> None:
        """Wait for the next look."""
        elapsed = time.monotonic() - self._begun
        time.sleep(min(LONGEST_S, max(SHORTEST_S, OF_ELAPSED * elapsed)))

    def _note(self, schedule: Schedule, seen: Mapping[str, Seen]) -> list[Outcome]:
        ended = self.outcomes.note(schedule, seen)
        if (found := self.outcomes.all) != self._written:
            sweeps.write(self._store, self._id, found)
            self._written = found
        return ended


def _schedule(
    to_do: Sequence[Work], plan: MatrixPlan, seen: Mapping[str, Seen], hours: float | None, gpu_hours: float | None
) -> Schedule:
    """What is to be done, in the slots of the matrix, within the budget less what this sweep has used already."""
    chips = load_chips()
    pools = {work.pool: chips[work.pool] for work in to_do}
    budget = {name: seconds for name, chip in pools.items() if (seconds := _budget(chip, hours, gpu_hours)) is not None}
    known = {work.id for work in to_do}
    for cell in plan.cells:
        if cell.cell in seen and cell.cell not in known and cell.chip in budget:
            budget[cell.chip] = max(0.0, budget[cell.chip] - seen[cell.cell].seconds)
    return Schedule(to_do, {name: chip.slots for name, chip in pools.items()}, budget)


def _budget(chip: Chip, hours: float | None, gpu_hours: float | None) -> float | None:
    """Seconds of slots that a sweep may use on a chip; none: no limit."""
    limits = []
    if hours is not None:
        limits.append(hours * HOUR * chip.slots)
    if gpu_hours is not None:
        limits.append(slot_seconds(gpu_hours, chip.host_devices))
    return min(limits, default=None)


def _values(plan: MatrixPlan) -> dict[str, float]:
    """What a cell is worth where not all fit the budget: one that was never released is worth two that were."""
    return {cell.cell: 1.0 if cell.newest else 2.0 for cell in plan.cells}


def _show(outcomes: Sequence[Outcome], issues: Sequence[KnownIssue]) -> None:
    """The sweep as it stands, as artifacts of its run."""
    if outcomes:
        create_table_artifact(matrix_table(outcomes), key="sweep-matrix", description="Models × chips")
    create_markdown_artifact(report(outcomes, issues), key="sweep", description="What becomes of each cell")
