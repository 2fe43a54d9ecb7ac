"""The container launcher: a server in a container of this host's engine, its log in a file.

A container carries labels that say for which cell and release it runs, and which process started it. It is removed when
its handle ends; where that process was killed, the next start removes what its labels name.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import docker
import requests
import urllib3
from docker.errors import APIError, NotFound

from flagrelease.chip import Chip
from flagrelease.errors import FlagReleaseError, PreflightError
from runtime.docker_engine import connect, engine_errors, explanation
from runtime.launch import container_reasons as reasons
from runtime.launch.container_preflight import check
from runtime.launch.container_spec import ContainerSpec, Port
from runtime.launch.docker_run import sdk_arguments
from runtime.launch.interface import Log, ServerSpec
from runtime.launch.owner import Owner, this_process
from runtime.launch.readiness import indent, last_lines, wait_ready
from runtime.smi import SmiReport, wait_free

LABEL = "io.flagos.flagrelease."
STOP_TIMEOUT_S = 10
FLUSH_TIMEOUT_S = 5.0
FREED_TIMEOUT_S = 30.0
FREED_SLACK_MIB = 1024.0
"""What a driver may keep for itself after the first use of a device."""
LOST = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, APIError)
"""What the SDK raises where the engine is gone, or fails by itself."""


class ContainerServer:
    """Handle of a server in a container."""

    def __init__(
        self,
        client: docker.DockerClient,
        identifier: str,
        container: ContainerSpec,
        spec: ServerSpec,
        paths: Sequence[str],
    ) -> None:
        self._client = client
        self._id = identifier
        self._container = container
        self._paths = paths
        self._cell = spec.cell
        self._end: reasons.Exit | None = None
        self._lost = ""
        self.name = container.name or identifier
        self.log_path = spec.log_path
        self.base_url = f"http://{spec.host}:{spec.port}"
        self.ready_after_s = 0.0
        self._follower = threading.Thread(target=self._follow, name=f"log of {self.name}", daemon=True)
        self._follower.start()

    def alive(self) -> bool:
        """Whether the container still runs."""
        if self._end or self._lost:
            return False
        try:
            state = self._client.api.inspect_container(self._id)["State"]
            if state["Running"]:
                return True
            self._end = reasons.Exit(state["ExitCode"], state["OOMKilled"])
        except NotFound:
            self._lost = "its container was removed by somebody else"
        except LOST as error:
            self._lost = f"the container engine stopped answering: {error}"
        return False

    def wait(self) -> None:
        """Return when the server has ended."""
        while self.alive():
            with contextlib.suppress(*LOST):
                self._client.api.wait(self._id)

    def exit_reason(self) -> str:
        """How the container ended, and the log's last lines."""
        return f"{self._reason().what}; last lines of {self.log_path}:\n{indent(last_lines(self.log_path))}"

    def read(self, path: str) -> bytes | None:
        """A file that the server wrote in its container; what the image brought is none."""
        with engine_errors(f"reading {path} in {self.name}"):
            # The engine's own copying does not see what lies in a tmpfs.
            command = ["sh", "-c", 'stat -c %Y -- "$1" && cat -- "$1"', "-", path]
            run = self._client.api.exec_create(self._id, command, user="0")["Id"]
            output = self._client.api.exec_start(run, demux=True)[0] or b""
            if self._client.api.exec_inspect(run)["ExitCode"] != 0:
                return None
            started = self._client.api.inspect_container(self._id)["State"]["StartedAt"]
        changed, _, content = output.partition(b"\n")
        written = int(changed) >= int(datetime.fromisoformat(started[:19] + "+00:00").timestamp())
        return content if written else None

    def death(self, waited_s: float) -> FlagReleaseError:
        """The error to raise where the container ended while the server was loading."""
        why = self._reason()
        return why.error(
            f"the server of {self._cell} died while loading after {waited_s:.0f} s: {self.exit_reason()}",
            remedy=f"{why.remedy}; the whole log: {self.log_path}",
        )

    def stop(self) -> None:
        """End the container, and wait until its log is written."""
        with contextlib.suppress(*LOST):
            self._client.api.stop(self._id, timeout=STOP_TIMEOUT_S)
        self._follower.join(FLUSH_TIMEOUT_S)

    def _reason(self) -> reasons.Reason:
        if self.alive():
            return reasons.Reason("it still runs", "")
        self._follower.join(FLUSH_TIMEOUT_S)
        if self._end is None:
            return reasons.Reason(self._lost, "see the engine's log (journalctl -u docker), then run the command again")
        return reasons.reason(self._end, self._container, last_lines(self.log_path), paths=self._paths)

    def _follow(self) -> None:
        # A connection of its own: the SDK's are not made for two threads.
        with (
            self.log_path.open("wb") as file,
            contextlib.suppress(FlagReleaseError, *LOST),
            contextlib.closing(connect()) as client,
        ):
            for chunk in client.api.logs(self._id, stream=True, follow=True):
                file.write(chunk)
                file.flush()


class ContainerLauncher:
    """Starts servers in containers that are made as one specification says."""

    def __init__(
        self, container: ContainerSpec, *, chip: Chip | None = None, release: str = "", paths: Sequence[str] = ()
    ) -> None:
        """`chip`: whose memory must be free; `paths`: what must be there in the container, such as the model."""
        self._container = container
        self._chip = chip
        self._release = release
        self._paths = paths

    @contextmanager
    def start(self, spec: ServerSpec, log: Log) -> Iterator[ContainerServer]:
        """Start the server, wait for an answered completion, stop and remove its container at the end.

        The container's command and environment are those of `spec.command`. Raises PreflightError, PortError or
        WeightsError where this host lacks something, EngineError where the engine fails, and ServerError with the
        log's last lines where the server dies or never answers.
        """
        container = self._prepared(spec)
        with contextlib.closing(connect()) as client:
            sweep(client, log)
            before = check(client, container, spec, self._paths, self._chip)
            spec.log_path.parent.mkdir(parents=True, exist_ok=True)
            server = None
            try:
                identifier = _start(client, container)
                server = ContainerServer(client, identifier, container, spec, self._paths)
                server.ready_after_s = wait_ready(server, spec, log)
                yield server
            finally:
                try:
                    if server:
                        server.stop()
                finally:
                    _remove(client, container.name or "", log)
                if before and self._chip:
                    _say_held(self._chip, before, log)

    def _prepared(self, spec: ServerSpec) -> ContainerSpec:
        """The specification of this one server: it stays after its end, so that it can be asked why it ended."""
        container = self._container
        published = Port(container=spec.port, host=spec.port, address=spec.host)
        own_network = container.network in {None, "bridge", "default"}
        return ContainerSpec(
            **{
                **dict(container),
                "name": f"flagrelease-{spec.cell}-{secrets.token_hex(4)}",
                "command": tuple(spec.command.argv),
                "environment": {**container.environment, **spec.command.environment},
                "ports": (*container.ports, published) if own_network else container.ports,
                "labels": {**container.labels, **_labels(spec.cell, self._release)},
                "detach": True,
                "interactive": False,
                "tty": False,
                "remove": False,
            }
        )


def sweep(client: docker.DockerClient, log: Log) -> None:
    """Remove containers of this host whose process was killed before it could."""
    with engine_errors("looking for containers of killed releases"):
        found = client.api.containers(all=True, filters={"label": f"{LABEL}host={this_process().host}"})
    for each in found:
        labels = each["Labels"]
        owner = _owner(labels)
        if owner and owner.gone() and _remove(client, each["Id"], log):
            log(f"serve: removed the container that a killed release of {labels.get(f'{LABEL}cell')} left behind")


def _start(client: docker.DockerClient, container: ContainerSpec) -> str:
    """Id of a new container that runs; the engine's words become an error with the next step."""
    with engine_errors(f"starting a container of {container.image}"):
        try:
            identifier: str = client.api.create_container(**sdk_arguments(container))["Id"]
            client.api.start(identifier)
        except APIError as error:
            raise reasons.start_failure(explanation(error), container) from error
    return identifier


def _remove(client: docker.DockerClient, container: str, log: Log) -> bool:
    """Remove a container, running or not, or only created; false where it is not there or cannot be removed."""
    try:
        client.api.remove_container(container, force=True, v=True)
    except NotFound:
        return False
    except LOST as error:
        if "already in progress" not in str(error):
            log(f"serve: the container {container} could not be removed, the next start will: {error}")
        return False
    return True


def _say_held(chip: Chip, before: SmiReport, log: Log) -> None:
    """Say which devices have not got their memory back; it is for the next start to refuse them."""
    try:
        held = wait_free(chip, before, slack_mib=FREED_SLACK_MIB, timeout_s=FREED_TIMEOUT_S)
    except PreflightError as problem:
        held = [problem.message]
    if held:
        log(f"serve: the server has ended, but memory of {chip.display} is not free again: {'; '.join(held)}")


def _labels(cell: str, release: str) -> dict[str, str]:
    owner = {name: str(value) for name, value in this_process()._asdict().items()}
    return {f"{LABEL}{name}": value for name, value in {"cell": cell, "release": release, **owner}.items()}


def _owner(labels: dict[str, str]) -> Owner | None:
    try:
        host, boot, namespace, pid, started = (labels[f"{LABEL}{name}"] for name in Owner._fields)
        return Owner(host, boot, namespace, int(pid), int(started))
    except (KeyError, ValueError):
        return None
