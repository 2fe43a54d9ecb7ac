"""What the matrix wants Prefect to have: a work pool with its queues for each chip, and the deployments.

Nothing here knows Prefect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from flagrelease.matrix import Chip, ResolvedCell
from flagrelease.records import Record, digest
from flagrelease.settings import Settings
from flows.deployments.spread import spread

# What has this tag is FlagRelease's: it is made what the matrix says, and removed where the matrix has it no more.
MANAGED = "flagrelease:managed"
# The queues of every pool. A worker takes from the first before the second, and so on.
QUEUES = {
    "urgent": "before everything else on the chip, such as a fix that users wait for",
    "default": "runs that a person or a schedule started",
    "sweep": "runs of a sweep over the matrix: they let all others pass",
}


class Flow(Record):
    """What Prefect has to know of a flow."""

    name: str
    entrypoint: str = Field(description="module and function, so that a worker needs the wheel and no checkout")
    parameters: dict[str, Any] = Field(description="JSON Schema of its parameters")


class Pool(Record):
    """A work pool: hosts that can do the same work."""

    name: str
    description: str
    slots: int = Field(description="runs at once")


class Deployment(Record):
    """A deployment, as far as it is the matrix's: all but its history and its pauses, which are its operators'."""

    flow: str
    name: str
    entrypoint: str | None
    parameters: dict[str, Any] = Field(default={})
    parameter_schema: dict[str, Any]
    enforce_schema: bool = True
    schedules: list[dict[str, Any]] = Field(default=[], description="as Prefect writes them")
    pool: str | None
    queue: str | None = "default"
    tags: list[str] = Field(description="sorted")
    description: str | None
    job_variables: dict[str, Any]
    limit: int | None = Field(
        default=None,
        description="its own limit of runs at once; none, as the pool has one, and a deployment's ends its runs with "
        "FAILED where the server restarts",
    )
    note: str = Field(default="", exclude=True, description="for who reads the plan; not a part of the deployment")

    @property
    def full_name(self) -> str:
        """As Prefect's commands call it, for example release/qwen3-metax."""
        return f"{self.flow}/{self.name}"

    @property
    def version(self) -> str:
        """The same for the same content. Each run is stored with that of its deployment."""
        return digest(self.model_dump())[:12]


def pools(cells: Iterable[ResolvedCell]) -> list[Pool]:
    """A work pool a chip."""
    return [
        Pool(name=chip.key, description=f"hosts with {chip.display} devices", slots=chip.slots)
        for chip in _chips(cells)
    ]


def deployments(cells: Sequence[ResolvedCell], flows: Mapping[str, Flow], host: Settings) -> list[Deployment]:
    """All deployments, each in a pool of `pools`."""
    return [
        *(_release(cell, flows["release"], host) for cell in cells),
        *(_baseline(chip, flows["baseline"], host) for chip in _chips(cells)),
    ]


def _chips(cells: Iterable[ResolvedCell]) -> list[Chip]:
    return list({cell.chip.key: cell.chip for cell in cells}.values())


def _release(cell: ResolvedCell, flow: Flow, host: Settings) -> Deployment:
    description = f"Releases {cell.model.display} on {cell.chip.display} ({cell.cell.stack})."
    schedules, note = [], ""
    if cell.cell.schedule:
        cron, offset = spread(cell.cell.schedule.cron, cell.id)
        schedule = {"cron": cron, "timezone": cell.cell.schedule.timezone, "day_or": True}
        schedules.append({"slug": "matrix", "schedule": schedule, "parameters": {}})
        note = f"{cron} {cell.cell.schedule.timezone}, {offset} min after {cell.cell.schedule.cron}"
        description += f" Starts at {note}: cells are spread over the hour."
    return Deployment(
        flow=flow.name,
        name=cell.id,
        entrypoint=flow.entrypoint,
        parameters={"cell": cell.id},
        # Its own cell, and engines that can serve it: what would fail on a chip hours later is refused at once.
        parameter_schema=_only(flow.parameters, cell=[cell.id], engine=sorted({cell.cell.engine, *cell.cell.engines})),
        schedules=schedules,
        pool=cell.chip.key,
        tags=sorted([MANAGED, f"chip:{cell.chip.key}", f"model:{cell.cell.model}", f"suite:{cell.model.suite}"]),
        description=description,
        job_variables=_job_variables(host),
        note=note,
    )


def _baseline(chip: Chip, flow: Flow, host: Settings) -> Deployment:
    return Deployment(
        flow=flow.name,
        name=chip.key,
        entrypoint=flow.entrypoint,
        parameter_schema=flow.parameters,
        pool=chip.key,
        tags=sorted([MANAGED, f"chip:{chip.key}"]),
        description=f"Measures a baseline on {chip.display}.",
        job_variables=_job_variables(host),
    )


def _only(schema: Mapping[str, Any], **allowed: Sequence[str]) -> dict[str, Any]:
    """A parameter schema in which the named parameters may have only these texts, and null where they could before."""
    properties = dict(schema["properties"])
    for name, texts in allowed.items():
        branches = properties[name].get("anyOf")
        properties[name] = {
            **properties[name],
            **(
                {"anyOf": [{**one, "enum": texts} if one["type"] == "string" else one for one in branches]}
                if branches
                else {"enum": texts}
            ),
        }
    return {**schema, "properties": properties}


def _job_variables(host: Settings) -> dict[str, Any]:
    """State that lies on this host is named by its place; shared state comes from each worker's environment."""
    if host.store is not None:
        return {}
    return {
        "working_dir": str(Path.cwd()),
        "env": {
            "FLAGRELEASE_HOME": str(host.home_path),
            "FLAGRELEASE_OUTPUT": str(host.output_path),
            "FLAGRELEASE_MATRIX": str(host.matrix_path.absolute()),
        },
    }
