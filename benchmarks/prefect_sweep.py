"""What a sweep over 100 cells costs beside the work itself: `python -m benchmarks.prefect_sweep [CELLS]`.

Simulated cells of some ten seconds each on three chips with 1, 2 and 3 slots, through a real Prefect server on
PostgreSQL and real workers. Printed: how long it took, and the least that the slots allow; for a cell the seconds of
its run that were no simulated work, and the processor time of the whole machine. Needs PostgreSQL's programs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from flagrelease.loading import load_chips
from tests.simulated.cluster import Cluster, cluster
from tests.simulated.matrices import CHIPS as FOLDER
from tests.simulated.matrices import simulated_matrix

CELLS, SCALE = 100, 6.0
CHIPS = ("simalpha", "simbeta", "simgamma")
WORK = ("serve", "canary", "evaluate")
PAGE = 200


def runs_of(made: Cluster) -> list[dict[str, Any]]:
    """All flow runs of releases."""
    found: list[dict[str, Any]] = []
    flows = {"name": {"any_": ["release"]}}
    while page := made.post("/flow_runs/filter", flows=flows, offset=len(found), limit=PAGE):
        found += page
    return found


def seconds(run: dict[str, Any]) -> float:
    """From a run's begin to its end."""
    begin, end = (datetime.fromisoformat(run[name]) for name in ("start_time", "end_time"))
    return (end - begin).total_seconds()


def busy() -> float:
    """Processor seconds of this machine that were used since it was started."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


def main() -> None:
    """Measure and print."""
    cells = int(sys.argv[1]) if len(sys.argv) > 1 else CELLS
    slots = {key: chip.slots for key, chip in load_chips(FOLDER).items()}
    # Each chip gets as many cells as it has slots for.
    shares = {chip: round(cells * slots[chip] / sum(slots.values())) for chip in CHIPS}
    facts = simulated_matrix(max(shares.values()), CHIPS)
    facts["cells"] = [
        cell for cell in facts["cells"] if int(cell["model"].removeprefix("model")) < shares[cell["chip"]]
    ]
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder), facts, scale=SCALE) as made:
        start, before = time.monotonic(), busy()
        state = made.run_sweep(timeout_s=3600)
        took, used = time.monotonic() - start, busy() - before
        assert state["type"] == "COMPLETED", state["message"]
        runs = {run["parameters"]["cell"]: run for run in runs_of(made)}
        work = {cell: sum(made.simulation.seconds(cell, what) for what in WORK) for cell in runs}
        start, before = time.monotonic(), busy()
        again = made.run_sweep()
        second, second_used = time.monotonic() - start, busy() - before
    assert len(runs) == len(facts["cells"])
    pools: dict[str, float] = defaultdict(float)
    for cell, spent in work.items():
        chip = cell.rpartition("-")[2]
        pools[chip] += spent / slots[chip]
    over = [seconds(run) - work[cell] for cell, run in runs.items()]
    waited = [sum(filter(None, [run["estimated_start_time_delta"]])) for run in runs.values()]
    least = max(pools.values())
    print(f"{state['message']}; processors: {psutil.cpu_count()}")
    print(f"sweep {took:.0f} s; the simulated work of the busiest pool alone, evenly over its slots: {least:.0f} s")
    print(
        f"run of a cell beside its simulated work: median {median(over):.1f} s, p90 {quantiles(over, n=10)[-1]:.1f} s"
    )
    print(f"from its creation to its begin: median {median(waited):.1f} s")
    print(f"processor time: {used / len(runs):.1f} s a cell")
    print(f"{again['message']}: {second:.1f} s, processor time {second_used:.1f} s")


if __name__ == "__main__":
    main()
