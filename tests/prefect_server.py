"""A Prefect server on PostgreSQL and workers, as in production: processes that end with their block, with all runs."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from runtime.launch.process import free_port
from tests.end_to_end.commands import BIN, ROOT
from tests.postgresql import PostgreSQL
from tests.processes import end_all_with
from tests.waiting import wait_for

MARK = "FLAGRELEASE_TEST_PROCESS"
"""Environment variable that a server or worker and all that it starts have in common."""


@contextmanager
def prefect_server(home: Path, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """`prefect server start` with all its services, on a PostgreSQL of its own; its log is `server.log` in `home`.

    Yields the environment, in which PREFECT_API_URL names the server.
    """
    port, log = free_port(), home / "server.log"
    named = {**environment, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    with closing(PostgreSQL()) as database:
        own = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url("asyncpg", "prefect")}
        with _prefect("server", "start", "--port", str(port), environment=named | own, log=log) as server:
            wait_for_health(named["PREFECT_API_URL"], server, log)
            yield named


@contextmanager
def prefect_worker(home: Path, environment: Mapping[str, str], pool: str) -> Iterator[subprocess.Popen[bytes]]:
    """`prefect worker start` for a pool; its log, and that of its runs, is `<pool>.log` in `home`."""
    with _prefect("worker", "start", "--pool", pool, environment=environment, log=home / f"{pool}.log") as worker:
        yield worker


def wait_for_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return when a Prefect server answers at this URL of its API; fails with its log where it ends before."""

    def healthy() -> bool:
        assert server.poll() is None, log.read_text(errors="replace")
        try:
            return httpx.get(f"{url}/health", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    wait_for("Prefect's server", healthy)


@contextmanager
def _prefect(*argv: str, environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command of Prefect in a session of its own, killed at the end: told to end, a worker takes 30 s and longer."""
    mark = str(uuid.uuid4())
    with log.open("ab") as output:
        process = subprocess.Popen(
            [BIN / "prefect", *argv],
            env={**environment, MARK: mark},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # Not by its group: each flow run has a group of its own.
        end_all_with(MARK, mark)
        process.wait()
