"""PostgreSQL, a Prefect server on it, the matrix deployed, and a worker for each pool: all real, all on this machine.

Every process can be killed as a power cut would do it, and started again. None outlives the block, nor this process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from runtime.launch.process import free_port, start_guarded
from tests.postgresql import PostgreSQL
from tests.prefect_server import wait_for_health
from tests.processes import end_all_with, processes_with
from tests.simulated.matrices import CHIPS, keep_baseline, simulation_of, write_matrix
from tests.simulated.simulation import VARIABLE
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CONTROL = "control"
FINAL = ("COMPLETED", "FAILED", "CANCELLED")
"""A run that crashed is put back (`flows.recover`)."""
QUIET = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


class Cluster:
    """The processes of a cluster; made by `cluster`."""

    def __init__(self, home: Path, facts: dict[str, Any], scale: float) -> None:
        self.home, self.facts = home, facts
        self.simulation = simulation_of(home / "simulation", scale)
        self.postgresql = PostgreSQL()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        self.store_url = self.postgresql.url("psycopg", "flagrelease")
        self.environment = QUIET | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "FLAGRELEASE_HOME": str(home / "state"),
            "FLAGRELEASE_OUTPUT": str(home / "output"),
            "FLAGRELEASE_MATRIX": str(home / "matrix.yaml"),
            "FLAGRELEASE_CHIPS": str(home / "chips"),
            "FLAGRELEASE_STORE": self.store_url,
            VARIABLE: str(self.simulation.path),
        }
        self._server_environment = {
            "PYTHONTZPATH": "",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.postgresql.url("asyncpg", "prefect"),
            "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "300",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        self._server_argv = [str(BIN / "prefect"), "server", "start", "--port", str(port)]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.pools = list(dict.fromkeys(cell["chip"] for cell in facts["cells"]))

    # Commands

    def flagrelease(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run `flagrelease` to its end."""
        return self.command(str(BIN / "flagrelease"), *argv)

    def command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its output is shown where a test fails."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(argv, env=environment, cwd=self.home, capture_output=True, text=True, check=False)
        print(f"$ {' '.join(argv)}  -> {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def write_matrix(self) -> None:
        """Write the matrix, after a change of `facts`."""
        write_matrix(self.home / "matrix.yaml", self.facts)

    def forget(self) -> None:
        """Make the store empty again, and delete what lies beside it: for the next sweep nothing has been released."""
        with psycopg.connect(self.store_url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        for folder in ("state", "output"):
            shutil.rmtree(self.home / folder, ignore_errors=True)
        for file in self.simulation.folder.glob("*.jsonl"):
            file.unlink()
        keep_baseline(self.store_url)

    def deploy(self) -> None:
        """Run `flagrelease deploy`; flow runs of simulated chips get the command that puts in the stand-ins."""
        assert self.flagrelease("deploy", "--yes").returncode == 0
        for pool in self.pools:
            found = self.get(f"/work_pools/{pool}")
            template = found["base_job_template"]
            template["variables"]["properties"]["command"]["default"] = f"{sys.executable} -m tests.simulated.host"
            httpx.patch(f"{self.url}/work_pools/{pool}", json={"base_job_template": template}, trust_env=False)

    # Prefect's API

    def get(self, path: str) -> Any:
        """What the API has at a path."""
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=60).raise_for_status().json()

    def post(self, path: str, **facts: Any) -> Any:
        """Ask the API for a change, or by a filter."""
        return httpx.post(f"{self.url}{path}", json=facts, trust_env=False, timeout=60).raise_for_status().json()

    def start_run(self, deployment: str, **parameters: Any) -> str:
        """Create a run of a deployment; returns its id."""
        found = self.get(f"/deployments/name/{deployment}")
        run = self.post(f"/deployments/{found['id']}/create_flow_run", parameters=parameters)
        return str(run["id"])

    def state(self, flow_run: str) -> dict[str, Any] | None:
        """State of a flow run; none while the server is away."""
        with contextlib.suppress(httpx.HTTPError):
            state: dict[str, Any] = self.get(f"/flow_runs/{flow_run}")["state"]
            return state
        return None

    def ended(self, flow_run: str, timeout_s: float = 600) -> dict[str, Any]:
        """The final state of a flow run, waited for."""

        def final() -> dict[str, Any] | None:
            state = self.state(flow_run)
            return state if state and state["type"] in FINAL else None

        found: dict[str, Any] = wait_for(f"the end of the flow run {flow_run}", final, timeout_s)
        return found

    def run_sweep(self, name: str = "all", timeout_s: float = 600, **parameters: Any) -> dict[str, Any]:
        """Run a sweep to its end; returns the final state of its flow run."""
        return self.ended(self.start_run(f"sweep/{name}", **parameters), timeout_s)

    def wait_for_lines(self, number: int) -> None:
        """Return when the simulation's journal has so many lines."""
        wait_for(f"line {number} of the journal", lambda: len(self.simulation.journal()) >= number)

    # Processes

    def start_server(self) -> None:
        """Start Prefect's server and wait until it answers."""
        environment = self.environment | self._server_environment
        self._start("server", self._server_argv, environment)
        wait_for_health(self.url, self._processes["server"], self.home / "server.log")

    def start_worker(self, pool: str) -> None:
        """Start a worker of a pool."""
        own = {"PREFECT_HOME": str(self.home / f"worker-{pool}"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
        argv = [str(BIN / "prefect"), "worker", "start", "--pool", pool, "--type", "process", "--name", f"{pool}-host"]
        self._start(pool, argv, self.environment | own)

    def kill_server(self) -> None:
        """Kill Prefect's server."""
        process = self._processes.pop("server")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_worker(self, pool: str) -> None:
        """Kill a worker; the flow runs that it started are left without it."""
        process = self._processes.pop(pool)
        for worker in psutil.Process(process.pid).children():
            worker.kill()
        process.wait()

    def flow_processes(self, module: str = "tests.simulated.host") -> dict[str, psutil.Process]:
        """Processes of flow runs, by the flow run's id; those of sweeps are of the module `prefect.engine`."""
        found = {}
        for process in processes_with(VARIABLE, str(self.simulation.path)):
            with contextlib.suppress(psutil.Error):
                if module in process.cmdline() and (run := process.environ().get("PREFECT__FLOW_RUN_ID")):
                    found[run] = process
        return found

    def log(self, name: str) -> str:
        """What a process wrote: `server`, or a pool's worker."""
        return (self.home / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End everything, whatever has been killed before."""
        end_all_with(VARIABLE, str(self.simulation.path))
        for process in self._processes.values():
            process.wait()
        self.postgresql.close()

    def _start(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        log = self.home / f"{name}.log"
        if log.exists():
            log.rename(log.with_suffix(f".{time.time_ns()}.log"))
        self._processes[name] = start_guarded(argv, environment, log)


@contextlib.contextmanager
def cluster(home: Path, facts: dict[str, Any], *, scale: float = 1.0) -> Iterator[Cluster]:
    """A cluster that runs the matrix `facts`, with a worker for each chip's pool and for `control`."""
    home.mkdir(parents=True, exist_ok=True)
    made = Cluster(home, facts, scale)
    try:
        # A copy, so that a test can change a chip.
        shutil.copytree(CHIPS, home / "chips")
        made.write_matrix()
        keep_baseline(made.store_url)
        made.start_server()
        made.deploy()
        for pool in [*made.pools, CONTROL]:
            made.start_worker(pool)
        yield made
    finally:
        made.stop()
