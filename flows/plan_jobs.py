"""Keys of a cell's stages as today's matrix has them, on any host: also one without the chip, engine or harness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from evaluation.run import HARNESSES
from flagrelease.errors import PreflightError
from flagrelease.pipeline import Plan, plan
from flagrelease.records import Stage
from flagrelease.store.plans import PastStage
from flows.job import Job, make_plan

LOAD_GENERATOR = "vLLM's load generator"
NOT_HERE = "not known here"


class Versions:
    """Versions of programs on this host, each looked up once."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def of(self, program: str, look: Callable[[], str]) -> str | None:
        """The program's version; none where this host lacks it."""
        if program not in self._known:
            try:
                self._known[program] = look()
            except PreflightError:
                self._known[program] = None
        return self._known[program]


@dataclass(frozen=True, kw_only=True)
class PlannedJob(Job):
    """A job whose engine and harnesses this host may lack."""

    versions: Versions

    @property
    def engine_version(self) -> str:
        """Version of the engine, as far as it is known here."""
        if self.image_inputs is not None:
            return super().engine_version
        return self.versions.of(self.engine.name, self.engine.version) or NOT_HERE

    @property
    def harnesses(self) -> list[str]:
        """None: `planned` puts them in with their versions."""
        return []


def planned(
    job: Job, versions: Versions, past: Mapping[Stage, PastStage], checked: Sequence[str] = ()
) -> tuple[Plan, list[str]]:
    """Inputs and keys of the job's stages, and what this host lacks to know them all.

    A version that is not known here is taken to be that of the newest release (`past`). `checked`: as `make_plan`
    takes it. Raises BaselineError.
    """
    own = {field.name: getattr(job, field.name) for field in fields(Job)}
    inputs: dict[Stage, dict[str, Any]] = {
        stage: dict(each) for stage, each in make_plan(PlannedJob(**own, versions=versions), checked).inputs.items()
    }
    lacks = []

    def before(stage: Stage, *path: str) -> Any:
        value: Any = past[stage].inputs if stage in past else None
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    for stage in Stage:
        if inputs[stage].get("engine_version") == NOT_HERE:
            inputs[stage]["engine_version"] = before(stage, "engine_version") or NOT_HERE
            lacks.append(job.engine.display)
    harnesses = {}
    for name in job.harnesses:
        version = versions.of(name, HARNESSES[name].version)
        if version is None:
            lacks.append(name)
        harnesses[name] = version or before(Stage.EVALUATE, "harnesses", name) or NOT_HERE
    inputs[Stage.EVALUATE]["harnesses"] = harnesses
    speed = inputs[Stage.SPEED]
    if speed["speed"] and speed["load_generator"] is None and (known := before(Stage.SPEED, "load_generator")):
        speed["load_generator"] = known
        lacks.append(LOAD_GENERATOR)
    return plan(inputs), list(dict.fromkeys(lacks))
