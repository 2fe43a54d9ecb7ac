"""What `flagrelease deploy` says where there is no Prefect server to talk to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flagrelease.errors import DeployError, FlagReleaseError, PreflightError
from flows.deployments.deploy import deploy
from runtime.launch.process import free_port

OURS = prefect.__version__


@contextmanager
def stand_in_prefect(answers: dict[str, tuple[int, str]]) -> Iterator[str]:
    """A server that answers each path as told, and 404 otherwise; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answers.get(self.path, (404, '{"detail": "Not Found"}'))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refused(url: str | None) -> tuple[FlagReleaseError, list[str]]:
    """The error of a deploy to the server at `url`, and what was said before it."""
    said: list[str] = []
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(FlagReleaseError) as error:
        deploy(said.append, lambda _: True)
    return error.value, said


def test_no_server_is_configured(home: Path) -> None:
    assert home.exists()
    error, _ = refused("")
    assert isinstance(error, PreflightError)
    assert error.message == "no Prefect server is configured"
    assert "prefect server start" in error.remedy


def test_a_server_that_does_not_answer(home: Path) -> None:
    assert home.exists()
    url = f"http://127.0.0.1:{free_port()}/api"
    error, _ = refused(url)
    assert isinstance(error, PreflightError)
    assert f"the Prefect server at {url} does not answer" in error.message


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_password(home: Path, status: int) -> None:
    assert home.exists()
    unauthorized = json.dumps({"exception_message": "Unauthorized"})
    with stand_in_prefect({"/api/admin/version": (status, unauthorized)}) as url:
        error, _ = refused(url)
    assert isinstance(error, PreflightError)
    assert f"refused this client ({status})" in error.message
    assert "PREFECT_API_AUTH_STRING" in error.remedy


@pytest.mark.parametrize("answer", [(200, "<html></html>"), (404, "{}"), (200, "{}")])
def test_an_address_that_is_not_an_api(home: Path, answer: tuple[int, str]) -> None:
    assert home.exists()
    with stand_in_prefect({"/api/admin/version": answer}) as url:
        error, _ = refused(url)
    assert isinstance(error, PreflightError)
    assert "is not the API of a Prefect server" in error.message
    assert "/api" in error.remedy


def test_a_server_that_is_broken(home: Path) -> None:
    assert home.exists()
    with stand_in_prefect({"/api/admin/version": (500, "no database")}) as url:
        error, _ = refused(url)
    assert isinstance(error, PreflightError)
    assert error.message == f"the Prefect server at {url} answered 500: no database"
    assert "log" in error.remedy


def test_a_server_of_another_major_version(home: Path) -> None:
    assert home.exists()
    with stand_in_prefect({"/api/admin/version": (200, '"2.20.9"')}) as url:
        error, _ = refused(url)
    assert isinstance(error, PreflightError)
    assert f"runs Prefect 2.20.9, this host has {OURS}" in error.message
    assert f"prefect=={OURS}" in error.remedy


def test_an_older_server_is_named_and_what_it_refuses_is_shown(home: Path) -> None:
    assert home.exists()
    answers = {
        "/api/admin/version": (200, '"3.0.0"'),
        "/api/csrf-token": (422, "{}"),
        "/api/work_pools/filter": (422, '{"detail": "unknown field"}'),
    }
    with stand_in_prefect(answers) as url:
        error, said = refused(url)
    assert said == [f"note: the server runs Prefect 3.0.0, older than this host's {OURS}; bring it to {OURS} or newer"]
    assert isinstance(error, DeployError)
    assert error.message == f"nothing was changed: the Prefect server at {url} answered 422: unknown field"
