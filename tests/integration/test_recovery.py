"""Runs that die come back once: a real Prefect server on PostgreSQL, its automations as deployed, and real workers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Crashed, Pending, Running, Scheduled

from flagrelease.settings import Settings, settings
from flagrelease.store import Store
from flagrelease.store.queries import latest_releases
from flows.deployments import automations
from flows.deployments.deploy import deploy
from tests.end_to_end.commands import ROOT, environment, servers_below
from tests.end_to_end.short import short_matrix
from tests.integration import mortal_flows
from tests.prefect_server import prefect_server, prefect_worker
from tests.waiting import wait_for

SOON_S = 150
# Prefect's least between two heartbeats is 30 s.
SILENT_S, BEGIN_S, LIFE_S = 45, 45, 2
POOLS = ("mortal", "doomed")


@dataclass
class House:
    """A Prefect server with the matrix deployed, and workers that a test can kill."""

    home: Path
    environment: dict[str, str]
    client: SyncPrefectClient
    stack: ExitStack
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start_worker(self, pool: str) -> None:
        self.workers[pool] = self.stack.enter_context(prefect_worker(self.home, self.environment, pool))

    def folder(self, name: str) -> Path:
        path = self.home / name
        path.mkdir()
        return path

    def run(self, deployment: str, **parameters: Any) -> UUID:
        found = self.client.read_deployment_by_name(deployment).id
        return self.client.create_flow_run_from_deployment(found, parameters=parameters).id

    def state(self, run: UUID) -> State:
        state = self.client.read_flow_run(run).state
        assert state is not None
        return state

    def states(self, run: UUID) -> list[State]:
        return sorted(self.client.read_flow_run_states(run), key=lambda state: state.timestamp)

    def recoveries(self, run: UUID) -> list[FlowRun]:
        """Runs of `recover` for this run, the newest last."""
        url = f"{PREFECT_API_URL.value()}/flow_runs/filter"
        found = httpx.post(url, json={"flows": {"name": {"any_": ["recover"]}}, "sort": "START_TIME_ASC"}).json()
        return [FlowRun.model_validate(one) for one in found if one["parameters"].get("flow_run") == str(run)]

    def said(self, run: UUID, times: int = 1, *, late: bool = False) -> list[str]:
        """What the recoveries of a run came to, as soon as there are as many.

        Without those that came too `late`: a busy server starts more than one for a crash.
        """

        def ready() -> list[str]:
            ended = [one.state for one in self.recoveries(run) if one.state and one.state.is_completed()]
            found = [state.message or "" for state in ended]
            found = [message for message in found if late or not message.endswith("not crashed")]
            return found if len(found) >= times else []

        found: list[str] = wait_for(f"{times} recoveries of {run}", ready, SOON_S)
        return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = tmp_path_factory.mktemp("recovery")
    matrix = short_matrix(home, ["number_sequence"])
    env = environment(home, PREFECT_WORKER_QUERY_SECONDS="1", PYTHONPATH=str(ROOT), PYTHONTZPATH="")
    # Runs get these from their deployment.
    for name in ("HOME", "OUTPUT", "MATRIX"):
        del env[f"FLAGRELEASE_{name}"]
    with ExitStack() as stack:
        env = stack.enter_context(prefect_server(home, env))
        # When what is patched here has been undone.
        stack.callback(settings.cache_clear)
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.chdir(ROOT)
        patched.setenv("PYTHONTZPATH", "")
        patched.setenv("FLAGRELEASE_HOME", str(home / "state"))
        patched.setenv("FLAGRELEASE_OUTPUT", str(home / "output"))
        patched.setenv("FLAGRELEASE_MATRIX", str(matrix))
        for name, seconds in {"SILENT_S": SILENT_S, "BEGIN_S": BEGIN_S, "LIFE_S": LIFE_S}.items():
            patched.setattr(automations, name, seconds)
        settings.cache_clear()
        stack.enter_context(temporary_settings({PREFECT_API_URL: env["PREFECT_API_URL"]}))
        house = House(home, env, stack.enter_context(get_client(sync_client=True)), stack)
        deploy(print, lambda _: True)
        # What the automations do is tested here; what its schedule does, in test_recover_all.
        recovery = str(house.client.read_deployment_by_name("recover/crashed").id)
        house.client.request("POST", "/deployments/{id}/pause_deployment", path_params={"id": recovery})
        deploy_mortals(house)
        for pool in ("control", "cpu", *POOLS):
            house.start_worker(pool)
        yield house


def deploy_mortals(house: House) -> None:
    """A deployment of a flow that dies in each of two pools, and one of a flow that lives."""
    template = house.client.read_work_pool("control").base_job_template
    variables = house.client.read_deployment_by_name("recover/crashed").job_variables
    for pool in POOLS:
        house.client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
    for flow, pool in (
        (mortal_flows.mortal, "mortal"),
        (mortal_flows.mortal, "doomed"),
        (mortal_flows.lively, "mortal"),
    ):
        house.client.create_deployment(
            house.client.create_flow(flow),
            name=pool,
            work_pool_name=pool,
            entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
            pull_steps=[],
            job_variables=variables,
            tags=["flagrelease:managed"],
        )


def process_of(folder: Path, beginning: int = 0) -> int:
    """Process id of a run, as soon as it has begun for this time."""
    mark = folder / str(beginning)
    return int(wait_for(f"the beginning of {folder.name}", lambda: mark.exists() and mark.read_text(), SOON_S))


@dataclass
class Waits:
    """Runs that something happened to, and of which it takes a while until that is noticed."""

    died: UUID
    lives: UUID
    never_began: UUID


@pytest.fixture(scope="module")
def waits(house: House) -> Waits:
    """All at once, so that their times do not add up."""
    died = house.run("release/doomed", folder=str(house.folder("died")), deaths=1)
    lives = house.run("lively/mortal", folder=str(house.folder("lives")))
    # A pool without a worker: the run stays as one leaves it that died after it took the run.
    never_began = house.run("release/qwen3-metax")
    house.client.set_flow_run_state(never_began, Pending())
    process = process_of(house.home / "died")
    os.kill(house.workers["doomed"].pid, signal.SIGKILL)
    os.kill(process, signal.SIGKILL)
    assert house.workers["doomed"].wait() == -signal.SIGKILL
    assert house.state(died).is_running()
    process_of(house.home / "lives")
    # As where the server was away for a while: silence is taken for death. The automations leave a flow of another name
    # alone, so nobody else looks at this run.
    house.client.set_flow_run_state(lives, Crashed(message=f"{automations.UNHEARD} for 90 s"))
    house.run("recover/crashed", flow_run=str(lives), life_s=45)
    return Waits(died, lives, never_began)


@pytest.mark.usefixtures("waits")
def test_a_run_whose_process_is_killed_is_put_back_once(house: House) -> None:
    once, twice = house.folder("once"), house.folder("twice")
    run = house.run("release/mortal", folder=str(once), deaths=1)
    other = house.run("release/mortal", folder=str(twice), deaths=9)
    os.kill(process_of(once), signal.SIGKILL)
    os.kill(process_of(twice), signal.SIGKILL)
    wait_for("the end of the run", lambda: house.state(run).is_completed(), SOON_S)
    assert sorted(mark.name for mark in once.iterdir()) == ["0", "1"]
    assert house.said(run) == ["put back: a worker of its pool takes it again"]
    # The second one dies again.
    os.kill(process_of(twice, 1), signal.SIGKILL)
    said = house.said(other, 2)
    assert "left: it crashed again after it was put back" in said[1]
    assert f"prefect flow-run retry {other}" in said[1]
    assert house.state(other).is_crashed()
    assert sorted(mark.name for mark in twice.iterdir()) == ["0", "1"]


def test_a_run_that_dies_with_its_worker_is_taken_by_the_next_one(house: House, waits: Waits) -> None:
    [said] = house.said(waits.died)
    assert said == "put back: a worker of its pool takes it again"
    crashed = [state for state in house.states(waits.died) if state.is_crashed()]
    assert [state.message for state in crashed] == [f"flagrelease: nothing was heard of the run for {SILENT_S} s"]
    house.start_worker("doomed")
    wait_for("the end of the run", lambda: house.state(waits.died).is_completed(), SOON_S)
    assert sorted(mark.name for mark in (house.home / "died").iterdir()) == ["0", "1"]


def test_a_run_that_lives_is_not_started_a_second_time(house: House, waits: Waits) -> None:
    assert house.said(waits.lives) == ["left: it is heard again, so its process lives"]
    assert house.state(waits.lives).is_running()
    (house.home / "lives" / "end").touch()
    wait_for("the end of the run", lambda: house.state(waits.lives).is_completed(), SOON_S)
    assert not any(state.is_scheduled() for state in house.states(waits.lives)[1:])


def test_a_run_that_no_process_began_is_put_back(house: House, waits: Waits) -> None:
    assert house.said(waits.never_began) == ["put back: a worker of its pool takes it again"]
    assert house.state(waits.never_began).is_scheduled()


def test_a_run_that_was_to_be_cancelled_is_cancelled(house: House) -> None:
    run = house.run("release/qwen3-metax")
    begun: list[State] = [Pending(), Running(), Cancelling()]
    for state in begun:
        house.client.set_flow_run_state(run, state, force=True)
    house.client.set_flow_run_state(run, Crashed(message="its worker died"), force=True)
    assert house.said(run) == ["left: its cancellation was asked for; it is cancelled now"]
    assert house.state(run).is_cancelled()


def test_only_crashed_runs_of_our_deployments_are_put_back(house: House) -> None:
    waiting = house.run("release/qwen3-metax")
    house.run("recover/crashed", flow_run=str(waiting))
    assert house.said(waiting, late=True) == ["left: it is Scheduled, not crashed"]
    by_hand = house.client.create_flow_run(mortal_flows.lively, parameters={"folder": ""}, state=Crashed())
    house.run("recover/crashed", flow_run=str(by_hand.id))
    assert house.said(by_hand.id) == ["left: it was not started by a deployment"]
    # Not itself, and no automation tries.
    deployment = house.client.read_deployment_by_name("recover/crashed").id
    tomorrow: State = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
    itself = house.client.create_flow_run_from_deployment(
        deployment, parameters={"flow_run": str(UUID(int=0))}, state=tomorrow
    ).id
    house.client.set_flow_run_state(itself, Crashed())
    by_us = house.run("recover/crashed", flow_run=str(itself))
    assert house.said(itself) == ["left: what puts runs back is not put back itself"]
    assert [one.id for one in house.recoveries(itself)] == [by_us]


@pytest.mark.needs("llama_cpp")
def test_a_cancelled_release_leaves_nothing_behind(house: House) -> None:
    run = house.run("release/smollm2-cpu")

    def answered() -> bool:
        logs = httpx.post(
            f"{PREFECT_API_URL.value()}/logs/filter", json={"logs": {"flow_run_id": {"any_": [str(run)]}}}
        ).json()
        return any(entry["message"].startswith("evaluate: number_sequence") for entry in logs)

    wait_for("a progress of the questions", answered, 300)
    assert servers_below(house.home)
    cancelled = time.monotonic()
    house.client.set_flow_run_state(run, Cancelling())
    wait_for("the run's cancellation", lambda: house.state(run).is_cancelled(), 30)
    wait_for("the end of its processes", lambda: not servers_below(house.home), 30)
    print(f"cancelled, and nothing left, after {time.monotonic() - cancelled:.1f} s")
    assert time.monotonic() - cancelled < 30
    assert house.client.read_work_pool_concurrency_status("cpu").active_slots == 0
    with closing(Store.open(Settings(home=house.home / "state").store_url)) as store:
        assert latest_releases(store)["smollm2-cpu"].state == "interrupted"
