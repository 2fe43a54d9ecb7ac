"""What puts crashed runs back by a schedule, where Prefect's automations did not: against a real Prefect server."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Cancelling, Completed, Crashed, Pending, Running

import flows.recover as recovering
from tests.integration.test_sweep_runs import METAX, SMALL, _no_runs, server  # noqa: F401 - fixtures


def run_in(server: SyncPrefectClient, cell: str, *states: State[Any]) -> UUID:  # noqa: F811
    """A run of a cell that went through these states."""
    run = server.create_flow_run_from_deployment(server.read_deployment_by_name(f"release/{cell}").id).id
    for state in states:
        server.set_flow_run_state(run, state, force=True)
    return run


def state_of(server: SyncPrefectClient, run: UUID) -> str:  # noqa: F811
    state = server.read_flow_run(run).state
    assert state is not None
    return state.type.value


def test_what_crashed_is_put_back_once(server: SyncPrefectClient) -> None:  # noqa: F811
    crashed = run_in(server, SMALL, Pending(), Running(), Crashed(message="killed"))
    ended = run_in(server, METAX, Pending(), Running(), Completed())
    waiting = run_in(server, METAX)
    assert recovering.put_all_back(server, 0.0, print) == "1 of 1 crashed runs put back"
    assert [state_of(server, run) for run in (crashed, ended, waiting)] == ["SCHEDULED", "COMPLETED", "SCHEDULED"]
    assert recovering.put_all_back(server, 0.0, print) == "0 of 0 crashed runs put back"
    again: list[State[Any]] = [Pending(), Running(), Crashed(message="killed again")]
    for state in again:
        server.set_flow_run_state(crashed, state, force=True)
    assert recovering.put_all_back(server, 0.0, print) == "0 of 1 crashed runs put back"
    assert state_of(server, crashed) == "CRASHED"


def test_what_nobody_ends_is_ended(server: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    lost = run_in(server, SMALL, Pending())
    cancelling = run_in(server, METAX, Pending(), Running(), Cancelling())
    assert recovering.put_all_back(server, 0.0, print) == "0 of 0 crashed runs put back"
    assert [state_of(server, run) for run in (lost, cancelling)] == ["PENDING", "CANCELLING"]
    monkeypatch.setattr(recovering, "STUCK_S", 0.0)
    assert recovering.put_all_back(server, 0.0, print) == "1 of 1 crashed runs put back"
    assert [state_of(server, run) for run in (lost, cancelling)] == ["SCHEDULED", "CANCELLED"]
