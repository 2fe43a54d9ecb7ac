"""The process launcher: ready means an answered completion; whatever happens, nothing is left running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from flagrelease.errors import PortError, ServerError
from runtime.engines.interface import ServerCommand
from runtime.launch.interface import ServerSpec
from runtime.launch.process import ProcessLauncher, free_port
from runtime.operators import PATHS, WRITTEN
from tests.waiting import wait_for

STAND_IN = Path(__file__).with_name("stand_in_server.py")


def spec(tmp_path: Path, mode: str, timeout: float = 20) -> ServerSpec:
    port = free_port()
    command = ServerCommand([sys.executable, str(STAND_IN), mode, str(port)], {})
    return ServerSpec("m-c", command, "stand-in", "127.0.0.1", port, tmp_path / "server.log", timeout)


def servers() -> list[int]:
    """Processes of stand-in servers that run."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(STAND_IN) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def test_a_server_is_ready_when_it_answers_and_gone_afterwards(tmp_path: Path) -> None:
    with ProcessLauncher(tmp_path / "state").start(spec(tmp_path, "sound"), print) as server:
        assert server.alive()
        assert "loading the model" in server.log_path.read_text()
    assert not server.alive()
    assert servers() == []
    assert list((tmp_path / "state").iterdir()) == []


def listing(tmp_path: Path, name: str, operator: str) -> ServerSpec:
    """A server that lists an operator where it is told to."""
    sound = spec(tmp_path, "sound")
    script = f'echo "{operator}" > "$LIST"; exec "$@"'
    command = ServerCommand(["sh", "-c", script, "-", *sound.command.argv], {"LIST": WRITTEN})
    return sound._replace(command=command, log_path=tmp_path / f"{name}.log")


def test_each_server_has_a_list_of_operators_of_its_own(tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path / "state")
    with (
        launcher.start(listing(tmp_path, "one", "add"), print) as one,
        launcher.start(listing(tmp_path, "other", "mm"), print) as other,
    ):
        assert (one.read(WRITTEN), other.read(WRITTEN)) == (b"add\n", b"mm\n")
        # Of a host's other paths nobody knows whose they are.
        assert [one.read(path) for path in (*PATHS[1:], __file__)] == [None] * len(PATHS)


def test_a_list_from_before_is_none(tmp_path: Path) -> None:
    launcher, again = ProcessLauncher(tmp_path / "state"), spec(tmp_path, "sound")
    with launcher.start(listing(tmp_path, "server", "add"), print) as first:
        assert first.read(WRITTEN) == b"add\n"
    with launcher.start(again, print) as second:
        assert second.log_path == first.log_path
        assert second.read(WRITTEN) is None


def test_children_of_the_server_end_with_it(tmp_path: Path) -> None:
    with ProcessLauncher(tmp_path / "state").start(spec(tmp_path, "children"), print) as server:
        child = int(server.log_path.read_text().split("child ")[1].split()[0])
        assert psutil.pid_exists(child)
    wait_for(
        "the end of the server's child",
        lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE,
        30,
    )


def test_an_exception_in_the_body_stops_the_server(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ProcessLauncher(tmp_path / "state").start(spec(tmp_path, "sound"), print):
        raise KeyboardInterrupt
    assert servers() == []


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("dies", r"died while loading[\s\S]*exited with code 7[\s\S]*corrupt tensor blk.3"),
        ("dies_oddly", r"died while loading[\s\S]*exited with code 255"),
        ("killed", r"died while loading[\s\S]*SIGKILL \(out of memory, or killed by hand\)"),
        ("mute", r"no sane text"),
    ],
)
def test_a_broken_server_says_why(tmp_path: Path, mode: str, expected: str) -> None:
    with (
        pytest.raises(ServerError, match=expected),
        ProcessLauncher(tmp_path / "state").start(spec(tmp_path, mode), print),
    ):
        pytest.fail("was called ready")
    assert servers() == []


@pytest.mark.parametrize("mode", ["hangs", "other_model"])
def test_a_server_that_never_gets_ready_is_given_up(tmp_path: Path, mode: str) -> None:
    with (
        pytest.raises(ServerError, match=r"not ready within 1 s"),
        ProcessLauncher(tmp_path / "state").start(spec(tmp_path, mode, timeout=1), print),
    ):
        pytest.fail("was called ready")
    assert servers() == []


def test_a_taken_port_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    wanted = spec(tmp_path, "sound")
    with socket.socket() as other:
        other.bind(("127.0.0.1", wanted.port))
        other.listen()
        with (
            pytest.raises(PortError, match=f"port {wanted.port} on 127.0.0.1 is in use"),
            ProcessLauncher(tmp_path / "state").start(wanted, print),
        ):
            pytest.fail("was called ready")
    assert not wanted.log_path.exists()


OWNER = """
import os, sys
from pathlib import Path
from tests.integration.test_process_launcher import spec, ProcessLauncher
folder = Path(sys.argv[1])
with ProcessLauncher(folder / "state").start(spec(folder, "children"), print):
    print("ready", flush=True)
    sys.stdin.read()
"""


def killed_owner(tmp_path: Path, *, with_guard: bool) -> None:
    """Start a server from another process, and kill that process (and the server's guard) with SIGKILL."""
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"ready\n"
    assert servers()
    if with_guard:
        guard = int(next((tmp_path / "state").iterdir()).stem)
        os.kill(owner.pid, signal.SIGSTOP)
        os.kill(guard, signal.SIGKILL)
    owner.kill()
    owner.wait()


def test_a_killed_owner_leaves_no_server(tmp_path: Path) -> None:
    killed_owner(tmp_path, with_guard=False)
    wait_for("the end of the server", lambda: servers() == [], 30)


def test_what_a_killed_owner_and_guard_leave_is_ended_by_the_next_start(tmp_path: Path) -> None:
    killed_owner(tmp_path, with_guard=True)
    assert servers() != []
    said: list[str] = []
    with ProcessLauncher(tmp_path / "state").start(spec(tmp_path, "sound"), said.append):
        assert len(servers()) == 2  # the new server and its guard
    assert any("left behind" in line for line in said)
    assert servers() == []


def test_a_server_of_a_living_owner_is_left_alone(tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path / "state")
    with launcher.start(spec(tmp_path, "sound"), print) as first:
        with launcher.start(spec(tmp_path, "sound"), print):
            pass
        assert first.alive()
