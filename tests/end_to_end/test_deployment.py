"""The deployment route: a real Prefect server on PostgreSQL, real workers, and the user's own commands."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from runtime.launch.process import free_port
from tests.end_to_end.commands import BIN, ROOT, environment, flagrelease, run
from tests.end_to_end.short import short_matrix
from tests.postgresql import PostgreSQL
from tests.waiting import wait_for

READY_S = 180
pytestmark = pytest.mark.needs("llama_cpp", "postgresql")


@contextmanager
def background(*argv: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A long-lived command that ends with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(BIN / argv[0]), *argv[1:]], env=env, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A Prefect server with the matrix deployed and a worker for each of two chips."""
    home, port, database = tmp_path_factory.mktemp("prefect"), free_port(), PostgreSQL()
    env = environment(
        home,
        FLAGRELEASE_MATRIX=str(short_matrix(home, ["number_sequence"])),
        PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
        PREFECT_WORKER_QUERY_SECONDS="2",
        # Prefect searches the host's time zones for each schedule otherwise.
        PYTHONTZPATH="",
    )
    on_postgresql = env | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url("asyncpg", "prefect")}
    argv = ("prefect", "server", "start", "--port", str(port))
    with closing(database), background(*argv, env=on_postgresql, log=home / "server.log") as server:
        end = time.monotonic() + READY_S
        while True:
            try:
                if httpx.get(f"{env['PREFECT_API_URL']}/health").is_success:
                    break
            except httpx.TransportError:
                pass
            assert server.poll() is None, (home / "server.log").read_text()
            assert time.monotonic() < end, "the Prefect server did not answer"
            time.sleep(0.5)
        deployed = flagrelease("deploy", env=env)
        assert deployed.returncode == 0
        assert "+ release/qwen3-metax\n" in deployed.stdout
        with (
            background("prefect", "worker", "start", "--pool", "cpu", env=env, log=home / "cpu.log"),
            background("prefect", "worker", "start", "--pool", "metax", env=env, log=home / "metax.log"),
        ):
            yield home, env


def test_a_second_deploy_changes_nothing(prefect: tuple[Path, dict[str, str]]) -> None:
    _, env = prefect
    again = flagrelease("deploy", env=env)
    assert again.returncode == 0
    # Six cells, a baseline and an image in each of three pools, two sweeps, and what puts dead runs back.
    assert again.stdout.splitlines() == [
        "deployments: 0 to add, 0 to change, 0 to remove, 15 unchanged",
        "automations: 0 to add, 0 to change, 0 to remove, 3 unchanged",
    ]


def test_a_cell_without_its_chip_fails_in_preflight(prefect: tuple[Path, dict[str, str]]) -> None:
    _, env = prefect
    failed = run(BIN / "prefect", "deployment", "run", "release/qwen3-metax", "--watch", env=env)
    assert failed.returncode == 1
    runs = httpx.post(f"{env['PREFECT_API_URL']}/flow_runs/filter", json={}).json()
    state = next(one for one in runs if one["parameters"]["cell"] == "qwen3-metax")["state"]
    assert state["type"] == "FAILED"
    assert "no Metax device: /dev/mxcd" in state["message"]
    assert "prefect worker start --pool metax" in state["message"]


def test_the_small_cell_is_released_by_a_worker(prefect: tuple[Path, dict[str, str]]) -> None:
    home, env = prefect
    released = run(BIN / "prefect", "deployment", "run", "release/smollm2-cpu", "--watch", env=env)
    assert released.returncode == 0
    view = json.loads(flagrelease("show", "smollm2-cpu", "--json", env=env).stdout)
    assert view["state"] == "completed"
    assert view["gate"]["verdict"] == "CONSISTENT"
    card = (home / "output" / "smollm2-cpu" / "README.md").read_text()
    artifacts = httpx.post(f"{env['PREFECT_API_URL']}/artifacts/filter", json={}).json()
    by_key = {artifact["key"]: artifact["data"] for artifact in artifacts if artifact["key"]}
    assert by_key["card-smollm2-cpu"] == card
    assert "CONSISTENT" in by_key["verdict-smollm2-cpu"]
    assert "| evaluate | completed |" in by_key["release-smollm2-cpu"]
    logs = httpx.post(f"{env['PREFECT_API_URL']}/logs/filter", json={"limit": 200}).json()
    assert any("/250, " in entry["message"] and "left" in entry["message"] for entry in logs), "no progress was logged"


def test_a_scheduled_run_starts_by_itself(prefect: tuple[Path, dict[str, str]]) -> None:
    home, env = prefect
    matrix = yaml.safe_load((home / "matrix.yaml").read_text())
    (small,) = (cell for cell in matrix["cells"] if cell["chip"] == "cpu")
    small["schedule"] = {"cron": "* * * * *"}
    (home / "matrix.yaml").write_text(yaml.safe_dump(matrix, allow_unicode=True))
    deployed = flagrelease("deploy", env=env)
    assert "deployments: 0 to add, 1 to change, 0 to remove, 14 unchanged" in deployed.stdout

    def ended() -> list[dict[str, Any]]:
        asked = {"flow_runs": {"tags": {"all_": ["auto-scheduled"]}, "state": {"type": {"any_": ["COMPLETED"]}}}}
        found: list[dict[str, Any]] = httpx.post(f"{env['PREFECT_API_URL']}/flow_runs/filter", json=asked).json()
        return [one for one in found if one["parameters"].get("cell") == "smollm2-cpu"]

    wait_for("a scheduled run that has ended", ended)
    # Nothing has changed since the release by hand, so it was the same one.
    view = json.loads(flagrelease("show", "smollm2-cpu", "--json", env=env).stdout)
    assert (view["id"], view["state"]) == (1, "completed")
