"""One cell is released by one host at a time, where hosts share a PostgreSQL."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import create_engine, text

from flagrelease.errors import PreflightError, StoreError
from flows.locks import SharedLock
from runtime.launch.process import free_port
from tests.integration.test_store_postgresql import server  # noqa: F401 - a fixture
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("postgresql")
RELEASING = "releasing qwen3-metax"
HOLD = """
import sys
from flows.locks import SharedLock
lock = SharedLock(sys.argv[1], sys.argv[2])
lock.hold()
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_is_refused_until_the_first_has_ended(server: str) -> None:  # noqa: F811 - the fixture
    first, second, other = SharedLock(server, RELEASING), SharedLock(server, RELEASING), SharedLock(server, "else")
    first.hold()
    first.hold()
    other.hold()
    with pytest.raises(PreflightError, match=r"another host is releasing qwen3-metax \(flagrelease: releasing qwen3"):
        second.hold()
    first.close()
    second.hold()
    with pytest.raises(PreflightError):
        first.hold()
    second.close()
    other.close()


def test_a_process_that_is_killed_holds_nothing(server: str) -> None:  # noqa: F811 - the fixture
    argv = [sys.executable, "-c", HOLD, server, RELEASING]
    lock = SharedLock(server, RELEASING)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(PreflightError):
            lock.hold()
        process.kill()
    _wait_until_free(server)
    lock.hold()
    lock.close()


def test_a_lock_whose_connection_broke_is_got_again_or_lost(server: str) -> None:  # noqa: F811 - the fixture
    first, second = SharedLock(server, RELEASING), SharedLock(server, RELEASING)
    first.hold()
    _end_sessions(server)
    first.hold()
    _end_sessions(server)
    second.hold()
    with pytest.raises(PreflightError, match="another host is releasing"):
        first.hold()
    second.close()


def test_a_database_that_does_not_answer_is_said() -> None:
    with pytest.raises(StoreError, match="does not answer"):
        SharedLock(f"postgresql+psycopg://flagrelease@127.0.0.1:{free_port()}/postgres", RELEASING).hold()


def _end_sessions(url: str) -> None:
    """As a restart of the database does."""
    with create_engine(url).connect() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'flagrelease: %'")
        )
    _wait_until_free(url)


def _wait_until_free(url: str) -> None:
    """The database ends a session soon after its connection broke."""
    with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        held = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        wait_for("the end of all locks", lambda: connection.execute(held).scalar() == 0, 60)
