"""A Prefect server for one run in this process, where none is configured.

Prefect would start one by itself, but that one outlives a run that is killed; ours ends with it, by the same
guard that ends model servers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import prefect
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from flagrelease.errors import PreflightError
from runtime.launch.interface import Log
from runtime.launch.process import free_port, indent, last_lines, start_guarded, stop_guarded

START_TIMEOUT_S = 180
POLL_S = 0.1
DRAIN_S = 30.0
"""A server that answers takes what is left in less than a second."""
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_UI_ENABLED": "0",
    # No schedules, late-run checks and the like for a server that lives for one run.
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


@contextmanager
def prefect_server(home: Path, log: Log) -> Iterator[None]:
    """Within the block Prefect has a server: the configured one, else one whose database lies in `home`."""
    if configured := PREFECT_API_URL.value():
        if not _healthy(configured):
            raise PreflightError(
                f"the Prefect server at {configured} does not answer",
                remedy="start it (prefect server start), or run without one: prefect config unset PREFECT_API_URL",
            )
        yield
        return
    start = time.monotonic()
    port = free_port()
    log_path = home / "server.log"
    application = ["-m", "uvicorn", "--app-dir", str(Path(prefect.__file__).parent.parent), "--factory"]
    address = ["prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    argv = [sys.executable, *application, *address]
    # Its own settings may hold the password of its database.
    process = start_guarded(argv, {**ENVIRONMENT, "PREFECT_HOME": str(home)}, log_path, keep=("PREFECT_",))
    try:
        url = f"http://127.0.0.1:{port}/api"
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() - start > START_TIMEOUT_S:
                raise PreflightError(
                    f"Prefect's own server did not start; last lines of {log_path}:\n{indent(last_lines(log_path))}",
                    remedy="see its log, or start one by hand (prefect server start) and set PREFECT_API_URL",
                )
            time.sleep(POLL_S)
        log(f"Prefect's own server was ready after {time.monotonic() - start:.1f} s")
        with temporary_settings({PREFECT_API_URL: url, PREFECT_UI_URL: ""}):
            try:
                yield
            finally:
                _send_the_rest(log)
    finally:
        stop_guarded(process)


def _send_the_rest(log: Log) -> None:
    """Let Prefect send what it keeps; it would go on trying for minutes after the server has ended."""
    for waited in (APILogWorker.drain_all(timeout=DRAIN_S), EventsWorker.drain_all(timeout=DRAIN_S)):
        if isinstance(waited, tuple) and waited[1]:
            log(f"Prefect's own server did not take all of the run's log and events within {DRAIN_S:.0f} s")


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False
