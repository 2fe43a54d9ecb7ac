"""How long the stages of a plan take, by the times of past runs, and what that means for a sweep."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median

from flagrelease.matrix import ResolvedCell
from flagrelease.records import Stage
from flows.plan_records import CellPlan, Origin, PoolPlan, Shared, StagePlan
from flows.scheduling import Work


class Times:
    """Estimates from past runs: median of the same cell and engine, else of the model's cells, else of the chip's."""

    def __init__(self, runs: Mapping[tuple[str, str, Stage], Sequence[float]], cells: Iterable[ResolvedCell]) -> None:
        known = {cell.id: cell for cell in cells}
        self._cells = {place: median(seconds) for place, seconds in runs.items()}
        groups: dict[tuple[Origin, str, Stage], list[float]] = defaultdict(list)
        for (name, _, stage), seconds in self._cells.items():
            if name in known:
                groups["model", known[name].cell.model, stage].append(seconds)
                groups["chip", known[name].cell.chip, stage].append(seconds)
        self._groups = {place: median(seconds) for place, seconds in groups.items()}

    def timed(self, plan: StagePlan, cell: ResolvedCell, engine: str) -> StagePlan:
        """The stage's plan with its time, if it runs; without where nothing is known."""
        if plan.action != "run":
            return plan
        places: tuple[tuple[Origin, float | None], ...] = (
            ("cell", self._cells.get((cell.id, engine, plan.stage))),
            ("model", self._groups.get(("model", cell.cell.model, plan.stage))),
            ("chip", self._groups.get(("chip", cell.cell.chip, plan.stage))),
        )
        for origin, seconds in places:
            if seconds is not None:
                return plan.model_copy(update={"seconds": seconds, "seconds_from": origin})
        return plan


def shared(groups: Iterable[tuple[str | None, str]], there: Collection[str]) -> list[Shared]:
    """Cells by what they share, the most cells first; `there`: what exists already."""
    found: dict[str, list[str]] = defaultdict(list)
    for identifier, cell in groups:
        if identifier is not None:
            found[identifier].append(cell)
    ordered = sorted(found, key=lambda identifier: (-len(found[identifier]), identifier))
    return [Shared(id=identifier, cells=found[identifier], there=identifier in there) for identifier in ordered]


def works(cells: Iterable[CellPlan], images: Iterable[Shared], values: Mapping[str, float] | None = None) -> list[Work]:
    """What a sweep has to do: the cells that run, and each image that several of them wait for once.

    `cells`, `images`: of a `MatrixPlan`. `values`: of cells, by id; 1 where none is given. An image that is shared
    takes as long as the longest stage `build` of its cells, which then have the rest of their time left.
    """
    running = {cell.cell: cell for cell in cells if cell.action == "run"}
    found: list[Work] = []
    waits: dict[str, tuple[str, ...]] = {}
    for image in images:
        if image.there or len(image.cells) == 1:
            continue
        own = [running[cell] for cell in image.cells]
        known = [seconds for cell in own if (seconds := cell.stages[0].seconds) is not None]
        work = Work(id=f"image/{image.id}", pool=own[0].chip, seconds=max(known, default=None), value=0.0)
        found.append(work)
        waits |= dict.fromkeys(image.cells, (work.id,))
    for name, cell in running.items():
        rest = cell.seconds - (cell.stages[0].seconds or 0.0 if name in waits else 0.0)
        found.append(
            Work(
                id=name,
                pool=cell.chip,
                seconds=rest if cell.timed else None,
                needs=waits.get(name, ()),
                value=(values or {}).get(name, 1.0),
            )
        )
    return found


def pools(running: Iterable[CellPlan], works: Iterable[Work], slots: Mapping[str, int]) -> list[PoolPlan]:
    """The work of each chip that has some, the most for a slot first."""
    cells, untimed = Counter[str](), Counter[str]()
    for cell in running:
        cells[cell.chip] += 1
        untimed[cell.chip] += not cell.timed
    seconds: dict[str, float] = defaultdict(float)
    for work in works:
        seconds[work.pool] += work.seconds or 0.0
    found = [
        PoolPlan(chip=chip, slots=slots[chip], cells=cells[chip], seconds=seconds[chip], untimed=untimed[chip])
        for chip in cells
    ]
    return sorted(found, key=lambda pool: (-pool.seconds / pool.slots, pool.chip))
