"""The deployment route: a real Prefect server on PostgreSQL, real workers, and the user's own commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.end_to_end.commands import BIN, environment, flagrelease, run
from tests.end_to_end.short import short_matrix
from tests.prefect_server import prefect_server, prefect_worker
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("llama_cpp", "postgresql")


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A Prefect server with the matrix deployed and a worker for each of two chips."""
    home = tmp_path_factory.mktemp("prefect")
    env = environment(
        home,
        FLAGRELEASE_MATRIX=str(short_matrix(home, ["number_sequence"])),
        PREFECT_WORKER_QUERY_SECONDS="2",
        # Prefect searches the host's time zones for each schedule otherwise.
        PYTHONTZPATH="",
    )
    with prefect_server(home, env) as named:
        deployed = flagrelease("deploy", env=named)
        assert deployed.returncode == 0
        assert "+ release/qwen3-metax\n" in deployed.stdout
        with prefect_worker(home, named, "cpu"), prefect_worker(home, named, "metax"):
            yield home, named


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
