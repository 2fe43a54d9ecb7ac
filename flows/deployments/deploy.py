"""`flagrelease deploy`: reads the matrix, shows what it changes in Prefect, and changes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from flagrelease.errors import DeployError, PreflightError
from flagrelease.loading import load_chips, load_matrix, resolve_all
from flagrelease.settings import settings
from flows.baseline import baseline
from flows.deployments import api, server
from flows.deployments.automations import automations
from flows.deployments.changes import Changes, There, Wanted, changes
from flows.deployments.wanted import MANAGED, deployments, pools
from flows.image import image
from flows.recover import recover
from flows.release import release
from flows.sweep import sweep
from runtime.launch.interface import Log

PUT_BACK = (release, baseline, image, sweep)
FLOWS = (*PUT_BACK, recover)
STRANGERS_SHOWN = 5


def deploy(say: Log, agree: Callable[[Changes], bool]) -> None:
    """Bring Prefect's work pools, deployments and automations to what the matrix says.

    `say` gets a line for each change before the first is made; then they are made if `agree`.
    Raises PreflightError where no Prefect server can be used, DeployError where it is not brought to its end, and what
    is wrong with the matrix.
    """
    host = settings()
    matrix = load_matrix(host.matrix_path)
    cells = resolve_all(matrix, load_chips())
    flows = {flow.name: api.flow_of(flow) for flow in FLOWS}
    if not PREFECT_API_URL.value():
        raise PreflightError(
            "no Prefect server is configured",
            remedy="start one: prefect server start; then: "
            "prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    wanted = Wanted(
        pools(cells),
        deployments(cells, flows, host, suites=matrix.suites, sweeps=matrix.sweeps),
        automations(flow.name for flow in PUT_BACK),
    )
    asyncio.run(_deploy(wanted, say, agree))


async def _deploy(wanted: Wanted, say: Log, agree: Callable[[Changes], bool]) -> None:
    async with get_client() as client:
        await server.check(client, say)
        try:
            there = There(
                await api.find_pools(client, [pool.name for pool in wanted.pools]),
                await api.find_deployments(client),
                await api.find_automations(client),
            )
            plan = changes(wanted, there)
            strangers = await api.find_strangers(client, plan.add)
        except server.TROUBLE as error:
            raise server.failed(error, "nothing was changed") from error
        if strangers:
            some = ", ".join(strangers[:STRANGERS_SHOWN]) + (" …" if len(strangers) > STRANGERS_SHOWN else "")
            raise DeployError(
                f"nothing was changed: somebody else made {some}, which the matrix has too",
                remedy=f"delete what is not needed (prefect deployment delete {strangers[0]}), or hand it over: "
                f"give it the tag {MANAGED}",
            )
        for line in plan.lines():
            say(line)
        if not plan or not agree(plan):
            return
        start = time.monotonic()
        await api.apply(client, plan, say)
        say(f"done: {len(plan)} change{'s' if len(plan) > 1 else ''} in {time.monotonic() - start:.1f} s")
