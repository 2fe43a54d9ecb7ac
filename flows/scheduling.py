"""What of a sweep is started next. Pure decisions: no Prefect, no clock, nothing but what it is told.

The same code drives the sweep and its simulation (benchmarks/sweep_simulation.py). A sweep that was killed makes a new
`Schedule` and tells it what it knows to be finished and running.

Within a pool the longest is started first, where an image or a baseline is as long as it and the longest cell that
waits for it: highest level first (T. L. Adam, K. M. Chandy, J. R. Dickson, "A comparison of list schedules for parallel
processing systems", CACM 17 (1974) 685-690). To start all images and baselines before any cell is worse where slots are
many (docs/measurements/2026-11-21-sweep-simulation.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from pydantic import Field

from flagrelease.records import Record

HOUR = 3600.0


class Work(Record):
    """Something that takes one slot of a pool: a release of a cell, an image to build, a baseline to measure.

    An image that several cells share, and a baseline that is yet to be measured, is a work of its own, once; the cells
    name it in `needs`, and its own `value` is 0.
    """

    id: str
    pool: str
    seconds: float | None = Field(ge=0, description="estimate; none: not known")
    needs: tuple[str, ...] = Field(default=(), description="works that must have ended well before")
    value: float = Field(default=1.0, ge=0, description="by itself, to choose where not everything fits the budget")


def slot_seconds(gpu_hours: float, devices: int) -> float:
    """A budget in GPU-hours as seconds of slots with so many devices each."""
    return gpu_hours * HOUR / devices


class Bound(NamedTuple):
    """Seconds that no order of works can beat."""

    seconds: float
    of: str | None
    """The pool, or the work, whose bound it is; none where no time is known."""


def lower_bound(works: Iterable[Work], slots: Mapping[str, int]) -> Bound:
    """The longest work together with what it waits for, or the busiest pool's work spread evenly over its slots.

    Works of unknown length count as 0.
    """
    known = {work.id: work for work in works}
    ends: dict[str, float] = {}

    def end(work: Work) -> float:
        """When the work ends if it never waits for a slot."""
        if work.id not in ends:
            ends[work.id] = (work.seconds or 0.0) + max(
                (end(known[need]) for need in work.needs if need in known), default=0.0
            )
        return ends[work.id]

    total = dict.fromkeys(slots, 0.0)
    for work in known.values():
        total[work.pool] += work.seconds or 0.0
    bounds = [*(Bound(seconds / slots[pool], pool) for pool, seconds in total.items())]
    bounds += [Bound(end(work), work.id) for work in known.values()]
    longest = max(bounds, key=lambda bound: bound.seconds, default=Bound(0.0, None))
    return longest if longest.seconds else Bound(0.0, None)


class Schedule:
    """Which works are started next, as slots become free. Tell it what was `started` and what has `finished`.

    `slots`: works at once, by pool. `budget`: seconds of slots that may be used, by pool; a pool that is not named has
    no limit. What does not fit is left: works of little value first, of equal value the longest. A work's estimate
    counts until it ends, then what it took, so that more or less may fit than seemed at first.
    """

    def __init__(
        self, works: Iterable[Work], slots: Mapping[str, int], budget: Mapping[str, float] | None = None
    ) -> None:
        self._works: dict[str, Work] = {}
        for work in works:
            if work.id in self._works:
                msg = f"{work.id} is there twice"
                raise ValueError(msg)
            self._works[work.id] = work
        self._slots, self._budget = dict(slots), dict(budget or {})
        self._dependents = self._checked()
        self._seconds = _estimates(self._works.values())
        self._pending = self._ordered()
        self._by_value = sorted(
            (work for work in self._works.values() if work.value > 0),
            key=lambda work: (-work.value, self._seconds[work.id], work.id),
        )
        self._running: dict[str, set[str]] = {pool: set() for pool in self._slots}
        self._spent = dict.fromkeys(self._slots, 0.0)
        self._succeeded: set[str] = set()
        self._failed: dict[str, str] = {}

    def _checked(self) -> dict[str, list[str]]:
        """What waits for each work; raises ValueError for works that cannot be done."""
        dependents: dict[str, list[str]] = {each: [] for each in self._works}
        for work in self._works.values():
            if self._slots.get(work.pool, 0) < 1:
                msg = f"{work.id}: the pool {work.pool} has no slot"
                raise ValueError(msg)
            for need in work.needs:
                if need not in self._works:
                    msg = f"{work.id} needs {need}, which is not among the works"
                    raise ValueError(msg)
                dependents[need].append(work.id)
        try:
            TopologicalSorter({work.id: work.needs for work in self._works.values()}).prepare()
        except CycleError as error:
            msg = f"works that wait for each other: {' → '.join(error.args[1])}"
            raise ValueError(msg) from error
        return dependents

    def _ordered(self) -> dict[str, dict[str, Work]]:
        """Works by pool, in the order in which they are started if nothing is waited for."""

        def level(work: Work) -> float:
            """Seconds from its start to the end of the longest of what waits for it, if all begins at once."""
            after = (level(self._works[each]) for each in self._dependents[work.id])
            return self._seconds[work.id] + max(after, default=0.0)

        def place(work: Work) -> tuple[float, float, str]:
            waiting = sum(self._seconds[each] for each in self._dependents[work.id])
            return -level(work), -waiting, work.id

        pending: dict[str, dict[str, Work]] = {pool: {} for pool in self._slots}
        for work in sorted(self._works.values(), key=place):
            pending[work.pool][work.id] = work
        return pending

    def __contains__(self, work_id: str) -> bool:
        """Whether the work is one of this schedule."""
        return work_id in self._works

    def ready(self) -> list[Work]:
        """Works to start now, no more than there are free slots; the same again until `started` is told."""
        fitting = self._fitting()
        found = []
        for pool, works in self._pending.items():
            free = self._slots[pool] - len(self._running[pool])
            for work in works.values():
                if free <= 0:
                    break
                wanted = self._is_wanted(work) if fitting is None else work.id in fitting
                if wanted and self._succeeded.issuperset(work.needs):
                    found.append(work)
                    free -= 1
        return found

    def started(self, work_id: str) -> None:
        """A work is under way, whoever started it; told again, or after its end, it changes nothing."""
        work = self._works[work_id]
        if self._waits(work):
            del self._pending[work.pool][work_id]
            self._running[work.pool].add(work_id)

    def finished(self, work_id: str, *, ok: bool, cause: str = "", seconds: float | None = None) -> None:
        """A work has ended, well or with a `cause`; `seconds` that it took. It may have ended before this schedule.

        What waits for one that failed fails as well, without being started. The others go on. Told again, it changes
        nothing.
        """
        work = self._works[work_id]
        if work_id in self._succeeded or work_id in self._failed:
            return
        self._pending[work.pool].pop(work_id, None)
        self._running[work.pool].discard(work_id)
        self._spent[work.pool] += self._seconds[work_id] if seconds is None else seconds
        if ok:
            self._succeeded.add(work_id)
        else:
            self._fail(work_id, cause)

    def _fail(self, work_id: str, cause: str) -> None:
        self._failed[work_id] = cause
        for waiting in self._dependents[work_id]:
            if self._waits(self._works[waiting]):
                del self._pending[self._works[waiting].pool][waiting]
                self._fail(waiting, f"{work_id} failed: {cause}")

    @property
    def running(self) -> set[str]:
        """Works that are under way."""
        return set().union(*self._running.values())

    @property
    def succeeded(self) -> set[str]:
        """Works that ended well."""
        return set(self._succeeded)

    @property
    def failed(self) -> dict[str, str]:
        """Works that failed, with the cause; also those that were never started, as they waited for one that did."""
        return dict(self._failed)

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing more will."""
        return not self.running and not self.ready()

    @property
    def left(self) -> list[Work]:
        """Works that do not fit the budget as things stand, the most valuable first."""
        fitting = self._fitting()
        return [work for work in self._by_value if fitting is not None and self._waits(work) and work.id not in fitting]

    def _waits(self, work: Work) -> bool:
        return work.id in self._pending[work.pool]

    def _is_wanted(self, work: Work) -> bool:
        """Whether it is worth something by itself, or to what still waits for it."""
        dependents = (self._works[each] for each in self._dependents[work.id])
        return work.value > 0 or any(self._waits(each) and self._is_wanted(each) for each in dependents)

    def _fitting(self) -> set[str] | None:
        """Works to be started that fit the budget, the most valuable first; none where there is no budget."""
        if not self._budget:
            return None
        free = {
            pool: budget - self._spent[pool] - sum(self._seconds[running] for running in self._running[pool])
            for pool, budget in self._budget.items()
            if pool in self._slots
        }
        chosen: set[str] = set()
        for work in self._by_value:
            if not self._waits(work) or work.id in chosen:
                continue
            wanted = [each for each in self._with_needs(work) if each.id not in chosen]
            cost: dict[str, float] = defaultdict(float)
            for each in wanted:
                cost[each.pool] += self._seconds[each.id]
            if all(cost[pool] <= left for pool, left in free.items()):
                chosen.update(each.id for each in wanted)
                for pool in free:
                    free[pool] -= cost[pool]
        return chosen

    def _with_needs(self, work: Work) -> Sequence[Work]:
        """The work and those before it that are yet to be started."""
        found, look = {work.id: work}, [work]
        while look:
            for need in look.pop().needs:
                before = self._works[need]
                if need not in found and self._waits(before):
                    found[need] = before
                    look.append(before)
        return list(found.values())


def _estimates(works: Iterable[Work]) -> dict[str, float]:
    """Seconds of each work. One of unknown length counts as the longest of its pool: begun late, it would hold up all.

    Where no length is known at all, each counts as an hour.
    """
    works = list(works)
    longest: dict[str, float] = defaultdict(float)
    for work in works:
        longest[work.pool] = max(longest[work.pool], work.seconds or 0.0)
    overall = max(longest.values(), default=0.0) or HOUR
    return {work.id: (longest[work.pool] or overall) if work.seconds is None else work.seconds for work in works}
