"""What became of a sweep's cells: gathered from plan, runs and store, and as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from flagrelease.operators.known_issues import KnownIssue
from flagrelease.store import Store
from flagrelease.store.queries import latest_releases
from flagrelease.store.times import in_utc
from flagrelease.sweep import ENDED, Outcome, causes, line_of, summary
from flows.plan_records import CellPlan
from flows.scheduling import Schedule
from flows.sweep_loop import Seen

REMEDY = "\n  -> "
"""Between an error's message and its next step."""


class Outcomes:
    """What became of each cell so far. `before`: what an interrupted run of the same sweep had noted."""

    def __init__(self, store: Store, cells: Iterable[CellPlan], before: Iterable[Outcome], since: datetime) -> None:
        self._store, self._since = store, since
        self._found = {cell.cell: _planned(cell) for cell in cells}
        for outcome in before:
            planned = self._found.get(outcome.cell)
            if planned is None or (outcome.state in ENDED and planned.state == "unchanged"):
                self._found[outcome.cell] = outcome

    def note(self, schedule: Schedule, seen: Mapping[str, Seen]) -> list[Outcome]:
        """Take over what was seen, and what follows from it; returns the cells that have ended since."""
        failed, left, ended = schedule.failed, {work.id for work in schedule.left}, []
        for cell, outcome in self._found.items():
            if outcome.state in ("unchanged", "released", "blocked", "failed"):
                continue
            run = seen.get(cell)
            if run is not None and run.state == "ok":
                new = self._released(outcome)
            elif run is not None and run.state == "failed":
                new = self._failed(outcome, run.cause)
            elif cell in failed:
                new = _changed(outcome, state="failed", cause=failed[cell])
            elif run is not None:
                new = _changed(outcome, state="running" if run.state == "running" else "waiting")
            elif cell in left:
                new = _changed(
                    outcome, state="left", cause=f"it does not fit what is left of the budget of {outcome.chip}"
                )
            else:
                new = _changed(outcome, state="waiting")
            self._found[cell] = new
            if new.state in ("released", "failed"):
                ended.append(new)
        return ended

    @property
    def all(self) -> list[Outcome]:
        """Of every cell, in the order of the matrix."""
        return list(self._found.values())

    def _released(self, outcome: Outcome) -> Outcome:
        view = latest_releases(self._store, [outcome.cell]).get(outcome.cell)
        verdict = str(view.gate.verdict) if view and view.gate else None
        return _changed(outcome, state="released", release=view.id if view else None, verdict=verdict)

    def _failed(self, outcome: Outcome, said: str) -> Outcome:
        """With stage and error by the store, where the run got as far as a release; else by what the run said."""
        view, stage = latest_releases(self._store, [outcome.cell]).get(outcome.cell), None
        if view and view.error and view.finished_at and in_utc(view.finished_at) >= self._since:
            said = view.error
            stage = next((str(stage.stage) for stage in view.stages if stage.state == "failed"), None)
        cause, _, remedy = said.partition(REMEDY)
        return _changed(
            outcome,
            state="failed",
            release=view.id if stage and view else None,
            stage=stage,
            cause=cause.strip(),
            remedy=remedy.strip() or None,
        )


def _planned(cell: CellPlan) -> Outcome:
    about = {
        "cell": cell.cell,
        "model": cell.model,
        "chip": cell.chip,
        "stack": cell.stack,
        "release": cell.newest,
    }
    if cell.blocked:
        return Outcome(**about, state="blocked", cause=cell.blocked.cause, remedy=cell.blocked.remedy)
    return Outcome(**about, state="unchanged" if cell.action == "unchanged" else "waiting")


def _changed(outcome: Outcome, **values: object) -> Outcome:
    return Outcome.model_validate(
        {
            "cell": outcome.cell,
            "model": outcome.model,
            "chip": outcome.chip,
            "stack": outcome.stack,
            "release": outcome.release,
            **values,
        }
    )


def line(outcome: Outcome) -> str:
    """One cell that has ended, for the log."""
    if outcome.state == "failed":
        return f"{outcome.cell} failed: {f'{outcome.stage}: ' if outcome.stage else ''}{outcome.cause}"
    return f"{outcome.cell} is released: release {outcome.release}, {outcome.verdict}"


def matrix_table(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """Models × chips: what became of each cell."""
    chips = list(dict.fromkeys(outcome.chip for outcome in outcomes))
    rows: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        row = rows.setdefault(outcome.model, {"model": outcome.model} | dict.fromkeys(chips, ""))
        row[outcome.chip] = _word(outcome)
    return list(rows.values())


def report(outcomes: Sequence[Outcome], known: Sequence[KnownIssue] = ()) -> str:
    """The sweep as Markdown: sums, why cells were not released (`known`: issues of FlagGems), the matrix."""
    table = matrix_table(outcomes)
    lines = [f"**{summary(outcomes)}**", ""]
    for cause in causes(outcomes, known):
        lines.append(f"- {line_of(cause)}")
        if cause.remedy:
            lines.append(f"  - next step: {cause.remedy}")
    if table:
        lines += ["", f"| {' | '.join(table[0])} |", "|" + "---|" * len(table[0])]
        lines += [f"| {' | '.join(row.values())} |" for row in table]
    return "\n".join(lines)


def _word(outcome: Outcome) -> str:
    if outcome.state == "released":
        return f"{outcome.verdict or 'released'} ({outcome.release})"
    if outcome.state == "unchanged":
        return f"unchanged ({outcome.release})"
    return f"failed: {outcome.stage}" if outcome.state == "failed" and outcome.stage else outcome.state
