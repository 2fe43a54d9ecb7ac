"""How near a sweep's order comes to the best possible one: `python -m benchmarks.sweep_simulation [SEEDS]`.

13 chips × 60 models with lognormal times, chips with 1 to 8 slots, images that the cells of a chip share, and baselines
that are yet to be measured. The schedule of the sweep (flows/scheduling.py) decides, an event queue with simulated time
stands for Prefect. Printed over many seeds: makespan ÷ max(longest cell, work of the busiest pool ÷ its slots), where a
cell is as long as it and the image or baseline that it waits for; `above`: how many seeds are above 1.10; `loose`: the
same where a cell is as long as it is by itself, which no order can reach where the longest cells have to wait.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from flows.scheduling import Schedule, Work, lower_bound

CHIPS, MODELS, IMAGES = 13, 60, 3
MINUTE, HOUR = 60.0, 3600.0
REQUIRED = 1.10


class Sweep(NamedTuple):
    """Works as the schedule knows them, and how long each really takes."""

    works: list[Work]
    slots: dict[str, int]
    actual: dict[str, float]

    @property
    def real(self) -> list[Work]:
        """The works with the times that they take."""
        return [work.model_copy(update={"seconds": self.actual[work.id]}) for work in self.works]

    @property
    def loose_bound(self) -> float:
        """As the bound, but as if no cell waited for its image and baseline."""
        return lower_bound([work.model_copy(update={"needs": ()}) for work in self.real], self.slots).seconds


class Outcome(NamedTuple):
    """What became of a simulated sweep."""

    makespan: float
    starts: Counter[str]
    """How often each work was started."""
    most: Counter[str]
    """Most works of each pool that ran at once."""
    schedule: Schedule


class Estimates(NamedTuple):
    """What is known of a cell's time beforehand: it, times a lognormal error; of some nothing."""

    name: str
    sigma: float
    unknown: float


EXACT = Estimates("exact", 0.0, 0.0)
PAST_RUNS = Estimates("past runs: σ 0.25, 5 % unknown", 0.25, 0.05)
OTHER_CELLS = Estimates("other cells: σ 0.6, 20 % unknown", 0.6, 0.2)
NONE = Estimates("nothing is known", 0.0, 1.0)


def sweep(seed: int, estimates: Estimates, slots: Callable[[random.Random], int] | None = None) -> Sweep:
    """A matrix of 780 cells, made from a seed.

    Median of a cell 90 min, σ 0.7 over models and 0.3 within one (chips differ); of an image 20 min, σ 0.5; a baseline
    takes twice its model. Every second cell needs one of its chip's 3 images built; one model in five needs a baseline,
    all on the first chip.
    """
    chance = random.Random(seed)
    chips = [f"chip{number:02}" for number in range(CHIPS)]
    found: list[tuple[Work, float]] = []
    for chip in chips:
        for image in range(IMAGES):
            seconds = chance.lognormvariate(math.log(20 * MINUTE), 0.5)
            found.append((Work(id=f"image {image} of {chip}", pool=chip, seconds=None, value=0), seconds))
    for model in range(MODELS):
        usual = chance.lognormvariate(math.log(90 * MINUTE), 0.7)
        needs: tuple[str, ...] = ()
        if chance.random() < 0.2:
            needs = (f"baseline of model{model:02}",)
            found.append((Work(id=needs[0], pool=chips[0], seconds=None, value=0), 2 * usual))
        for chip in chips:
            images = (f"image {chance.randrange(IMAGES)} of {chip}",) if chance.random() < 0.5 else ()
            work = Work(id=f"model{model:02}-{chip}", pool=chip, seconds=None, needs=(*needs, *images))
            found.append((work, usual * chance.lognormvariate(0, 0.3)))
    works = []
    for work, seconds in found:
        said = None if chance.random() < estimates.unknown else seconds * chance.lognormvariate(0, estimates.sigma)
        works.append(work.model_copy(update={"seconds": said}))
    draw = slots or (lambda chance: chance.randint(1, 8))
    return Sweep(works, {chip: draw(chance) for chip in chips}, {work.id: seconds for work, seconds in found})


def run(
    sweep: Sweep,
    *,
    failing: Iterable[str] = (),
    budget: Mapping[str, float] | None = None,
    restarts: frozenset[int] = frozenset(),
) -> Outcome:
    """Do a sweep in simulated time.

    `failing`: works that fail when their time is over. `restarts`: numbers of events after which the sweep is killed,
    and goes on with a new schedule that is told what is finished and what runs.
    """
    failing = set(failing)
    schedule = Schedule(sweep.works, sweep.slots, budget)
    pools = {work.id: work.pool for work in sweep.works}
    queue: list[tuple[float, str]] = []
    ended: dict[str, bool] = {}
    starts, running, most = Counter[str](), Counter[str](), Counter[str]()
    now, event = 0.0, 0
    while True:
        for work in schedule.ready():
            assert ended.keys() >= set(work.needs), f"{work.id} was started too early"
            schedule.started(work.id)
            heapq.heappush(queue, (now + sweep.actual[work.id], work.id))
            starts[work.id] += 1
            running[work.pool] += 1
            most[work.pool] = max(most[work.pool], running[work.pool])
        if not queue:
            assert schedule.done
            return Outcome(now, starts, most, schedule)
        now, ending = heapq.heappop(queue)
        ended[ending] = ending not in failing
        running[pools[ending]] -= 1
        event += 1
        if event in restarts:
            schedule = Schedule(sweep.works, sweep.slots, budget)
            for known, ok in ended.items():
                schedule.finished(known, ok=ok, cause="it broke", seconds=sweep.actual[known])
            for _, under_way in queue:
                schedule.started(under_way)
        else:
            schedule.finished(ending, ok=ended[ending], cause="it broke", seconds=sweep.actual[ending])


def makespan(sweep: Sweep) -> float:
    """Seconds that the sweep takes; nothing is done twice, and no slot is used twice."""
    outcome = run(sweep)
    assert all(outcome.most[pool] <= slots for pool, slots in sweep.slots.items()), "more at once than slots"
    assert outcome.starts == Counter(work.id for work in sweep.works), "something was done twice, or not at all"
    return outcome.makespan


def ratio(sweep: Sweep) -> float:
    """Makespan of the sweep in units of what no order can beat."""
    return makespan(sweep) / lower_bound(sweep.real, sweep.slots).seconds


def main() -> None:
    """Simulate and print."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    began, worst = time.monotonic(), 0.0
    print(f"{CHIPS} chips × {MODELS} models, {seeds} seeds; makespan ÷ lower bound")
    row = "{:<12}{:<36}{:>8}{:>8}{:>8}{:>8}{:>14}{:>8}"
    print(row.format("slots", "estimates", "median", "p95", "worst", "above", "loose: worst", "above"))
    kinds: list[tuple[str, Callable[[random.Random], int] | None]] = [("1 to 8", None)]
    kinds += [(f"all {count}", lambda _, count=count: count) for count in (1, 4, 8)]  # type: ignore[misc]
    for name, slots in kinds:
        for estimates in (EXACT, PAST_RUNS, OTHER_CELLS, NONE):
            sweeps = [sweep(seed, estimates, slots) for seed in range(seeds)]
            took = [makespan(each) for each in sweeps]
            found = sorted(
                time / lower_bound(each.real, each.slots).seconds for time, each in zip(took, sweeps, strict=True)
            )
            loose = [time / each.loose_bound for time, each in zip(took, sweeps, strict=True)]
            high = found[math.ceil(0.95 * seeds) - 1]
            shown = [f"{value:.3f}" for value in (statistics.median(found), high, found[-1], max(loose))]
            above = [sum(value > REQUIRED for value in values) for values in (found, loose)]
            print(row.format(name, estimates.name, *shown[:3], above[0], shown[3], above[1]), flush=True)
            if slots is None and estimates is not NONE:
                worst = max(worst, found[-1])
    print(f"no work was done twice; {time.monotonic() - began:.0f} s")
    assert worst <= REQUIRED, f"required: {REQUIRED}"


if __name__ == "__main__":
    main()
