"""Killing what a sweep needs while it runs, as the kernel or a power cut does; and what must not have happened then."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tests.simulated.cluster import CONTROL, Cluster
from tests.simulated.simulation import Line
from tests.waiting import wait_for

KILLS = ("flow", "worker", "server", "postgresql", "sweep")
ENGINE = "prefect.engine"


def kill(made: Cluster, what: str, sweep: str, chosen: random.Random) -> str:
    """Kill one of `KILLS` with SIGKILL and start it again where nobody else does; says which it was.

    `sweep`: id of the sweep's flow run. Flow runs are started again by Prefect's automations.
    """
    if what == "flow":
        found = wait_for("a flow run on a chip", made.flow_processes)
        run = chosen.choice(sorted(found))
        found[run].kill()
        return f"flow run {run}"
    if what == "sweep":
        wait_for("the sweep's own process", lambda: made.flow_processes(ENGINE).get(sweep)).kill()
        return "the sweep"
    if what == "worker":
        pool = chosen.choice([*made.pools, CONTROL])
        made.kill_worker(pool)
        made.start_worker(pool)
        return f"worker of {pool}"
    if what == "server":
        made.kill_server()
        made.start_server()
        return "Prefect's server"
    made.postgresql.kill()
    made.postgresql.start()
    # Parts of Prefect's server may have ended with their connections, as docs/deploying.md says.
    made.kill_server()
    made.start_server()
    return "PostgreSQL"


def sweep_with_kills(made: Cluster, kills: Iterable[str], lines: int, seed: int, timeout_s: float = 600) -> list[str]:
    """Run a sweep that kills of these kinds disturb, each when the journal has come to a line drawn of `lines`.

    Returns what was killed and when; the sweep has ended then. Fails where it has not ended well.
    """
    chosen, done = random.Random(seed), []
    order = list(kills)
    chosen.shuffle(order)
    # One in each of as many equal parts, so that what was killed before is up again.
    part = lines // len(order)
    moments = [number * part + chosen.randrange(1, part) for number in range(len(order))]
    sweep = made.start_run("sweep/all")
    for what, moment in zip(order, moments, strict=True):
        made.wait_for_lines(moment)
        done.append(f"line {moment}: {kill(made, what, sweep, chosen)}")
        print(done[-1], flush=True)
    state = made.ended(sweep, timeout_s)
    assert state["type"] == "COMPLETED", state["message"]
    return done


def done_twice(journal: Iterable[Line]) -> list[str]:
    """Stages that were begun of cells that had been finished."""
    finished: set[str] = set()
    again = []
    for line in journal:
        if line.what == "began" and line.cell in finished:
            again.append(f"{line.cell}: {line.stage}")
        if (line.stage, line.what) == ("publish", "ended"):
            finished.add(line.cell)
    return again
