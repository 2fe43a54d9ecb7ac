"""What Prefect has, and how it is changed: the calls of one client."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args
from uuid import UUID

import prefect
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, WorkPoolFilter, WorkPoolFilterName
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker
from pydantic.fields import FieldInfo

from flows.deployments.automations import PREFIX
from flows.deployments.changes import AutomationChange, Changes, Found, FoundAutomation, FoundPool, PoolChange
from flows.deployments.server import TROUBLE, failed
from flows.deployments.wanted import MANAGED, QUEUES, Deployment, Flow
from runtime.launch.interface import Log

PROGRESS_EACH = 100


def flow_of(flow: prefect.Flow[..., Any]) -> Flow:
    """What a deployment has to know of a flow."""
    # A parameter that the flow does not have is refused before the run, too.
    schema = {**parameter_schema(flow).model_dump(), "additionalProperties": False}
    # Prefect takes descriptions of parameters from docstrings only; ours stand in Field().
    for name, parameter in inspect.signature(flow.fn, eval_str=True).parameters.items():
        for info in get_args(parameter.annotation):
            if isinstance(info, FieldInfo) and info.description:
                schema["properties"][name]["description"] = info.description
    return Flow(name=flow.name, entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}", parameters=schema)


async def find_pools(client: PrefectClient, names: list[str]) -> dict[str, FoundPool]:
    """Those of the named pools that there are."""
    named = WorkPoolFilter(name=WorkPoolFilterName(any_=names))
    found = {}
    for pool in await client.read_work_pools(work_pool_filter=named):
        queues = await client.read_work_queues(work_pool_name=pool.name)
        found[pool.name] = FoundPool(pool.concurrency_limit, frozenset(queue.name for queue in queues))
    return found


async def find_deployments(client: PrefectClient) -> list[Found]:
    """All deployments that carry our tag, of whichever flow."""
    ours = {"tags": {"all_": [MANAGED]}}
    flows = await client.read_flows(deployment_filter=DeploymentFilter.model_validate(ours))
    # By flow, as names are unique within one: pages that are sorted by a name that is there twice can lose one.
    return [
        _found(flow.name, one)
        for flow in flows
        async for one in _pages(client, "deployments", flows={"id": {"any_": [str(flow.id)]}}, deployments=ours)
    ]


async def find_strangers(client: PrefectClient, wanted: list[Deployment]) -> list[str]:
    """Full names of those among `wanted` that there are without our tag: another made them."""
    strangers = []
    for flow in sorted({one.flow for one in wanted}):
        named = {"name": {"any_": [one.name for one in wanted if one.flow == flow]}}
        pages = _pages(client, "deployments", flows={"name": {"any_": [flow]}}, deployments=named)
        strangers += [f"{flow}/{one['name']}" async for one in pages if MANAGED not in one["tags"]]
    return strangers


async def find_automations(client: PrefectClient) -> list[FoundAutomation]:
    """All automations whose name has our prefix, the oldest first."""
    return [
        FoundAutomation(UUID(one["id"]), one["name"], one["enabled"], one)
        async for one in _pages(client, "automations", sort="CREATED_DESC")
        if one["name"].startswith(PREFIX)
    ][::-1]


async def _pages(client: PrefectClient, kind: str, **filters: Any) -> AsyncIterator[dict[str, Any]]:
    """What Prefect has of a kind, as the API gives it.

    Not as Prefect's models: in 3.8 each schedule of a deployment reads the host's whole folder of time zones, 15 ms.
    """
    seen = 0
    while page := (await client.request("POST", f"/{kind}/filter", json={**filters, "offset": seen})).json():  # type: ignore[arg-type]
        seen += len(page)
        for one in page:
            yield one


def _found(flow: str, one: dict[str, Any]) -> Found:
    deployment = Deployment(
        flow=flow,
        name=one["name"],
        entrypoint=one["entrypoint"],
        parameters=one["parameters"],
        parameter_schema=one["parameter_openapi_schema"] or {},
        enforce_schema=one["enforce_parameter_schema"],
        schedules=[
            {"slug": each["slug"], "schedule": each["schedule"], "parameters": each["parameters"]}
            for each in sorted(one["schedules"], key=lambda each: each["slug"] or "")
        ],
        pool=one["work_pool_name"],
        queue=one["work_queue_name"],
        tags=sorted(one["tags"]),
        description=one["description"],
        job_variables=one["job_variables"],
        limit=(one["global_concurrency_limit"] or {}).get("limit"),
    )
    active = {each["slug"]: each["active"] for each in one["schedules"]}
    return Found(UUID(one["id"]), deployment, one["version"], paused=one["paused"], active=active)


async def apply(client: PrefectClient, wanted: Changes, say: Log) -> None:
    """Make the changes: pools first, removals last. Raises DeployError, which says how many were made.

    One after the other: Prefect's server is one process and the slower side, so that more at once gain nothing, and
    on SQLite they stand in each other's way.
    """
    name, made, flows = "", 0, {}
    try:
        for name in sorted({one.flow for one, _ in wanted.put}):
            flows[name] = await client.create_flow_from_name(name)
        for step, change in _steps(client, wanted, flows):
            name = step
            await change
            made += 1
            if made % PROGRESS_EACH == 0:
                say(f"{made} of {len(wanted)} done")
    except TROUBLE as error:
        raise failed(error, f"stopped at {name}, after {made} of {len(wanted)} changes") from error


def _steps(
    client: PrefectClient, wanted: Changes, flows: Mapping[str, UUID]
) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
    for pool in wanted.pools:
        yield f"work pool {pool.pool.name}", _put_pool(client, pool)
    for one, found in wanted.put:
        yield one.full_name, _put(client, flows[one.flow], one, found)
    for automation in wanted.automations.put:
        yield f"automation {automation.wanted.name}", _put_automation(client, automation)
    for gone in wanted.remove:
        yield gone.deployment.full_name, _remove(client, gone.id)
    for unwanted in wanted.automations.remove:
        yield f"automation {unwanted.name}", client.delete_automation(unwanted.id)


async def _put_pool(client: PrefectClient, change: PoolChange) -> None:
    pool = change.pool
    if change.found is None:
        template = ProcessWorker.get_default_base_job_template()
        # A run that writes to its worker's console ends with an error at its next line when the worker is killed.
        template["variables"]["properties"]["stream_output"]["default"] = False
        await client.create_work_pool(
            WorkPoolCreate(
                name=pool.name,
                type="process",
                description=pool.description,
                base_job_template=template,
                concurrency_limit=pool.slots,
            )
        )
    elif change.found.slots != pool.slots:
        await client.update_work_pool(pool.name, WorkPoolUpdate(concurrency_limit=pool.slots))
    for priority, (name, description) in enumerate(QUEUES.items(), start=1):
        # Prefect makes every pool with its queue `default`; one before it moves it back.
        if name in change.queues and name != "default":
            await client.create_work_queue(
                name=name, description=description, priority=priority, work_pool_name=pool.name
            )


async def _put(client: PrefectClient, flow: UUID, wanted: Deployment, found: Found | None) -> None:
    """Add a deployment, or replace it; what an operator paused stays paused."""
    active = found.active if found else {}
    facts = {
        "flow_id": str(flow),
        "name": wanted.name,
        "version": wanted.version,
        "entrypoint": wanted.entrypoint,
        "pull_steps": [],
        "parameters": wanted.parameters,
        "parameter_openapi_schema": wanted.parameter_schema,
        "enforce_parameter_schema": wanted.enforce_schema,
        "schedules": [{**one, "active": active.get(one["slug"], True)} for one in wanted.schedules],
        "work_pool_name": wanted.pool,
        "work_queue_name": wanted.queue,
        "tags": wanted.tags,
        "description": wanted.description,
        "job_variables": wanted.job_variables,
        "concurrency_limit": wanted.limit,
        "paused": found.paused if found else False,
    }
    await client.request("POST", "/deployments/", json=facts)


async def _put_automation(client: PrefectClient, change: AutomationChange) -> None:
    """Add an automation, or replace it; what an operator switched off stays off."""
    runs = change.wanted.runs
    deployments = {runs: (await client.read_deployment_by_name(runs)).id} if runs else {}
    content = change.wanted.content(deployments)
    if change.found:
        facts = {**content, "enabled": change.found.enabled}
        await client.request("PUT", "/automations/{id}", path_params={"id": change.found.id}, json=facts)
    else:
        await client.request("POST", "/automations/", json=content)


async def _remove(client: PrefectClient, deployment: UUID) -> None:
    # A request that is sent again after a lost answer finds nothing.
    with suppress(ObjectNotFound):
        await client.delete_deployment(deployment)
