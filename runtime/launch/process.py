"""The process launcher: a server in its own process group on this host, its log in a file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from flagrelease.errors import PortError, ServerError
from runtime.launch.interface import Log, ServerSpec

GUARD = Path(__file__).with_name("guard.py")
LAST_LINES = 15
STOP_TIMEOUT_S = 20.0
POLL_S = 0.2
SAY_EVERY_S = 10.0
PROBE = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
SIGNALLED = 128


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(host: str, port: int) -> None:
    """Raise PortError where another program listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServerError(
                    f"cannot listen on {host}:{port}: {error.strerror or error}",
                    remedy="give an address of this host with --host",
                ) from error
            raise PortError(
                f"port {port} on {host} is in use by another program",
                remedy=f"end it (ss -ltnp 'sport = :{port}' names it) or choose another port with --port",
            ) from error


def start_guarded(argv: Sequence[str], environment: Mapping[str, str], log_path: Path) -> subprocess.Popen[bytes]:
    """Start a command in its own process group, which ends with this process; what it writes goes to `log_path`."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log_file:
        return subprocess.Popen(
            [sys.executable, str(GUARD), *argv],
            stdin=subprocess.PIPE,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
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
        process = start_guarded(spec.command.argv, spec.command.environment, spec.log_path)
        server = ProcessServer(process, spec)
        record = self._state / f"{process.pid}.json"
        try:
            self._remember(record, process.pid, spec)
            server.ready_after_s = _wait_ready(server, spec, log)
            yield server
        finally:
            server.stop()
            record.unlink(missing_ok=True)

    def _remember(self, record: Path, group: int, spec: ServerSpec) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        owner = psutil.Process()
        record.write_text(
            json.dumps(
                {
                    "cell": spec.cell,
                    "group": group,
                    "started": psutil.Process(group).create_time(),
                    "owner": owner.pid,
                    "owner_started": owner.create_time(),
                }
            )
        )

    def sweep(self, log: Log) -> None:
        """End servers whose owner is gone: their guard ends them itself, unless it was killed too."""
        for record in self._state.glob("*.json"):
            try:
                left = json.loads(record.read_text())
            except (ValueError, OSError):
                record.unlink(missing_ok=True)
                continue
            if _running(left["owner"], started=left["owner_started"]):
                continue
            members = [
                process
                for process in psutil.process_iter()
                if _group(process.pid) == left["group"] and _running(process.pid, not_before=left["started"])
            ]
            for process in members:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(members, timeout=STOP_TIMEOUT_S)
            if members:
                log(f"serve: ended the server that a killed release of {left['cell']} left behind")
            record.unlink(missing_ok=True)


def _running(pid: int, *, started: float | None = None, not_before: float = 0) -> bool:
    """Whether this very process runs: numbers are used again, and zombies do not run."""
    try:
        process = psutil.Process(pid)
        born = process.create_time()
        return (started is None or born == started) and born >= not_before and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _wait_ready(server: ProcessServer, spec: ServerSpec, log: Log) -> float:
    start = time.monotonic()
    say_at = start + SAY_EVERY_S
    # A proxy of the environment is for the world outside, not for this host.
    with httpx.Client(base_url=server.base_url, timeout=60, trust_env=False) as client:
        while True:
            waited = time.monotonic() - start
            if not server.alive():
                raise ServerError(
                    f"the server of {spec.cell} died while loading after {waited:.0f} s: {server.exit_reason()}",
                    remedy=f"the whole log: {spec.log_path}",
                )
            if waited > spec.ready_timeout_s:
                raise ServerError(
                    f"the server of {spec.cell} was not ready within {spec.ready_timeout_s:.0f} s: "
                    f"{server.exit_reason()}",
                    remedy="give it more time with the engine's setting ready_timeout_s, "
                    f"or see why it hangs: {spec.log_path}",
                )
            if _answers(client, spec):
                return time.monotonic() - start
            if time.monotonic() > say_at:
                say_at += SAY_EVERY_S
                log(f"serve: loading for {waited:.0f} s: {last_lines(spec.log_path, 1).strip()[-100:]}")
            time.sleep(POLL_S)


def _answers(client: httpx.Client, spec: ServerSpec) -> bool:
    """Whether the model is listed and answers a completion; a healthy /health proves neither."""
    try:
        models = client.get("/v1/models")
        if models.status_code != httpx.codes.OK or spec.served_name not in models.text:
            return False
        answer = client.post("/v1/completions", json={"model": spec.served_name, **PROBE})
    except httpx.TransportError:
        return False
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return False
    try:
        text = answer.json()["choices"][0]["text"]
    except (ValueError, LookupError, TypeError):
        text = ""
    if not text.strip() or "\ufffd" in text:
        raise ServerError(
            f"the server of {spec.cell} answers a completion with HTTP {answer.status_code} and no sane text: "
            f"{answer.text[:200]!r}",
            remedy=f"the model or the engine's settings are broken; see {spec.log_path}",
        )
    return True


def last_lines(path: Path, count: int = LAST_LINES) -> str:
    """The last `count` lines of a text file; empty where there is none."""
    try:
        data = path.read_bytes()[-20_000:]
    except OSError:
        return ""
    lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def indent(text: str) -> str:
    """`text` moved to the right by four spaces."""
    return "\n".join(f"    {line}" for line in text.splitlines())
