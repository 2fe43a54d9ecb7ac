"""A plan as text for people: the sum first, then what runs and what is blocked; what is unchanged is only counted."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flagrelease.cli.plan_power import time_words
from flows.known_issues import lines
from flows.plan_times import works

if TYPE_CHECKING:
    from flows.plan_records import CellPlan, MatrixPlan, Shared, StagePlan

# Wide enough for the table where there is no terminal, as in a log.
NARROWEST = 120
CELL = "<cell>"
"""Stands for a cell's id in what is said of several cells."""
NAMED = 12
"""Cells of a group that are named; the others are counted."""


def show_cell(plan: MatrixPlan) -> None:
    """One cell, stage by stage."""
    (cell,) = plan.cells
    say = _Say()
    if cell.blocked is not None:
        say(f"{cell.cell}: blocked ({cell.blocked.cause})", "bold")
        say(f"  -> {cell.blocked.remedy}")
        return
    newest = f"newest release {cell.newest}" if cell.newest else "no release yet"
    say(f"{cell.cell} through {cell.engine}, {newest}: {'unchanged' if cell.action == 'unchanged' else _time(cell)}")
    for stage in cell.stages:
        time = _stage_time(stage)
        say(f"  {stage.stage:<9} {stage.text}{f', {time}' if time else ''}")
    for line in lines(cell.flag_gems, cell.known_issues, cell.leave_out):
        say(f"  {line}")
    _say_notes(plan, say)


def show_sweep(plan: MatrixPlan) -> None:
    """The whole: sums, then groups of cells with the same to do, then what is blocked."""
    say = _Say()
    counts = plan.counts
    say(
        f"{_count(len(plan.cells), 'cell')}: {counts['unchanged']} unchanged, {counts['run']} to run, "
        f"{counts['blocked']} blocked",
        "bold",
    )
    if counts["run"]:
        _say_work(plan, say)
    # An image that several cells share is not the work of each.
    seconds = {work.id: work.seconds for work in works(plan.cells, plan.images)}
    for cells in _groups(plan.cells):
        known = [found for cell in cells if (found := seconds[cell.cell]) is not None]
        work = f", {time_words(sum(known))} of work" if known else ""
        say(f"\n{_count(len(cells), 'cell')}{work}", "bold")
        _say_group(cells, say)
    _say_known_issues(plan.cells, say)
    for (cause, remedy), names in _blocked(plan.cells).items():
        name = names[0] if len(names) == 1 else CELL
        say(f"\n{_count(len(names), 'cell')} blocked ({cause.replace(CELL, name)})", "bold")
        say(f"  {_names(names)}")
        say(f"  -> {remedy.replace(CELL, name)}")
    _say_notes(plan, say)


class _Say:
    """Writes lines that break nowhere but where the terminal does."""

    def __init__(self) -> None:
        self.console = Console(
            width=max(NARROWEST, shutil.get_terminal_size().columns), soft_wrap=True, highlight=False
        )

    def __call__(self, line: str, style: str = "") -> None:
        self.console.print(Text(line, style))


def _say_work(plan: MatrixPlan, say: _Say) -> None:
    """Time by chip, the least that the sweep takes, and what is done once for several cells."""
    untimed = sum(pool.untimed for pool in plan.pools)
    if plan.at_least_by is not None:
        work = time_words(sum(pool.seconds for pool in plan.pools))
        pool = next((pool for pool in plan.pools if pool.chip == plan.at_least_by), None)
        by = f"{pool.chip}: {time_words(pool.seconds)} in {_count(pool.slots, 'slot')}" if pool else plan.at_least_by
        say(f"time: {work} of work, which takes {time_words(plan.at_least)} at least ({by})")
    if untimed:
        say(f"not known for {_count(untimed, 'cell')}: neither they nor their model or chip have run before")
    for kind, shared in (("image", plan.images), ("baseline", plan.baselines)):
        if shared:
            say(_shared(kind, shared))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("Chip", "Cells", "Work", "Slots", "At least"):
        table.add_column(title, justify="left" if title == "Chip" else "right")
    for pool in plan.pools:
        unknown = " + ?" if pool.untimed else ""
        known = pool.untimed < pool.cells or pool.seconds
        table.add_row(
            pool.chip,
            str(pool.cells),
            f"{time_words(pool.seconds)}{unknown}" if known else "?",
            str(pool.slots),
            time_words(pool.seconds / pool.slots) if known else "?",
        )
    say.console.print(table)


def _shared(kind: str, shared: Sequence[Shared]) -> str:
    cells = sum(len(each.cells) for each in shared)
    if kind == "baseline":
        verb = "is" if cells == 1 else "are"
        return f"baselines: {_count(cells, 'cell')} {verb} compared with {_count(len(shared), kind)}"
    there = sum(each.there for each in shared)
    verb = "needs" if cells == 1 else "share" if len(shared) < cells else "need"
    built = "" if not there else ", built before" if there == len(shared) else f", {there} of them built before"
    return f"images: {_count(cells, 'cell')} {verb} {_count(len(shared), kind)}{built}"


def _groups(cells: Iterable[CellPlan]) -> list[list[CellPlan]]:
    """Cells that run, together where the same is to do for the same reasons; the largest group first."""
    groups: dict[tuple[str, ...], list[CellPlan]] = defaultdict(list)
    for cell in cells:
        if cell.action == "run":
            groups[tuple(stage.text if stage.action == "run" else stage.action for stage in cell.stages)].append(cell)
    return sorted(groups.values(), key=lambda group: -len(group))


def _say_group(cells: Sequence[CellPlan], say: _Say) -> None:
    say(f"  {_names([cell.cell for cell in cells])}")
    lines: dict[str, list[str]] = defaultdict(list)
    for stage in cells[0].stages:
        if not stage.follows:
            lines[stage.text if stage.action == "run" else stage.action].append(stage.stage)
    reused = lines.pop("reuse", [])
    for text, stages in lines.items():
        say(f"  {', '.join(stages)}: {text}")
    if follow := [stage.stage for stage in cells[0].stages if stage.follows]:
        say(f"  {', '.join(follow)}: run (because of what is before them)")
    if reused:
        say(f"  {', '.join(reused)}: reuse")


def _say_known_issues(cells: Iterable[CellPlan], say: _Say) -> None:
    """Each issue that cells which run may meet, once; without those that leave nothing to do beforehand."""
    met: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        if cell.action == "run":
            for each in cell.known_issues:
                if each.issue.deny:
                    met[each.text].append(cell.cell)
    for text, names in met.items():
        say(f"\nknown issue {text}", "bold")
        say(f"  {_names(names)}")
    if met:
        say("  -> what to leave out of a cell: flagrelease plan <cell>")


def _blocked(cells: Iterable[CellPlan]) -> dict[tuple[str, str], list[str]]:
    """Cells that are blocked, by cause and remedy without the cell's own name."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        if cell.blocked is not None:
            cause = cell.blocked.cause.replace(f"{cell.cell}: ", "").replace(cell.cell, CELL)
            found[cause, cell.blocked.remedy.replace(cell.cell, CELL)].append(cell.cell)
    return found


def _say_notes(plan: MatrixPlan, say: _Say) -> None:
    lacks: dict[str, int] = defaultdict(int)
    for cell in plan.cells:
        for program in cell.lacks:
            lacks[program] += 1
    for program, cells in lacks.items():
        say(f"note: this host lacks {program}; {_count(cells, 'cell')} planned with the version of the newest release")
    for note in plan.notes:
        say(f"note: {note}")


def _time(cell: CellPlan) -> str:
    if not any(stage.seconds is not None for stage in cell.runs):
        return "time not known, neither it nor its model or chip has run before"
    return f"about {time_words(cell.seconds)}{'' if cell.timed else ' and what is not known'}"


def _stage_time(stage: StagePlan) -> str:
    """Estimate of a stage that runs, and whose runs it is taken from; empty where nothing is known."""
    if stage.seconds is None:
        return ""
    whose = {"model": " by the model on other chips", "chip": " by other models on the chip"}
    return f"about {time_words(stage.seconds)}{whose.get(stage.seconds_from or '', '')}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more (--json has all)" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
