"""`flagrelease deploy` against a real Prefect server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.orchestration import PrefectClient, SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments import run_deployment
from prefect.server.schemas.schedules import CronSchedule as ServerCron
from prefect.settings import PREFECT_API_URL

from flagrelease import cli
from flagrelease.errors import DeployError
from flagrelease.settings import settings
from flows.deployments.deploy import deploy
from flows.deployments.spread import spread
from flows.local_server import prefect_server
from tests.end_to_end.commands import BIN, MATRIX

CELLS = ("smollm2-cpu", "qwen3-metax")
SCHEDULE = {"cron": "0 2 * * 6", "timezone": "Asia/Shanghai"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """A Prefect server and a client for it."""
    with pytest.MonkeyPatch.context() as patched:
        # Prefect 3.8 searches the host's time zones for each schedule otherwise.
        patched.setenv("PYTHONTZPATH", "")
        with prefect_server(tmp_path_factory.mktemp("prefect"), print), get_client(sync_client=True) as client:
            yield client


@dataclass
class Matrix:
    """A small matrix that a test edits."""

    path: Path
    facts: dict[str, Any]

    def cell(self, name: str) -> dict[str, Any]:
        return next(cell for cell in self.facts["cells"] if f"{cell['model']}-{cell['chip']}" == name)

    def deploy(self, *, agree: bool = True) -> list[str]:
        """What a deploy says."""
        self.path.write_text(yaml.safe_dump(self.facts, allow_unicode=True))
        said: list[str] = []
        deploy(said.append, lambda _: agree)
        return said


@pytest.fixture
def matrix(server: SyncPrefectClient, home: Path, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    """Two cells on two chips, one of them scheduled; and a Prefect without deployments."""
    for one in server.read_deployments():
        server.delete_deployment(one.id)
    for automation in server.read_automations():
        server.delete_automation(automation.id)
    path = home / "matrix.yaml"
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
    settings.cache_clear()
    found = Matrix(path, yaml.safe_load(MATRIX.read_text()))
    found.facts["cells"] = [found.cell(name) for name in CELLS]
    found.cell("qwen3-metax")["schedule"] = dict(SCHEDULE)
    return found


def there(server: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """What Prefect has. One that is sent again has a new time, and new ids of its schedules."""
    flows = {flow.id: flow.name for flow in server.read_flows()}
    return {f"{flows[one.flow_id]}/{one.name}": one for one in server.read_deployments()}


def summary(add: int, change: int, remove: int, unchanged: int, what: str = "deployments") -> str:
    return f"{what}: {add} to add, {change} to change, {remove} to remove, {unchanged} unchanged"


# Two cells, a baseline and an image in each of their pools, two sweeps, and what puts dead runs back.
ALL = 9
NOTHING = [summary(0, 0, 0, ALL), summary(0, 0, 0, 3, "automations")]


def test_the_first_run_adds_and_the_second_changes_nothing(server: SyncPrefectClient, matrix: Matrix) -> None:
    offset = spread(SCHEDULE["cron"], "qwen3-metax")[1]
    said = matrix.deploy()
    assert f"+ release/qwen3-metax: {offset} 2 * * 6 Asia/Shanghai, {offset} min after 0 2 * * 6" in said
    assert summary(ALL, 0, 0, 0) in said
    assert summary(3, 0, 0, 0, "automations") in said
    first = there(server)
    by_chip = {f"{flow}/{chip}" for flow in ("baseline", "image") for chip in ("cpu", "metax")}
    assert set(first) == {
        *(f"release/{name}" for name in CELLS),
        *by_chip,
        "sweep/all",
        "sweep/weekly",
        "recover/crashed",
    }
    found = first["release/qwen3-metax"]
    assert (found.work_pool_name, found.work_queue_name, found.parameters) == ("metax", "default", {"cell": found.name})
    assert found.pull_steps == []
    [schedule] = found.schedules
    assert schedule.active
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.cron, schedule.schedule.timezone) == (f"{offset} 2 * * 6", "Asia/Shanghai")
    automations = server.read_automations()
    assert matrix.deploy() == NOTHING
    assert there(server) == first
    assert server.read_automations() == automations


def test_a_pool_has_slots_and_queues(server: SyncPrefectClient, matrix: Matrix) -> None:
    matrix.deploy()
    pool = server.read_work_pool("metax")
    assert (pool.type, pool.concurrency_limit) == ("process", 1)
    assert pool.base_job_template["variables"]["properties"]["stream_output"]["default"] is False
    queues = httpx.post(f"{PREFECT_API_URL.value()}/work_pools/metax/queues/filter", json={}).json()
    assert [queue["name"] for queue in sorted(queues, key=lambda one: one["priority"])] == [
        "urgent",
        "default",
        "sweep",
    ]
    # Somebody changes the limit.
    httpx.patch(f"{PREFECT_API_URL.value()}/work_pools/metax", json={"concurrency_limit": 7})
    assert matrix.deploy()[0] == "~ work pool metax: at once 7 -> 1"
    assert server.read_work_pool("metax").concurrency_limit == 1


def test_an_edited_cell_is_changed_and_no_other(server: SyncPrefectClient, matrix: Matrix) -> None:
    matrix.deploy()
    before = there(server)
    matrix.cell("qwen3-metax")["schedule"]["cron"] = "0 3 * * 0"
    assert summary(0, 1, 0, ALL - 1) in matrix.deploy(agree=False)
    assert there(server) == before
    assert summary(0, 1, 0, ALL - 1) in matrix.deploy()
    after = there(server)
    assert [name for name in after if after[name] != before[name]] == ["release/qwen3-metax"]
    assert after["release/qwen3-metax"].version != before["release/qwen3-metax"].version
    del matrix.cell("qwen3-metax")["schedule"]
    matrix.deploy()
    assert there(server)["release/qwen3-metax"].schedules == []


def test_what_the_matrix_lost_is_removed_and_what_others_made_stays(server: SyncPrefectClient, matrix: Matrix) -> None:
    foreign = server.create_deployment(server.create_flow_from_name("release"), "by-hand", tags=["chip:metax"])
    other = server.create_deployment(server.create_flow_from_name("other"), "qwen3-metax")
    matrix.deploy()
    before = there(server)
    matrix.facts["cells"].remove(matrix.cell("qwen3-metax"))
    said = matrix.deploy()
    assert "- release/qwen3-metax: the matrix has it no more" in said
    after = there(server)
    assert set(before) - set(after) == {"release/qwen3-metax", "baseline/metax", "image/metax"}
    assert {foreign, other} <= {one.id for one in after.values()}
    assert all(after[name] == before[name] for name in after)


def test_a_deployment_that_somebody_else_made_is_not_taken(server: SyncPrefectClient, matrix: Matrix) -> None:
    server.create_deployment(server.create_flow_from_name("release"), "qwen3-metax", description="by hand")
    before = there(server)
    with pytest.raises(DeployError, match="somebody else made release/qwen3-metax"):
        matrix.deploy()
    assert there(server) == before
    # As the error says: with the tag it is ours.
    [found] = before.values()
    server.update_deployment(found.id, DeploymentUpdate(tags=["flagrelease:managed"]))
    assert summary(ALL - 1, 1, 0, 0) in matrix.deploy()


def test_what_is_paused_stays_paused(server: SyncPrefectClient, matrix: Matrix) -> None:
    matrix.cell("smollm2-cpu")["schedule"] = dict(SCHEDULE)
    matrix.deploy()
    server.pause_deployment(there(server)["release/qwen3-metax"].id)
    found = there(server)["release/smollm2-cpu"]
    server.update_deployment_schedule(found.id, found.schedules[0].id, active=False)
    assert summary(0, 0, 0, ALL) in matrix.deploy()
    for name in ("qwen3-metax", "smollm2-cpu"):
        matrix.cell(name)["schedule"]["cron"] = "0 3 * * 6"
    assert summary(0, 2, 0, ALL - 2) in matrix.deploy()
    after = there(server)
    assert after["release/qwen3-metax"].paused
    assert not after["release/smollm2-cpu"].paused
    assert not after["release/smollm2-cpu"].schedules[0].active


def test_an_edit_in_prefect_is_brought_back(server: SyncPrefectClient, matrix: Matrix) -> None:
    matrix.deploy()
    found = there(server)["release/qwen3-metax"]
    edit = DeploymentUpdate(tags=[*found.tags, "mine"], parameters={"cell": "qwen3-metax", "engine": "flagscale"})
    server.update_deployment(found.id, edit)
    extra = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 0 * * *", timezone="UTC"), slug="mine")
    server.create_deployment_schedules(found.id, [extra])
    # It is known by its content: the edit left the version as it was.
    assert there(server)["release/qwen3-metax"].version == found.version
    said = matrix.deploy()
    assert summary(0, 1, 0, ALL - 1) in said
    assert {"parameters", "tags", "schedules"} <= {part.split()[0] for part in said[0].split(": ", 1)[1].split("; ")}
    after = there(server)["release/qwen3-metax"]
    assert (after.parameters, sorted(after.tags)) == (found.parameters, sorted(found.tags))
    assert [one.slug for one in after.schedules] == ["matrix"]


def test_a_parameter_that_cannot_be_is_refused_before_the_run(server: SyncPrefectClient, matrix: Matrix) -> None:
    matrix.deploy()
    runs = len(server.read_flow_runs())
    command = [str(BIN / "prefect"), "deployment", "run", "release/smollm2-cpu", "--param", "engine=sglang"]
    env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or "", "DO_NOT_TRACK": "1"}
    refused = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode == 1
    assert "engine" in refused.stdout + refused.stderr
    wrong: list[tuple[str, dict[str, Any]]] = [
        *(
            ("smollm2-cpu", asked)
            for asked in ({"cell": "qwen3-metax"}, {"engine": "flagscale"}, {"motor": "vllm"}, {"engine": 7})
        ),
        # Its weights come in a package.
        ("smollm2-cpu", {"revision": "v1.1"}),
        ("qwen3-metax", {"revision": "v1.1 "}),
        ("qwen3-metax", {"revision": "v" * 101}),
    ]
    for cell, parameters in wrong:
        with pytest.raises(Exception, match=r"[Vv]alid|409|422"):
            run_deployment(f"release/{cell}", parameters=parameters, timeout=0, as_subflow=False)
    assert len(server.read_flow_runs()) == runs
    accepted = run_deployment("release/smollm2-cpu", parameters={"engine": "vllm"}, timeout=0, as_subflow=False)
    assert isinstance(accepted, FlowRun)
    assert accepted.parameters == {"cell": "smollm2-cpu", "engine": "vllm"}
    accepted = run_deployment("release/qwen3-metax", parameters={"revision": "v1.1"}, timeout=0, as_subflow=False)
    assert isinstance(accepted, FlowRun)
    assert accepted.parameters == {"cell": "qwen3-metax", "revision": "v1.1"}


def test_a_server_that_goes_away_is_said_and_a_second_run_goes_on(
    server: SyncPrefectClient, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, left = PrefectClient.request, iter(range(3))

    async def lose_the_server_after_three(self: PrefectClient, method: Any, path: Any, *args: Any, **more: Any) -> Any:
        if (method, path) == ("POST", "/deployments/") and next(left, None) is None:
            raise httpx.ConnectError("refused")
        return await request(self, method, path, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(PrefectClient, "request", lose_the_server_after_three)
        with pytest.raises(
            DeployError, match=r"stopped at baseline/metax, after 3 of 12 changes: .* stopped answering"
        ):
            matrix.deploy()
    assert len(there(server)) == 3
    assert summary(ALL - 3, 0, 0, 3) in matrix.deploy()
    assert len(there(server)) == ALL


def test_an_automation_is_there_once_as_it_is_wanted(server: SyncPrefectClient, matrix: Matrix) -> None:
    matrix.deploy()
    silent, crashed = (
        next(one for one in server.read_automations() if one.name == f"flagrelease: {name}")
        for name in ("runs that went silent", "crashed runs")
    )
    # Somebody edits one, switches one off, copies one, and one is left from a former version.
    url = f"{PREFECT_API_URL.value()}/automations"
    ours = {"id", "created", "updated"}
    edited = {name: fact for name, fact in httpx.get(f"{url}/{silent.id}").json().items() if name not in ours}
    edited["trigger"]["within"] = 600
    httpx.put(f"{url}/{silent.id}", json=edited).raise_for_status()
    server.pause_automation(silent.id)
    facts = {name: fact for name, fact in httpx.get(f"{url}/{crashed.id}").json().items() if name not in ours}
    for name in (crashed.name, "flagrelease: as it was called", "somebody else's"):
        assert httpx.post(f"{url}/", json=facts | {"name": name}).is_success
    said = matrix.deploy()
    assert "~ automation flagrelease: runs that went silent: trigger" in said
    assert "- automation flagrelease: as it was called" in said
    assert summary(0, 1, 2, 2, "automations") in said
    after = {one.id: one for one in server.read_automations()}
    assert sorted(one.name for one in after.values() if one.id not in {silent.id, crashed.id}) == [
        "flagrelease: runs that never began",
        "somebody else's",
    ]
    assert after[crashed.id] == crashed
    assert after[silent.id].trigger == silent.trigger
    assert not after[silent.id].enabled
    assert matrix.deploy() == NOTHING


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`flagrelease deploy` in this process; gives its exit code."""

    def run(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["flagrelease", "deploy", *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return run


def test_nothing_is_removed_without_a_word(
    server: SyncPrefectClient,
    matrix: Matrix,
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    matrix.deploy()
    matrix.cell("smollm2-cpu")["schedule"] = dict(SCHEDULE)
    matrix.facts["cells"].remove(matrix.cell("qwen3-metax"))
    matrix.path.write_text(yaml.safe_dump(matrix.facts, allow_unicode=True))
    before = there(server)
    assert command("--dry-run") == 0
    # No terminal: what would go is shown, nothing is changed, the rest neither.
    assert command() == 30
    shown = capsys.readouterr()
    assert shown.out.count("- release/qwen3-metax: the matrix has it no more") == 2
    assert "3 deployments would be removed" in shown.err
    assert "flagrelease deploy --yes" in shown.err
    keyboard, terminal = os.openpty()
    with open(terminal) as stdin, monkeypatch.context() as patched:  # noqa: PTH123
        patched.setattr(sys, "stdin", stdin)
        os.write(keyboard, b"n\n")
        assert command() == 130
    os.close(keyboard)
    assert there(server) == before
    assert command("--yes") == 0
    assert set(before) - set(there(server)) == {"release/qwen3-metax", "baseline/metax", "image/metax"}
    assert "Remove 3 deployments" in capsys.readouterr().out


# The last test with the server, which marks the deployments of a pool that was polled some time later.
def test_an_urgent_run_comes_first(server: SyncPrefectClient, matrix: Matrix) -> None:
    matrix.deploy()
    deployment = there(server)["release/smollm2-cpu"].id
    for queue in ("sweep", None, "urgent"):
        server.create_flow_run_from_deployment(deployment, work_queue_name=queue)

    url = f"{PREFECT_API_URL.value()}/work_pools/cpu"
    # Room for all, so that a worker is shown them all, in its order.
    httpx.patch(url, json={"concurrency_limit": 3})
    runs = httpx.post(f"{url}/get_scheduled_flow_runs", json={"limit": 10}).json()
    assert [run["flow_run"]["work_queue_name"] for run in runs] == ["urgent", "default", "sweep"]


@pytest.mark.parametrize("cron", ["0 2 * * 6", "*/20 9-17 * * mon-fri", "5/25 * 1 * *", "50 23 31 12 *"])
def test_a_spread_cell_starts_after_each_time_of_the_matrix(cron: str) -> None:
    def starts(expression: str) -> Sequence[datetime]:
        schedule = ServerCron(cron=expression, timezone="Asia/Shanghai")
        dates: Sequence[datetime] = asyncio.run(schedule.get_dates(5, start=datetime(2026, 3, 1, tzinfo=UTC)))
        return dates

    for number in range(5):
        moved, offset = spread(cron, f"cell-{number}")
        assert starts(moved) == [start + timedelta(minutes=offset) for start in starts(cron)]
