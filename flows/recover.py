"""The flow `recover`: a run that died is put back, so that a worker takes it again.

The release then goes on from the stages that the store has.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Crashed, Running, Scheduled, Suspended
from pydantic import Field

from flows.deployments.automations import BEGIN_S, HEARTBEAT, LIFE_S, UNHEARD
from flows.deployments.wanted import MANAGED
from runtime.launch.interface import Log

POLL_S = 2.0
LOOK_BACK_H = 24.0
UNBEGUN = 3
"""How often a run is put back that dies before it begins."""
STUCK_S = BEGIN_S + 60.0
"""Longer than the automations take."""


def run_name() -> str:
    """What a run of the flow is called."""
    return f"recover {flow_run.parameters.get('flow_run') or 'all'}"


@flow(name="recover", flow_run_name=run_name, persist_result=False)
def recover(
    flow_run: Annotated[str | None, Field(description="id of a flow run that crashed; by default all that did")] = None,
    life_s: Annotated[
        float, Field(description="how long to listen to a run that fell silent before it is taken for dead, in seconds")
    ] = LIFE_S,
) -> State[None]:
    """Put a crashed run of one of our deployments back; this run's log and the message of its end say why not.

    It stays the same run, with its parameters and tags. A run that fell silent is listened to first: where only the
    server or the network was away its process lives, and a second one would do the same work beside it.
    """
    logger = get_run_logger()
    with get_client(sync_client=True) as client:
        if flow_run is not None:
            said = put_back(client, UUID(flow_run), life_s, logger.info)
        else:
            said = put_all_back(client, life_s, logger.info)
    logger.info(said)
    return Completed(message=said)


def put_all_back(client: SyncPrefectClient, life_s: float, log: Log) -> str:
    """Put back all crashed runs of the last day, after those that nobody else ended were ended; what was done."""
    _end_stuck(client, log)
    since = (datetime.now(UTC) - timedelta(hours=LOOK_BACK_H)).isoformat()
    crashed = _runs(client, {"state": {"type": {"any_": ["CRASHED"]}}, "end_time": {"after_": since}})
    said = []
    for run in crashed:
        said.append(put_back(client, UUID(run["id"]), life_s, log))
        log(f"{run['name']}: {said[-1]}")
    back = sum(each.startswith("put back") for each in said)
    return f"{back} of {len(said)} crashed runs put back"


def _end_stuck(client: SyncPrefectClient, log: Log) -> None:
    """End runs that have been about to begin, or to be cancelled, for long: the process that would do it is dead."""
    for run in _runs(client, {"state": {"type": {"any_": ["PENDING", "CANCELLING"]}}}):
        seconds = (datetime.now(UTC) - datetime.fromisoformat(run["state"]["timestamp"])).total_seconds()
        if seconds < STUCK_S:
            continue
        state: State[None]
        if run["state_type"] == "PENDING":
            state = Crashed(message=f"{UNHEARD} in {seconds:.0f} s after a worker took it")
        else:
            state = Cancelled(message=f"nobody cancelled it in {seconds:.0f} s")
        log(f"{run['name']}: {state.message}")
        client.set_flow_run_state(UUID(run["id"]), state)


def _runs(client: SyncPrefectClient, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Runs of our deployments, but those of this flow."""
    filters = {
        "flow_runs": wanted,
        "deployments": {"tags": {"all_": [MANAGED]}},
        "flows": {"name": {"any_": ["release", "baseline", "image", "sweep"]}},
    }
    found: list[dict[str, Any]] = client.request("POST", "/flow_runs/filter", json=filters).json()
    return found


def put_back(client: SyncPrefectClient, identifier: UUID, life_s: float, log: Log) -> str:
    """Put the run back if it has to be; what was done, and why."""
    try:
        run = client.read_flow_run(identifier)
    except ObjectNotFound:
        return f"left: there is no run {identifier}"
    if reason := _not_ours(client, run) or _not_crashed(run) or _no_second_time(client, identifier):
        return f"left: {reason}"
    said = run.state.message if run.state and run.state.message else "no reason is known"
    if said.startswith(UNHEARD):
        log(f"listening to the run for {life_s:.0f} s, as its process may live yet")
        lives = _lives(client, identifier, life_s)
        if reason := _not_crashed(client.read_flow_run(identifier)):
            return f"left: {reason}"
        if lives:
            client.set_flow_run_state(identifier, Running(message="it is heard again"), force=True)
            return "left: it is heard again, so its process lives"
    answer: OrchestrationResult[None] = client.set_flow_run_state(
        identifier, Scheduled(message=f"put back, as it crashed: {said}")
    )
    if answer.status != SetStateStatus.ACCEPT:
        return f"left: Prefect refused to put it back: {getattr(answer.details, 'reason', answer.status)}"
    return "put back: a worker of its pool takes it again"


def states_of(client: SyncPrefectClient, identifier: UUID) -> list[State]:
    """The states that a run went through, in order."""
    return sorted(client.read_flow_run_states(identifier), key=lambda state: state.timestamp)


def cancelled(states: Sequence[State]) -> bool:
    """Whether a run with these states, in order, was to be cancelled when it died."""
    begun = max((number for number, state in enumerate(states) if state.is_scheduled()), default=0)
    return any(state.type == StateType.CANCELLING for state in states[begun:])


def came_back(states: Sequence[State]) -> bool:
    """Whether a crashed run with these states, in order, was put back as often as it may be.

    Once, if its process died both times. A process that dies before it begins has done nothing, and it is rarely the
    run's fault: Prefect's server was away, or the worker died. Such a run is put back `UNBEGUN` times.
    """
    crashes = begun = 0
    running = False
    for before, after in pairwise([*states, Scheduled()]):
        running = (running or before.is_running()) and not before.is_scheduled()
        if before.is_crashed() and after.is_scheduled():
            crashes, begun = crashes + 1, begun + running
    return begun > 1 or crashes > UNBEGUN


def _not_ours(client: SyncPrefectClient, run: FlowRun) -> str:
    """Why the run is none that is put back; nothing where it is."""
    if run.deployment_id is None:
        return "it was not started by a deployment"
    try:
        deployment = client.read_deployment(run.deployment_id)
    except ObjectNotFound:
        return "its deployment is no more"
    if MANAGED not in deployment.tags:
        return f"its deployment is not FlagRelease's (it has no tag {MANAGED})"
    if client.read_flow(run.flow_id).name == recover.name:
        return "what puts runs back is not put back itself"
    return ""


def _not_crashed(run: FlowRun) -> str:
    """Why a run that has not crashed is left; nothing where it has."""
    if run.state is not None and run.state.is_crashed():
        return ""
    return f"it is {run.state.name if run.state else 'not begun'}, not crashed"


def _no_second_time(client: SyncPrefectClient, identifier: UUID) -> str:
    """Why the crashed run is not started again; nothing where it is.

    One that was to be cancelled is cancelled. One that was taken for dead while it was suspended is suspended again: a
    heartbeat that the server gets after that state is followed by none.
    """
    states = states_of(client, identifier)
    before = next(iter(states[-2:-1]), None)
    if before is not None and before.is_paused():
        again: State[None] = Suspended(pause_key=before.state_details.pause_key)
        client.set_flow_run_state(identifier, again, force=True)
        return "it is suspended until somebody resumes it, and has no process to be heard of"
    if cancelled(states):
        client.set_flow_run_state(identifier, Cancelled(message="it died before it could be cancelled"))
        return "its cancellation was asked for; it is cancelled now"
    if came_back(states):
        return (
            f"it crashed again after it was put back: {states[-1].message}; see its log, then: "
            f"prefect flow-run retry {identifier}"
        )
    return ""


def _lives(client: SyncPrefectClient, identifier: UUID, within_s: float) -> bool:
    """Whether the run sends a heartbeat within this time."""
    last, end = _newest_heartbeat(client, identifier), time.monotonic() + within_s
    while time.monotonic() < end:
        time.sleep(min(POLL_S, within_s))
        if _newest_heartbeat(client, identifier) != last:
            return True
    return False


def _newest_heartbeat(client: SyncPrefectClient, identifier: UUID) -> str | None:
    """Id of the run's newest heartbeat that the server has. Not its time: hosts' clocks differ."""
    wanted = {
        "event": {"name": [HEARTBEAT]},
        "resource": {"id": [f"prefect.flow-run.{identifier}"]},
        "order": "DESC",
    }
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    found = answer.json()["events"]
    return str(found[0]["id"]) if found else None
