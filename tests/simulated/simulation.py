"""What a simulation is told, in a file that every process of it reads, and the journal of the stages that it ran."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flagrelease.records import Record

VARIABLE = "SIMULATION"
"""Environment variable that names the file."""
SPREAD = 0.5
"""Standard deviation of the logarithm of a time: one in twenty takes 2.3 times the median or longer."""
MEDIANS: Mapping[str, float] = {"build": 2.0, "serve": 0.5, "canary": 0.25, "evaluate": 1.0}
"""Of the times of what is simulated, in units of the simulation's `scale`."""
STEP_S = 0.05


class Fault(Record):
    """What goes wrong with a cell while it is asked."""

    kind: Literal["server_died", "no_space", "hang", "regressed"]
    times: int | None = Field(default=None, description="on so many first tries; none: on every one")


class Line(Record):
    """One line of the journal."""

    time: float = Field(description="seconds since 1970")
    cell: str
    stage: str
    what: Literal["began", "ended", "fault"]
    key: str = Field(description="of the stage")
    pid: int
    flow_run: str = Field(description="Prefect's id; empty outside Prefect")


class Simulation(Record):
    """A simulation: where it keeps what it did, how fast it is, what goes wrong."""

    folder: Path
    scale: float = Field(default=1.0, gt=0, description="seconds for which 1.0 of `MEDIANS` stands")
    weights: dict[Literal["weights", "chat_template", "tokenizer"], str] = Field(
        description="SHA-256 that the weights of every simulated model are said to have: those of the baseline"
    )
    faults: dict[str, Fault] = Field(default={}, description="by cell")

    @classmethod
    def of_environment(cls) -> Simulation:
        """The simulation that this process is part of."""
        return cls.model_validate_json(Path(os.environ[VARIABLE]).read_bytes())

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / "simulation.json"

    def write(self) -> None:
        """Tell all processes that start from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".aside")
        aside.write_text(self.model_dump_json())
        aside.rename(self.path)

    def seconds(self, cell: str, what: str) -> float:
        """How long something takes for a cell: lognormal, and always the same for the same cell."""
        return self.scale * MEDIANS[what] * random.Random(f"{cell} {what}").lognormvariate(0.0, SPREAD)

    def spend(self, cell: str, what: str) -> None:
        """Let that time pass, in steps between which the process can be told to end."""
        end = time.monotonic() + self.seconds(cell, what)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(STEP_S, left))

    def fault_of(self, cell: str) -> Fault | None:
        """What goes wrong with the cell this time."""
        fault = self.faults.get(cell)
        if fault is None or fault.times is None:
            return fault
        so_far = sum(line.what == "fault" and line.cell == cell for line in self.journal())
        return fault if so_far < fault.times else None

    def note(self, cell: str, stage: str, what: str, key: str) -> None:
        """Append a line to the journal; a line is written whole, whoever else writes."""
        line: dict[str, Any] = {"time": time.time(), "cell": cell, "stage": stage, "what": what, "key": key}
        line |= {"pid": os.getpid(), "flow_run": os.environ.get("PREFECT__FLOW_RUN_ID", "")}
        self.append("journal.jsonl", line)

    def journal(self) -> list[Line]:
        """The journal so far."""
        return [Line.model_validate(line) for line in self.lines("journal.jsonl")]

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Append a line to a file of the simulation."""
        handle = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, json.dumps(line).encode() + b"\n")
        finally:
            os.close(handle)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Lines of a file of the simulation; none where nothing was written."""
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
