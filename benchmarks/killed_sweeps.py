"""Twenty kills over four sweeps: `python -m benchmarks.killed_sweeps [SWEEPS] [FIRST_SEED]`.

Each of four sweeps over 12 simulated cells is disturbed by five kills (a flow run, a worker, Prefect's server,
PostgreSQL, the sweep itself) in an order and at moments of its own seed. It has to end with the store's content of an
undisturbed one, and no stage of a finished cell may have been run twice. Needs PostgreSQL's programs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.simulated.cluster import cluster
from tests.simulated.contents import contents
from tests.simulated.kills import KILLS, done_twice, sweep_with_kills
from tests.simulated.matrices import simulated_matrix
from tests.simulated.undisturbed import undisturbed_contents

SWEEPS = 4
LINES = 150
"""Of some 190 that the journal of a sweep comes to."""


def main() -> int:
    """Run the campaign; number of sweeps that ended otherwise than they should."""
    number, first = [*map(int, sys.argv[1:]), *(SWEEPS, 0)[len(sys.argv) - 1 :]]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        facts = simulated_matrix(6, ["simbeta", "simgamma"], in_images=["simgamma"])
        with cluster(Path(folder) / "cluster", facts, scale=0.5) as made:
            wanted = undisturbed_contents(Path(folder) / "undisturbed", facts, made.home / "chips", made.url)
            for seed in range(first, first + number):
                made.forget()
                start = time.monotonic()
                try:
                    killed = sweep_with_kills(made, KILLS, LINES, seed)
                    wrong = "" if contents(made.store_url) == wanted else "another content of the store"
                except AssertionError as error:
                    killed, wrong = [], str(error)
                wrong = wrong or ", ".join(done_twice(made.simulation.journal()))
                bad += bool(wrong)
                took = time.monotonic() - start
                print(f"seed {seed}: {took:.0f} s, {wrong or 'as undisturbed'} ({'; '.join(killed)})", flush=True)
    print(f"{number - bad} of {number} sweeps ended as undisturbed ones do")
    return bad


if __name__ == "__main__":
    sys.exit(bool(main()))
