"""Flows that a test can kill: they run in workers, and their processes are found by the files that they leave."""

from __future__ import annotations

import os
import time
from pathlib import Path

from prefect import flow


# A name of ours: automations are for runs of the flows that are deployed.
@flow(name="release", flow_run_name="{folder}", persist_result=False)
def mortal(folder: str, deaths: int) -> None:
    """Waits to be killed as often as told, then ends well; each beginning leaves its process id in the folder."""
    begun = len(list(Path(folder).iterdir()))
    (Path(folder) / str(begun)).write_text(str(os.getpid()))
    while begun < deaths:
        time.sleep(0.1)


@flow(name="lively", flow_run_name="{folder}", persist_result=False)
def lively(folder: str) -> None:
    """Ends when it is told so by a file."""
    (Path(folder) / "0").write_text(str(os.getpid()))
    while not (Path(folder) / "end").exists():
        time.sleep(0.1)
