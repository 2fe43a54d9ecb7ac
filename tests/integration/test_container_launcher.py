"""The container launcher on a real engine: the printed line is the same container, faults say why, nothing stays."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import socket
import subprocess
import sys
import tarfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from flagrelease.card.text import docker_run as printed
from flagrelease.chip import Chip
from flagrelease.errors import EngineError, FlagReleaseError, PortError, PreflightError, ServerError, WeightsError
from flagrelease.loading import load_chips
from flagrelease.matrix import Container
from runtime.docker_engine import connect
from runtime.engines.interface import ServerCommand
from runtime.launch.chip_container import cell_container
from runtime.launch.container import LABEL, ContainerLauncher, sweep
from runtime.launch.container_spec import ContainerSpec
from runtime.launch.docker_run import options, parse, sdk_arguments
from runtime.launch.interface import ServerSpec
from runtime.launch.owner import this_process
from runtime.launch.ports import free_port
from tests.conftest import ROOT
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("docker")

BASE = "flagrelease-base:python"
IMAGE = "flagrelease-stand-in-server:test"
METAX = load_chips()["metax"]
STAND_IN = Path(__file__).with_name("stand_in_server.py")
DOCKERFILE = f"FROM {BASE}\nCOPY stand_in_server.py /\n"
# Its own for each run of the tests; a process that a test starts has the same.
CELL = os.environ.setdefault("FLAGRELEASE_TEST_CELL", f"m-c{os.getpid()}")
OURS = {"label": f"{LABEL}cell={CELL}"}


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    found = connect()
    yield found
    found.close()


@pytest.fixture(scope="module", autouse=True)
def image(client: docker.DockerClient) -> str:
    """An image with a stand-in for a model server."""
    if not client.images.list(BASE):
        subprocess.run([ROOT / "infra/engine/base-image.sh", BASE], check=True, capture_output=True)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, data in {"Dockerfile": DOCKERFILE.encode(), STAND_IN.name: STAND_IN.read_bytes()}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag=IMAGE, rm=True)
    return IMAGE


@pytest.fixture(autouse=True)
def nothing_stays(client: docker.DockerClient) -> Iterator[None]:
    yield
    left = client.api.containers(all=True, filters=OURS)
    for each in left:
        client.api.remove_container(each["Id"], force=True)
    assert [each["Names"] for each in left] == []


def container(line: str = "--network=host --init", image: str = IMAGE) -> ContainerSpec:
    return parse(shlex.split(line), image=image)


def serving(tmp_path: Path, *argv: str, timeout: float = 30, host: str = "127.0.0.1") -> ServerSpec:
    """What is to be served: the stand-in in a mode, or another command."""
    port = free_port()
    command = list(argv) if len(argv) > 1 else ["python3", f"/{STAND_IN.name}", argv[0], str(port)]
    return ServerSpec(CELL, ServerCommand(command, {}), "stand-in", host, port, tmp_path / "server.log", timeout)


def start(launcher: ContainerLauncher, spec: ServerSpec) -> None:
    """Start a server that must not become ready."""
    with launcher.start(spec, print):
        pytest.fail("was called ready")


def python(code: str) -> list[str]:
    return ["python3", "-u", "-c", textwrap.dedent(code)]


# --- the same container by the printed line and by the SDK


NAME = f"flagrelease-test-{os.getpid()}"


def made_by(client: docker.DockerClient, spec: ContainerSpec, *, line: bool) -> dict[str, Any]:
    """What the engine made of the printed line, or of the SDK's call."""
    try:
        if line:
            lines = printed(options(spec), NAME, spec.image, spec.command)
            words = shlex.split(" ".join(each.removesuffix("\\") for each in lines))
            # What is attached wants a terminal to run; `create` makes the same container. A container that cannot be
            # started here, for want of GPUs, is there nonetheless.
            words[1] = "run" if spec.detach else "create"
            subprocess.run(words, capture_output=True, check=not spec.gpus)
        else:
            client.api.create_container(**sdk_arguments(spec))
        found: dict[str, Any] = client.api.inspect_container(NAME)
    finally:
        client.api.remove_container(NAME, force=True)
    return found


def comparable(inspected: dict[str, Any], spec: ContainerSpec) -> dict[str, Any]:
    """Configuration without what the engine makes up; nothing is nothing, however it is written."""

    def plain(part: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in part.items() if value not in (None, [], {}, "")}

    config, host = plain(inspected["Config"]), plain(inspected["HostConfig"])
    if not spec.hostname:
        config.pop("Hostname", None)
    # The size of the terminal in which the line was run.
    host.pop("ConsoleSize", None)
    # Docker's command line sends these in any order.
    config["Env"] = sorted(config["Env"])
    host["Binds"] = sorted(host.get("Binds", []))
    return {"Config": config, "HostConfig": host}


@pytest.mark.parametrize(
    "line",
    [
        "-d",
        "-it",
        "-d -it --net=host --uts=host --ipc=host -e USE_FLAGGEMS=1 --privileged=true --group-add video "
        "--shm-size 100gb --ulimit memlock=-1 --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
        "--device=/dev/null -v /usr/share/zoneinfo/UTC:/etc/localtime:ro -v /tmp/:/tmp/",
        "--init --detach --net=host --user 0 --ipc=host --security-opt=seccomp=unconfined --privileged "
        "--ulimit=stack=67108864 --ulimit=memlock=-1 --shm-size=512G",
        "-d --gpus all --ulimit nofile=1048576:1048576 --pid=host",
        "-d --gpus '\"device=0,1\"'",
        "-d --cap-add=SYS_PTRACE --cap-add=ALL --cap-drop net_raw --memory=512m --tmpfs /t:exec --tmpfs /u",
        "-d --rm -w /tmp -u 0:0 --hostname box -l a=b -p 127.0.0.1:{port}:8000 -p 9/udp --device /dev/zero:/dev/x:r",
        "-d -e 'WORDS=a b \"c\" $(d) `e`' -e EMPTY= --ipc=private --network=none",
    ],
)
def test_the_printed_line_is_the_same_container(client: docker.DockerClient, line: str) -> None:
    spec = parse(shlex.split(line.format(port=free_port())), image=IMAGE, command=["sleep", "infinity"], name=NAME)
    by_line, by_sdk = made_by(client, spec, line=True), made_by(client, spec, line=False)
    assert comparable(by_line, spec) == comparable(by_sdk, spec)


@pytest.mark.parametrize("chip", load_chips().values(), ids=lambda chip: chip.key)
def test_the_line_of_each_chip_is_the_same_container(client: docker.DockerClient, chip: Chip) -> None:
    # Not detached, so that it is only created: this host has none of the devices.
    wanted = cell_container(
        Container(image=IMAGE, name=NAME, options=chip.container_options, command=["sleep", "infinity"]), chip
    )
    spec = wanted.model_copy(update={"detach": False})
    by_line, by_sdk = made_by(client, spec, line=True), made_by(client, spec, line=False)
    assert comparable(by_line, spec) == comparable(by_sdk, spec)


# --- a server's life


def test_a_server_is_ready_when_it_answers_and_gone_afterwards(client: docker.DockerClient, tmp_path: Path) -> None:
    launcher = ContainerLauncher(container("--network=host --init --label team=a"), release="r7")
    with launcher.start(serving(tmp_path, "sound"), print) as server:
        assert server.alive()
        assert "it still runs" in server.exit_reason()
        wait_for("its log", lambda: "loading the model" in server.log_path.read_text())
        labels = client.api.inspect_container(server.name)["Config"]["Labels"]
        assert labels[f"{LABEL}cell"] == CELL
        assert labels[f"{LABEL}release"] == "r7"
        assert labels[f"{LABEL}host"] == socket.gethostname()
        assert labels[f"{LABEL}pid"] == str(os.getpid())
        assert labels["team"] == "a"
    assert not server.alive()
    assert client.api.containers(all=True, filters=OURS) == []


def test_a_container_with_a_network_of_its_own_publishes_the_port(tmp_path: Path) -> None:
    spec = serving(tmp_path, "sound")
    spec.command.argv.append("0.0.0.0")  # noqa: S104 - inside the container
    with ContainerLauncher(container("--init")).start(spec, print) as server:
        assert server.alive()


def test_the_environment_of_the_engine_and_of_the_chip_reach_the_server(tmp_path: Path) -> None:
    spec = serving(tmp_path, *python("import os; print(os.environ['A'], os.environ['B']); exit(3)"))
    spec = spec._replace(command=ServerCommand(spec.command.argv, {"B": "$(id) 'b'"}))
    with pytest.raises(ServerError, match=r"crashed with exit code 3[\s\S]*a \$\(id\) 'b'"):
        start(ContainerLauncher(container("--network=host -e A=a -e B=chip")), spec)


def test_an_exception_in_the_body_removes_the_container(tmp_path: Path) -> None:
    launcher = ContainerLauncher(container())
    with pytest.raises(KeyboardInterrupt), launcher.start(serving(tmp_path, "sound"), print):
        raise KeyboardInterrupt


def test_what_happened_while_it_served_is_told(client: docker.DockerClient, tmp_path: Path) -> None:
    with ContainerLauncher(container()).start(serving(tmp_path, "sound"), print) as server:
        client.api.kill(server.name)
        server.wait()
        assert not server.alive()
        assert "ended by signal SIGKILL" in server.exit_reason()


def test_a_container_that_somebody_removes_is_told(client: docker.DockerClient, tmp_path: Path) -> None:
    with ContainerLauncher(container()).start(serving(tmp_path, "sound"), print) as server:
        client.api.remove_container(server.name, force=True)
        assert not server.alive()
        assert "removed by somebody else" in server.exit_reason()


def test_an_interrupt_while_it_loads_removes_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.launch.container.wait_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(ContainerLauncher(container()), serving(tmp_path, "hangs"))


class Line:
    """A line to the engine that can be cut, as if the engine had ended."""

    def __init__(self, path: Path | None) -> None:
        """At a socket file; without one at a port of this host."""
        self._engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
        self._listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._listener.bind(str(path) if path else ("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"unix://{path}" if path else f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._engine)
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(one, other), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_an_engine_that_goes_away_is_told(
    client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(tmp_path / "engine.sock")
    monkeypatch.setenv("DOCKER_HOST", line.url)
    said: list[str] = []
    with ContainerLauncher(container()).start(serving(tmp_path, "sound"), said.append) as server:
        line.cut()
        assert not server.alive()
        assert "the container engine stopped answering" in server.exit_reason()
    assert len(said) == 1
    assert "could not be removed, the next start will" in said[0]
    client.api.remove_container(server.name, force=True)


# --- faults while loading


EAT = "x = []\nwhile True: x.append(bytes(bytearray(1 << 22)))"


@pytest.mark.parametrize(
    ("argv", "error", "expected"),
    [
        (["dies"], ServerError, r"died while loading[\s\S]*crashed with exit code 7[\s\S]*corrupt tensor blk.3"),
        (["sh", "-c", "exit 0"], ServerError, r"ended without an error[\s\S]*in the foreground"),
        (["sh", "-c", "flagscale serve m"], ServerError, r"a command was not found[\s\S]*flagscale: not found"),
        (["sh", "-c", "/etc/group"], ServerError, r"a command may not be executed[\s\S]*Permission denied"),
        (python("import os; os.kill(os.getpid(), 6)"), ServerError, r"ended by signal SIGABRT"),
        (["sh", "-c", "echo 'OSError: [Errno 98] Address already in use'; exit 1"], PortError, r"its port taken"),
        (["no-such-engine", "serve"], ServerError, r"a command was not found[\s\S]*no-such-engine"),
    ],
)
def test_a_broken_server_says_why(
    tmp_path: Path, argv: list[str], error: type[FlagReleaseError], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        start(ContainerLauncher(container()), serving(tmp_path, *argv))


@pytest.mark.parametrize(
    "code",
    [EAT, f"import os, time\nif os.fork() == 0:\n  {EAT.replace(chr(10), chr(10) + '  ')}\nos.wait(); exit(1)"],
    ids=["server", "its worker"],
)
def test_a_server_that_needs_too_much_memory_says_so(tmp_path: Path, code: str) -> None:
    launcher = ContainerLauncher(container("--network=host --memory=48m"))
    with pytest.raises(ServerError, match=r"ran out of memory \(its memory limit of 48m\)[\s\S]*--memory"):
        start(launcher, serving(tmp_path, *python(code)))


@pytest.mark.parametrize(
    ("mode", "expected"), [("mute", r"no sane text"), ("hangs", r"was not ready within 1 s: it still runs")]
)
def test_a_server_that_never_gets_ready_is_given_up(tmp_path: Path, mode: str, expected: str) -> None:
    with pytest.raises(ServerError, match=expected):
        start(ContainerLauncher(container()), serving(tmp_path, mode, timeout=1 if mode == "hangs" else 30))


@pytest.mark.parametrize(
    ("line", "error", "expected"),
    [
        ("--gpus all", PreflightError, r"no GPU runtime, which --gpus needs[\s\S]*nvidia-ctk"),
        ("--runtime=mthreads", PreflightError, r"has no runtime mthreads"),
        ("--group-add nobodies", PreflightError, r"has no group nobodies, to which --group-add refers"),
        ("--user nobodies", PreflightError, r"has no user nobodies, to which --user refers"),
        ("--memory=1k", PreflightError, r"memory limit 1k is below the engine's minimum of 6MB"),
        ("--device=/dev/mxcd", PreflightError, r"no device /dev/mxcd on this host"),
        ("-v /nfs-of-nobody:/nfs", PreflightError, r"nothing to mount at /nfs-of-nobody on this host"),
    ],
)
def test_what_the_host_lacks_is_named(tmp_path: Path, line: str, error: type[FlagReleaseError], expected: str) -> None:
    with pytest.raises(error, match=expected):
        start(ContainerLauncher(container(f"--network=host {line}")), serving(tmp_path, "sound"))
    assert not Path("/nfs-of-nobody").exists()


def test_what_the_engine_refuses_is_named_too(client: docker.DockerClient) -> None:
    """Where the look at the host saw nothing, because something changed since or cannot be seen."""
    from runtime.launch.container import _start

    for spec, expected in [
        (container("--device=/dev/mxcd"), "no device /dev/mxcd"),
        (container(image="flagrelease-no-such-image:1"), "the image flagrelease-no-such-image:1 is not on this host"),
    ]:
        name = f"flagrelease-{os.getpid()}"
        try:
            with pytest.raises(PreflightError, match=expected):
                _start(client, spec.model_copy(update={"name": name}))
        finally:
            for each in client.api.containers(all=True, filters={"name": name}):
                client.api.remove_container(each["Id"])


def test_an_image_without_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=f"the image {IMAGE} has no such command: no-such-engine"):
        start(ContainerLauncher(container("--network=host")), serving(tmp_path, "no-such-engine", "serve"))


def test_a_server_that_does_not_end_when_asked_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.launch.container.STOP_TIMEOUT_S", 1)
    # The first process of a container without --init gets no SIGTERM.
    with ContainerLauncher(container("--network=host")).start(serving(tmp_path, "sound"), print) as server:
        assert server.alive()
    assert not server.alive()


def test_a_missing_image_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    launcher = ContainerLauncher(container(image="flagrelease-no-such-image:1"))
    with pytest.raises(PreflightError, match=r"flagrelease-no-such-image:1 is not on this host[\s\S]*docker pull"):
        start(launcher, serving(tmp_path, "sound"))


def test_a_missing_model_folder_is_named(tmp_path: Path) -> None:
    launcher = ContainerLauncher(container(f"--network=host -v {tmp_path}:/models"), paths=["/models/Qwen3-8B"])
    with pytest.raises(
        WeightsError, match=rf"{tmp_path}/Qwen3-8B is not there, which the server reads as /models/Qwen3-8B"
    ):
        start(launcher, serving(tmp_path, "sound"))


def test_a_model_that_the_server_does_not_find_is_named(tmp_path: Path) -> None:
    launcher = ContainerLauncher(container(), paths=["/models/Qwen3-8B"])
    with pytest.raises(WeightsError, match=r"did not find /models/Qwen3-8B in the container[\s\S]*No such file"):
        start(launcher, serving(tmp_path, "sh", "-c", "ls /models/Qwen3-8B"))


def test_a_taken_port_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    spec = serving(tmp_path, "sound")
    with socket.socket() as other:
        other.bind(("127.0.0.1", spec.port))
        other.listen()
        with pytest.raises(PortError, match=f"port {spec.port} on 127.0.0.1 is in use"):
            start(ContainerLauncher(container()), spec)
    assert not spec.log_path.exists()


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    launcher = ContainerLauncher(
        container("--device=/dev/mxcd -v /nfs-of-nobody:/nfs", image="flagrelease-no-such-image:1")
    )
    with pytest.raises(PreflightError, match=r"no-such-image:1 is not[\s\S]*no device /dev/mxcd[\s\S]*/nfs-of-nobody"):
        start(launcher, serving(tmp_path, "sound"))


def test_no_engine_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(EngineError, match="no container engine answers"):
        start(ContainerLauncher(container()), serving(tmp_path, "sound"))


# --- memory of the chip, by a stand-in for its tool


@pytest.fixture
def stand_in_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for mx-smi that prints the file that is given back."""
    tool, said = tmp_path / "mx-smi", tmp_path / "said"
    tool.write_text(f"#!/bin/sh\ncat {said}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said.write_text("| 29C   53W / 450W | 858/65536 MiB | Available |\n")
    return said


def test_a_device_in_use_keeps_the_server_from_starting(stand_in_smi: Path, tmp_path: Path) -> None:
    stand_in_smi.write_text("| 29C   53W / 450W | 58858/65536 MiB | Available |\n")
    with pytest.raises(
        PreflightError, match=r"less than 90% of the memory of Metax is free: device 0: 6\.5 of 64\.0 GiB"
    ):
        start(ContainerLauncher(container(), chip=METAX), serving(tmp_path, "sound"))


def test_memory_that_a_server_leaves_taken_is_said(
    stand_in_smi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.launch.container.FREED_TIMEOUT_S", 0)
    said: list[str] = []
    with ContainerLauncher(container(), chip=METAX).start(serving(tmp_path, "sound"), said.append):
        pass
    assert said == []
    with ContainerLauncher(container(), chip=METAX).start(serving(tmp_path, "sound"), said.append):
        stand_in_smi.write_text("| 29C   53W / 450W | 58858/65536 MiB | Available |\n")
    assert said == ["serve: the server has ended, but memory of Metax is not free again: device 0: 56.6 GiB"]


def test_an_engine_on_another_host_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(None)
    monkeypatch.setenv("DOCKER_HOST", line.url)
    with pytest.raises(EngineError, match=f"names a container engine on another host: {line.url}"):
        start(ContainerLauncher(container()), serving(tmp_path, "sound"))
    line.cut()


def test_too_little_space_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.launch.container_preflight.MIN_FREE_DISK_GIB", 10**9)
    with pytest.raises(PreflightError, match=r"GiB are free in .*, where containers write; 1000000000 are needed"):
        start(ContainerLauncher(container()), serving(tmp_path, "sound"))


# --- nothing is left behind


OWNER = """
import sys
from pathlib import Path
from tests.integration.test_container_launcher import ContainerLauncher, container, serving
with ContainerLauncher(container()).start(serving(Path(sys.argv[1]), "sound"), print):
    print("ready", flush=True)
    sys.stdin.read()
"""


def owner(tmp_path: Path) -> subprocess.Popen[bytes]:
    """Another process that serves; it ends when its standard input does."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_what_a_killed_process_leaves_is_removed_by_the_next_start(client: docker.DockerClient, tmp_path: Path) -> None:
    process = owner(tmp_path)
    said: list[str] = []
    try:
        sweep(client, said.append)
        assert len(client.api.containers(filters=OURS)) == 1, "that of a living process stays"
    finally:
        process.kill()
        process.wait()
    assert len(client.api.containers(filters=OURS)) == 1
    with ContainerLauncher(container()).start(serving(tmp_path, "sound"), said.append) as server:
        assert [each["Names"] for each in client.api.containers(all=True, filters=OURS)] == [[f"/{server.name}"]]
    assert said == [f"serve: removed the container that a killed release of {CELL} left behind"]


def test_only_what_is_surely_left_is_removed(client: docker.DockerClient) -> None:
    def made(**labels: str) -> str:
        spec = container(image=IMAGE).model_copy(
            update={"labels": {f"{LABEL}{name}": value for name, value in {**ours, **labels}.items()}}
        )
        identifier: str = client.api.create_container(**sdk_arguments(spec))["Id"]
        return identifier

    ours = {"cell": CELL, **{name: str(value) for name, value in this_process()._asdict().items()}}
    stay = {made(), made(host="another-host", boot="x"), made(namespace="pid:[1]", started="1"), made(pid="many")}
    go = {made(started="1"), made(boot="before"), made(pid="4194303")}
    sweep(client, print)
    left = {each["Id"] for each in client.api.containers(all=True, filters=OURS)}
    for each in left:
        client.api.remove_container(each)
    assert left == stay
    assert not left & go
