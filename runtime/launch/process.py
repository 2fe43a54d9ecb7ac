"""The process launcher: a server in its own process group on this host, its log in a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from flagrelease.errors import ServerError, ServerSettingsError
from flagrelease.secrets import child_environment
from runtime.launch.interface import Log, ServerSpec
from runtime.launch.owner import Owner, start_time, this_process
from runtime.launch.ports import free_port, require_free
from runtime.launch.readiness import indent, last_lines, wait_ready
from runtime.operators import WRITTEN

__all__ = ["ProcessLauncher", "ProcessServer", "free_port", "indent", "last_lines", "start_guarded", "stop_guarded"]

GUARD = Path(__file__).with_name("guard.py")
STOP_TIMEOUT_S = 20.0
SIGNALLED = 128
NOT_UNDERSTOOD = frozenset({2, 126, 127})
"""Exit codes of a command that did not take its arguments, may not be executed, or is not there."""


def start_guarded(
    argv: Sequence[str], environment: Mapping[str, str], log_path: Path, *, keep: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a command in its own process group, which ends with this process; what it writes goes to `log_path`.

    It sees no secret of this process but `keep` (as `child_environment`); a model server needs none: its weights lie
    on this host.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log_file:
        return subprocess.Popen(
            [sys.executable, str(GUARD), *argv],
            stdin=subprocess.PIPE,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            env=child_environment(environment, keep=keep),
            start_new_session=True,
        )


def stop_guarded(process: subprocess.Popen[bytes]) -> None:
    """End a guarded command and everything that it started."""
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class ProcessServer:
    """Handle of a server process."""

    def __init__(self, process: subprocess.Popen[bytes], spec: ServerSpec) -> None:
        self._process = process
        self._cell = spec.cell
        self._listed = _list_path(spec)
        self.log_path = spec.log_path
        self.base_url = f"http://{spec.host}:{spec.port}"
        self.ready_after_s = 0.0

    def alive(self) -> bool:
        """Whether the server still runs."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Return when the server has ended."""
        self._process.wait()

    def exit_reason(self) -> str:
        """Exit code or signal, and the log's last lines."""
        code = self._process.poll()
        if code is None:
            how = "it still runs"
        elif (number := code - SIGNALLED if code > 0 else -code) in set(signal.Signals):
            how = f"ended by signal {signal.Signals(number).name}"
            if number == signal.SIGKILL:
                how += " (out of memory, or killed by hand)"
        else:
            how = f"exited with code {code}"
        return f"{how}; last lines of {self.log_path}:\n{indent(last_lines(self.log_path))}"

    def read(self, path: str) -> bytes | None:
        """The list of operators that the server wrote, for `WRITTEN`; other files of a host may be anybody's."""
        return self._listed.read_bytes() if path == WRITTEN and self._listed.is_file() else None

    def death(self, waited_s: float) -> ServerError:
        """The error to raise where the server ended while it was loading."""
        kind = ServerSettingsError if self._process.poll() in NOT_UNDERSTOOD else ServerError
        return kind(
            f"the server of {self._cell} died while loading after {waited_s:.0f} s: {self.exit_reason()}",
            remedy=f"the whole log: {self.log_path}",
        )

    def stop(self) -> None:
        """End the server and everything it started."""
        stop_guarded(self._process)


class ProcessLauncher:
    """Starts servers on this host; remembers them in `state` so that the next start can end what was left."""

    def __init__(self, state: Path) -> None:
        self._state = state

    @contextmanager
    def start(self, spec: ServerSpec, log: Log) -> Iterator[ProcessServer]:
        """Start the server, wait for an answered completion, stop it at the end.

        Raises PortError, or ServerError with the log's last lines where it dies or never answers.
        """
        self.sweep(log)
        require_free(spec.host, spec.port)
        process = start_guarded(spec.command.argv, _environment(spec), spec.log_path)
        server = ProcessServer(process, spec)
        record = self._state / f"{process.pid}.json"
        try:
            self._remember(record, process.pid, spec)
            server.ready_after_s = wait_ready(server, spec, log)
            yield server
        finally:
            server.stop()
            record.unlink(missing_ok=True)

    def _remember(self, record: Path, group: int, spec: ServerSpec) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        left = {"cell": spec.cell, "group": group, "started": start_time(group) or 0, "owner": this_process()}
        record.write_text(json.dumps(left))

    def sweep(self, log: Log) -> None:
        """End servers whose owner is gone: their guard ends them itself, unless it was killed too."""
        for record in self._state.glob("*.json"):
            try:
                left = json.loads(record.read_text())
                owner = Owner(*left["owner"])
            except (ValueError, TypeError, KeyError, OSError):
                record.unlink(missing_ok=True)
                continue
            if not owner.gone():
                continue
            members = [process for process in psutil.process_iter() if _belongs(process.pid, left)]
            for process in members:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(members, timeout=STOP_TIMEOUT_S)
            if members:
                log(f"serve: ended the server that a killed release of {left['cell']} left behind")
            record.unlink(missing_ok=True)


def _list_path(spec: ServerSpec) -> Path:
    """Where a process that is told to list its operators in `WRITTEN` lists them: a file of this server alone."""
    return spec.log_path.with_suffix(".operators.txt")


def _environment(spec: ServerSpec) -> dict[str, str]:
    """The command's, with the server's own list of operators; one that is there already is removed."""
    listed = _list_path(spec)
    listed.unlink(missing_ok=True)
    own = str(listed.absolute())
    return {name: own if value == WRITTEN else value for name, value in spec.command.environment.items()}


def _belongs(pid: int, left: Mapping[str, Any]) -> bool:
    """Whether the process is one of the server that `left` tells of, and no later one with the same number."""
    started = start_time(pid)
    return started is not None and _group(pid) == left["group"] and started >= left["started"]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
