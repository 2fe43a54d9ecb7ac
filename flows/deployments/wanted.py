"""What the matrix wants Prefect to have: a work pool with its queues for each chip, and the deployments.

Nothing here knows Prefect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from flagrelease.chip import Chip
from flagrelease.matrix import ResolvedCell
from flagrelease.records import Record, digest
from flagrelease.settings import Settings
from flagrelease.sweep import Sweep
from flows.deployments.spread import spread

# What has this tag is FlagRelease's: it is made what the matrix says, and removed where the matrix has it no more.
MANAGED = "flagrelease:managed"
# The queues of every pool. A worker takes from the first before the second, and so on.
QUEUES = {
    "urgent": "before everything else on the chip, such as a fix that users wait for",
    "default": "runs that a person or a schedule started",
    "sweep": "runs of a sweep over the matrix: they let all others pass",
}
# The pool of what needs no chip.
CONTROL = "control"
# A sweep waits for hours and does little; its slot must be no reason for a dead run to wait for being put back.
CONTROL_SLOTS = 8
# Prefect's least between two signs of life of a run; 180 by default.
HEARTBEAT_S = 30
PATIENCE = {"PREFECT_CLIENT_MAX_RETRIES": "7", "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500"}
"""A run asks for four minutes (2 + 4 + … + 128 s) where the server is away, or its database: to that it answers 500."""
# After a restart of Prefect's server its automations do not hear of older runs' ends for a quarter of an hour.
RECOVER_CRON = "*/3 * * * *"


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
    """A work pool a chip, and one for what needs no chip."""
    return [
        *(
            Pool(name=chip.key, description=f"hosts with {chip.display} devices", slots=chip.slots)
            for chip in _chips(cells)
        ),
        Pool(name=CONTROL, description="what needs no chip: sweeps, and putting dead runs back", slots=CONTROL_SLOTS),
    ]


def deployments(
    cells: Sequence[ResolvedCell],
    flows: Mapping[str, Flow],
    host: Settings,
    *,
    suites: Iterable[str],
    sweeps: Mapping[str, Sweep],
) -> list[Deployment]:
    """All deployments, each in a pool of `pools`; `suites` and `sweeps` are the matrix's."""
    variables, suites = _job_variables(host), sorted(suites)
    return [
        *(_release(cell, flows["release"], variables, suites) for cell in cells),
        *(_baseline(chip, flows["baseline"], variables) for chip in _chips(cells)),
        *(_image(chip, cells, flows["image"], variables) for chip in _chips(cells)),
        *(_sweep(name, each, flows["sweep"], variables) for name, each in {"all": Sweep(), **sweeps}.items()),
        _recover(flows["recover"], variables),
    ]


def _chips(cells: Iterable[ResolvedCell]) -> list[Chip]:
    return list({cell.chip.key: cell.chip for cell in cells}.values())


def _release(cell: ResolvedCell, flow: Flow, variables: Mapping[str, Any], suites: Sequence[str]) -> Deployment:
    description = f"Releases {cell.model.display} on {cell.chip.display} ({cell.cell.stack})."
    schedules: list[dict[str, Any]] = []
    note = ""
    if cell.cell.schedule:
        cron, offset = spread(cell.cell.schedule.cron, cell.id)
        schedules = [_schedule(cron, cell.cell.schedule.timezone)]
        note = f"{cron} {cell.cell.schedule.timezone}, {offset} min after {cell.cell.schedule.cron}"
        description += f" Starts at {note}: cells are spread over the hour."
    return Deployment(
        flow=flow.name,
        name=cell.id,
        entrypoint=flow.entrypoint,
        parameters={"cell": cell.id},
        # Its own cell, and engines that can serve it: what would fail on a chip hours later is refused at once.
        parameter_schema=_only(
            flow.parameters,
            cell=[cell.id],
            engine=sorted({cell.cell.engine, *cell.cell.engines}),
            suite=suites,
            # Weights that come in a package have no revisions.
            **({"revision": []} if cell.model.weights else {}),
        ),
        schedules=schedules,
        pool=cell.chip.key,
        tags=sorted([MANAGED, f"chip:{cell.chip.key}", f"model:{cell.cell.model}", f"suite:{cell.model.suite}"]),
        description=description,
        job_variables=dict(variables),
        note=note,
    )


def _baseline(chip: Chip, flow: Flow, variables: Mapping[str, Any]) -> Deployment:
    return Deployment(
        flow=flow.name,
        name=chip.key,
        entrypoint=flow.entrypoint,
        parameter_schema=flow.parameters,
        pool=chip.key,
        tags=sorted([MANAGED, f"chip:{chip.key}"]),
        description=f"Measures a baseline on {chip.display}.",
        job_variables=dict(variables),
    )


def _image(chip: Chip, cells: Iterable[ResolvedCell], flow: Flow, variables: Mapping[str, Any]) -> Deployment:
    return Deployment(
        flow=flow.name,
        name=chip.key,
        entrypoint=flow.entrypoint,
        parameter_schema=_only(flow.parameters, cell=[cell.id for cell in cells if cell.chip.key == chip.key]),
        pool=chip.key,
        tags=sorted([MANAGED, f"chip:{chip.key}"]),
        description=f"Builds the container image of a cell of {chip.display}.",
        job_variables=dict(variables),
    )


def _sweep(name: str, sweep: Sweep, flow: Flow, variables: Mapping[str, Any]) -> Deployment:
    schedules: list[dict[str, Any]] = []
    note = ""
    if sweep.schedule:
        # At the matrix's own minute: a sweep is one run, there is nothing to spread.
        schedules = [_schedule(sweep.schedule.cron, sweep.schedule.timezone)]
        note = f"{sweep.schedule.cron} {sweep.schedule.timezone}"
    return Deployment(
        flow=flow.name,
        name=name,
        entrypoint=flow.entrypoint,
        parameters=sweep.model_dump(mode="json", exclude={"schedule"}, exclude_defaults=True),
        parameter_schema=flow.parameters,
        schedules=schedules,
        pool=CONTROL,
        tags=[MANAGED],
        description="Releases every cell of the matrix that is stale."
        if name == "all"
        else "Releases the stale cells of a part of the matrix.",
        job_variables=dict(variables),
        note=note,
    )


def _recover(flow: Flow, variables: Mapping[str, Any]) -> Deployment:
    return Deployment(
        flow=flow.name,
        name="crashed",
        entrypoint=flow.entrypoint,
        parameter_schema=flow.parameters,
        pool=CONTROL,
        # Before sweeps that wait for a slot: they may wait for the very run that is put back.
        queue="urgent",
        tags=[MANAGED],
        schedules=[_schedule(RECOVER_CRON, "UTC")],
        description="Puts runs that crashed back, once. An automation starts it for one, the schedule for all.",
        job_variables=dict(variables),
    )


def _schedule(cron: str, timezone: str) -> dict[str, Any]:
    """As Prefect writes it."""
    return {"slug": "matrix", "schedule": {"cron": cron, "timezone": timezone, "day_or": True}, "parameters": {}}


def _only(schema: Mapping[str, Any], **allowed: Sequence[str]) -> dict[str, Any]:
    """A parameter schema in which the named parameters may have only these texts, and null where they could before."""
    properties = dict(schema["properties"])
    for name, texts in allowed.items():
        limits: dict[str, Any] = {"enum": texts}
        if branches := properties[name].get("anyOf"):
            text = [{**one, "enum": texts} for one in branches if one["type"] == "string" and texts]
            limits = {"anyOf": [*text, *(one for one in branches if one["type"] != "string")]}
        properties[name] = {**properties[name], **limits}
    return {**schema, "properties": properties}


def _job_variables(host: Settings) -> dict[str, Any]:
    """State that lies on this host is named by its place; shared state comes from each worker's environment.

    Heartbeats stand here and not in the pools' job templates: those are their operators', and older pools lack them.
    """
    environment = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S), **PATIENCE}
    if host.store is not None:
        return {"env": environment}
    return {
        "working_dir": str(Path.cwd()),
        "env": {
            **environment,
            "FLAGRELEASE_HOME": str(host.home_path),
            "FLAGRELEASE_OUTPUT": str(host.output_path),
            "FLAGRELEASE_MATRIX": str(host.matrix_path.absolute()),
            **{
                name: str(path.expanduser().absolute())
                for name, path in (("FLAGRELEASE_CHIPS", host.chips), ("FLAGRELEASE_KNOWN_ISSUES", host.known_issues))
                if path
            },
        },
    }
