"""The runs of a sweep in a real Prefect server: submitted once, adopted, given up where nobody works, cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Crashed, Failed, Pending, Running

from flagrelease.settings import settings
from flows import sweep_runs
from flows.deployments.deploy import deploy
from flows.local_server import prefect_server
from flows.scheduling import Work
from flows.sweep_runs import PrefectRuns, cancel_runs, tag_of
from tests.end_to_end.commands import MATRIX

SMALL, METAX = "smollm2-cpu", "qwen3-metax"
WORKS = {name: Work(id=name, pool=name.split("-")[1], seconds=1) for name in (SMALL, METAX)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """A Prefect server with the matrix deployed."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONTZPATH", "")
        patched.setenv("FLAGRELEASE_HOME", str(home / "home"))
        patched.setenv("FLAGRELEASE_MATRIX", str(MATRIX))
        settings.cache_clear()
        with prefect_server(home, print), get_client(sync_client=True) as client:
            deploy(print, lambda _: True)
            yield client
    settings.cache_clear()


@pytest.fixture(autouse=True)
def _no_runs(server: SyncPrefectClient) -> None:
    for run in server.read_flow_runs():
        server.delete_flow_run(run.id)


def runs_of(
    server: SyncPrefectClient, sweep: str, cells: tuple[str, ...] = (SMALL, METAX), **parameters: Any
) -> PrefectRuns:
    return PrefectRuns(
        server, sweep, cells=cells, images={"image/abc": METAX}, parameters=parameters, log=lambda _: None
    )


def of_sweep(server: SyncPrefectClient, sweep: str) -> list[FlowRun]:
    return [run for run in server.read_flow_runs() if tag_of(sweep) in run.tags]


def put(server: SyncPrefectClient, run: UUID, state: Any) -> None:
    server.set_flow_run_state(run, state, force=True)


def test_a_work_is_submitted_once_into_the_queue_of_sweeps(server: SyncPrefectClient) -> None:
    runs = runs_of(server, "one")
    assert runs.seen() == {}
    for _ in range(2):
        runs.submit(WORKS[SMALL])
    # As after the sweep was killed.
    runs_of(server, "one").submit(WORKS[SMALL])
    (run,) = of_sweep(server, "one")
    assert (run.parameters, run.work_queue_name, run.work_pool_name) == ({"cell": SMALL}, "sweep", "cpu")
    assert "flagrelease:managed" in {*run.tags, *server.read_deployment(UUID(str(run.deployment_id))).tags}
    assert runs.seen()[SMALL].state == "waiting"
    put(server, run.id, Running())
    assert runs.seen()[SMALL].state == "running"
    put(server, run.id, Failed(message="Flow run encountered an exception: ServerError: it died\n  -> see its log"))
    assert runs.seen()[SMALL][::2] == ("failed", "it died\n  -> see its log")


def test_an_image_is_built_for_the_first_of_its_cells(server: SyncPrefectClient) -> None:
    runs = runs_of(server, "images")
    runs.submit(Work(id="image/abc", pool="metax", seconds=1))
    (run,) = of_sweep(server, "images")
    assert (run.parameters, run.work_pool_name) == ({"cell": METAX}, "metax")
    put(server, run.id, Completed())
    assert runs.seen()["image/abc"].state == "ok"


def test_a_cell_without_a_deployment_fails_with_the_next_step(server: SyncPrefectClient) -> None:
    runs = runs_of(server, "unknown")
    runs.submit(Work(id="new-cpu", pool="cpu", seconds=1))
    seen = runs.seen()["new-cpu"]
    assert seen.state == "failed"
    assert seen.cause == "Prefect has no deployment release/new-cpu\n  -> bring it up to date: flagrelease deploy"


def test_what_is_released_already_is_waited_for(server: SyncPrefectClient) -> None:
    earlier = runs_of(server, "earlier")
    earlier.submit(WORKS[SMALL])
    later = runs_of(server, "later")
    assert {cell: seen.state for cell, seen in later.seen().items()} == {SMALL: "waiting"}
    (run,) = of_sweep(server, "earlier")
    put(server, run.id, Completed())
    assert later.seen()[SMALL].state == "ok"
    # A run of a person, under way; one that a schedule is going to start; one that is asked for something else.
    deployment = server.read_deployment_by_name(f"release/{METAX}").id
    server.create_flow_run_from_deployment(deployment)
    assert runs_of(server, "again").seen() == {}
    other = server.create_flow_run_from_deployment(deployment, parameters={"publish": False})
    put(server, other.id, Running())
    assert runs_of(server, "again").seen() == {}
    assert [*runs_of(server, "without", publish=False).seen()] == [METAX]
    own = server.create_flow_run_from_deployment(deployment)
    put(server, own.id, Pending())
    assert [*runs_of(server, "again").seen()] == [METAX]


def test_a_run_that_crashed_is_waited_for_as_it_is_put_back(server: SyncPrefectClient) -> None:
    runs = runs_of(server, "crashed")
    runs.submit(WORKS[SMALL])
    (run,) = of_sweep(server, "crashed")
    put(server, run.id, Crashed(message="killed"))
    assert runs.seen()[SMALL].state == "waiting"


def test_a_pool_without_a_worker_is_given_up(server: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(server, "alone")
    runs.submit(WORKS[METAX])
    (run,) = of_sweep(server, "alone")
    assert runs.seen()[METAX].state == "waiting"
    monkeypatch.setattr(sweep_runs, "NO_WORKER_S", 0)
    seen = runs.seen()[METAX]
    assert seen.state == "failed"
    assert seen.cause.startswith("no worker of the pool metax has answered for")
    assert server.read_flow_run(run.id).state_type == "CANCELLED"
    assert runs.seen()[METAX] == seen


def test_cancelling_a_sweep_cancels_its_runs(server: SyncPrefectClient) -> None:
    runs = runs_of(server, "cancelled")
    for work in WORKS.values():
        runs.submit(work)
    waiting, running = of_sweep(server, "cancelled")
    put(server, running.id, Running())
    runs_of(server, "other").submit(Work(id="step3-nvidia", pool="nvidia", seconds=1))
    assert cancel_runs(server, "cancelled") == 2
    assert server.read_flow_run(waiting.id).state_type == "CANCELLED"
    # Its worker ends the process; none of ours is here.
    assert server.read_flow_run(running.id).state_type == "CANCELLING"
    (other,) = of_sweep(server, "other")
    assert other.state_type == "SCHEDULED"
