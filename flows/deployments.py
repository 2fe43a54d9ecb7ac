"""Matrix → Prefect: a work pool and a deployment of `baseline` for each chip, one of `release` for each cell.

A second run changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flagrelease.errors import PreflightError
from flagrelease.loading import load_chips, load_matrix, resolve_all
from flagrelease.matrix import Chip, ResolvedCell
from flagrelease.records import digest
from flagrelease.settings import Settings, settings
from flows.baseline import baseline
from flows.release import release

MANAGED = "flagrelease:managed"
PAGE = 200
Say = Callable[[str], None]


def deploy(say: Say) -> None:
    """Bring Prefect's deployments and work pools to what the matrix says; raises PreflightError without a server."""
    host = settings()
    cells = resolve_all(load_matrix(host.matrix_path), load_chips())
    if not PREFECT_API_URL.value():
        raise PreflightError(
            "no Prefect server is configured",
            remedy="start one: prefect server start; then: "
            "prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    asyncio.run(_deploy(cells, host, say))


async def _deploy(cells: list[ResolvedCell], host: Settings, say: Say) -> None:
    async with get_client() as client:
        if (trouble := await client.api_healthcheck()) is not None:
            raise PreflightError(
                f"the Prefect server at {PREFECT_API_URL.value()} does not answer: {trouble}",
                remedy="start it: prefect server start",
            )
        chips = {cell.chip.key: cell.chip for cell in cells}
        for chip in chips.values():
            say(f"work pool {chip.key}: {await _ensure_pool(client, chip)}")
        there = await _managed(client)
        all_wanted = [await _deployment(cell, host) for cell in cells]
        all_wanted += [await _baseline_deployment(chip, host) for chip in chips.values()]
        for wanted in all_wanted:
            name = f"{wanted.flow_name}/{wanted.name}"
            found = there.pop(name, None)
            if found is not None and found.version == wanted.version:
                say(f"{name}: unchanged")
                continue
            if found is not None:
                # An operator's pause outlives an update.
                wanted.paused = found.paused
            await wanted.aapply()
            say(f"{name}: {'changed' if found else 'added'}")
        for name, left in there.items():
            await client.delete_deployment(left.id)
            say(f"{name}: removed, the matrix has no such cell or chip")


async def _ensure_pool(client: PrefectClient, chip: Chip) -> str:
    try:
        pool = await client.read_work_pool(chip.key)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        await client.create_work_pool(
            WorkPoolCreate(
                name=chip.key,
                type="process",
                description=f"hosts with {chip.display} devices",
                base_job_template=template,
                concurrency_limit=chip.slots,
            )
        )
        return "added"
    if pool.concurrency_limit == chip.slots:
        return "unchanged"
    await client.update_work_pool(chip.key, WorkPoolUpdate(concurrency_limit=chip.slots))
    return "changed"


async def _managed(client: PrefectClient) -> dict[str, DeploymentResponse]:
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[MANAGED]))
    found: dict[str, DeploymentResponse] = {}
    while page := await client.read_deployments(deployment_filter=tagged, limit=PAGE, offset=len(found)):
        # Two flows share names; the flow's is the last part of the entry point.
        found |= {f"{(each.entrypoint or '').rpartition('.')[2]}/{each.name}": each for each in page}
    return found


async def _deployment(cell: ResolvedCell, host: Settings) -> RunnerDeployment:
    schedule = cell.cell.schedule
    spec: dict[str, Any] = {
        "parameters": {"cell": cell.id},
        "tags": [MANAGED, f"chip:{cell.chip.key}", f"model:{cell.cell.model}", f"suite:{cell.model.suite}"],
        "description": f"Releases {cell.model.display} on {cell.chip.display} ({cell.cell.stack}).",
        "job_variables": _job_variables(host),
        "work_pool_name": cell.chip.key,
    }
    version = digest({**spec, "schedule": schedule.model_dump() if schedule else None})[:12]
    schedules = [Cron(schedule.cron, timezone=schedule.timezone, slug="matrix")] if schedule else []
    made = release.ato_deployment(
        name=cell.id, version=version, schedules=schedules, entrypoint_type=EntrypointType.MODULE_PATH, **spec
    )
    deployment: RunnerDeployment = await made
    return deployment


async def _baseline_deployment(chip: Chip, host: Settings) -> RunnerDeployment:
    spec: dict[str, Any] = {
        "tags": [MANAGED, f"chip:{chip.key}"],
        "description": f"Measures a baseline on {chip.display}.",
        "job_variables": _job_variables(host),
        "work_pool_name": chip.key,
    }
    made = baseline.ato_deployment(
        name=chip.key, version=digest(spec)[:12], entrypoint_type=EntrypointType.MODULE_PATH, **spec
    )
    deployment: RunnerDeployment = await made
    return deployment


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
