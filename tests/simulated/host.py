"""The command of flow runs on a simulated chip: `python -m tests.simulated.host`.

A work pool's job template names it in place of `python -m prefect.engine`. It puts the stand-ins into their places, and
then is Prefect's engine.
"""

from __future__ import annotations

import runpy

from tests.simulated import stand_ins
from tests.simulated.simulation import Simulation

if __name__ == "__main__":
    stand_ins.install(Simulation.of_environment())
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
