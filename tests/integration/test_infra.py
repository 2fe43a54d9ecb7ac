"""infra/compose.yaml as it is typed on one host: the workers' image is built, all services run, the matrix is deployed.

PostgreSQL and the registry run in images that stand in for the official ones; Prefect and FlagRelease are real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import httpx
import pytest

from runtime.docker_engine import LONG_S, connect
from runtime.launch.process import free_port
from tests.conftest import ROOT
from tests.integration import infra_stand_ins
from tests.integration.images import TEAM, python_base, remove

pytestmark = pytest.mark.needs("docker", "registry", "postgresql", "compose")
INFRA = ROOT / "infra"
READY_S = 300
LOGIN = ("admin", "of-this-test")


class Stack:
    """compose.yaml in a project of this test's own."""

    def __init__(self, project: str, settings: dict[str, str]) -> None:
        self.project, self.settings = project, settings
        self.api = f"http://127.0.0.1:{settings['PREFECT_PORT']}/api"

    def compose(
        self, *arguments: str, stdin: bytes | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        env = {**os.environ, **self.settings, "COMPOSE_PROJECT_NAME": self.project}
        argv = [*command, "--file", str(INFRA / "compose.yaml"), *arguments]
        done = subprocess.run(argv, env=env, cwd=INFRA, input=stdin, capture_output=True, check=False)
        print(f"$ compose {' '.join(arguments)}  -> {done.returncode}\n{done.stderr.decode()}")
        assert not check or done.returncode == 0
        return done

    def flagrelease(self, *arguments: str) -> str:
        return self.compose("run", "--rm", "-T", "control", "flagrelease", *arguments).stdout.decode()

    def wait(self, client: docker.DockerClient, *services: str) -> None:
        """Until the services are healthy, as `up --wait` does (which Compose 1 lacks)."""
        end = time.monotonic() + READY_S
        for service in services:
            labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
            while True:
                found = client.containers.list(all=True, filters={"label": labels})
                if found and found[0].attrs["State"].get("Health", {}).get("Status") == "healthy":
                    break
                assert time.monotonic() < end, found[0].logs().decode() if found else f"there is no {service}"
                time.sleep(0.5)


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    with closing(connect(LONG_S)) as client:
        yield client


@pytest.fixture(scope="module")
def images(client: docker.DockerClient) -> Iterator[dict[str, str]]:
    run = uuid.uuid4().hex
    names = {f"{part.upper()}_IMAGE": f"{TEAM}/{part}:{run}" for part in ("worker", "postgres", "registry")}
    env = {**os.environ, "BASE": python_base(), "PYTHON": sys.executable}
    subprocess.run([INFRA / "worker/image.sh", names["WORKER_IMAGE"]], env=env, check=True)
    infra_stand_ins.postgresql(client, names["POSTGRES_IMAGE"])
    infra_stand_ins.registry(client, names["REGISTRY_IMAGE"])
    yield names
    for name in names.values():
        remove(client, name)


@pytest.fixture(scope="module")
def stack(client: docker.DockerClient, images: dict[str, str]) -> Iterator[Stack]:
    ports = {f"{service}_PORT": str(free_port()) for service in ("PREFECT", "POSTGRES", "REGISTRY")}
    passwords = {
        name: uuid.uuid4().hex for name in ("POSTGRES_PASSWORD", "PREFECT_DB_PASSWORD", "FLAGRELEASE_DB_PASSWORD")
    }
    stack = Stack(
        f"flagrelease-{uuid.uuid4().hex[:8]}", {**images, **ports, **passwords, "PREFECT_AUTH": ":".join(LOGIN)}
    )
    try:
        stack.compose("up", "--detach", "prefect", "registry")
        stack.wait(client, "prefect", "registry")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "2", check=False)


def test_the_server_asks_for_the_password_and_measures_itself(stack: Stack) -> None:
    assert httpx.get(f"{stack.api}/health").status_code == 200
    assert httpx.get(f"{stack.api}/metrics").status_code == 401
    assert httpx.post(f"{stack.api}/work_pools/filter", json={}).status_code == 401
    measured = httpx.get(f"{stack.api}/metrics", auth=LOGIN)
    assert "process_resident_memory_bytes" in measured.text
    # The server's user may not write where its dashboard's files would lie.
    dashboard = stack.api.removesuffix("/api")
    assert httpx.get(f"{dashboard}/ui-settings").json()["available_uis"] == ["v1", "v2"]
    assert "<title>Prefect" in httpx.get(dashboard, follow_redirects=True).text


def test_the_matrix_is_deployed_and_the_control_worker_comes_online(stack: Stack, client: docker.DockerClient) -> None:
    deployed = stack.flagrelease("deploy")
    assert "+ work pool control" in deployed
    assert "+ release/smollm2-cpu" in deployed
    stack.compose("up", "--detach", "control")
    stack.wait(client, "control")
    workers = httpx.post(f"{stack.api}/work_pools/control/workers/filter", json={}, auth=LOGIN).json()
    assert [(worker["name"], worker["status"]) for worker in workers] == [("control", "ONLINE")]
    # Nothing of a host is in the deployments: state is what each worker's environment names.
    found = httpx.post(f"{stack.api}/deployments/filter", json={}, auth=LOGIN).json()
    assert len(found) > 5
    assert not any("FLAGRELEASE_HOME" in one["job_variables"].get("env", {}) for one in found)
    container = client.containers.get(stack.compose("ps", "--quiet", "control").stdout.decode().strip())
    assert container.exec_run(["id", "-u"]).output == b"10001\n"


def test_both_databases_are_backed_up_and_restored(stack: Stack, tmp_path: Path) -> None:
    stack.flagrelease("db", "upgrade")
    assert "postgresql" in stack.flagrelease("db", "check")
    stack.flagrelease("db", "dump", "/srv/flagrelease/store.jsonl.gz")
    stack.compose("stop", "control", "prefect")
    dump = stack.compose("exec", "-T", "postgres", "pg_dump", "--username", "prefect", "--format", "custom", "prefect")
    (tmp_path / "prefect.dump").write_bytes(dump.stdout)
    restore = ("--username", "prefect", "--clean", "--if-exists", "--dbname", "prefect")
    stack.compose("exec", "-T", "postgres", "pg_restore", *restore, stdin=dump.stdout)
    stack.compose("up", "--detach", "prefect")
    stack.wait(connect(), "prefect")
    found = httpx.post(f"{stack.api}/work_pools/filter", json={}, auth=LOGIN).json()
    assert "control" in {pool["name"] for pool in found}
