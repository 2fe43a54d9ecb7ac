"""An engine of the test's own, on a small disk: what is said when it is stopped, and when the disk is full."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import docker
import pytest

from flagrelease.errors import EngineError
from runtime.docker_engine import LONG_S, connect
from runtime.image.build import build_image
from tests.integration.images import base_with_python, cell_of, host_of, stand_in_wheels
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("private_engine")
DEADLINE_S = 60
DISK = "48m"


class PrivateEngine:
    """A second dockerd, in namespaces of its own: it changes nothing of the host's, and all it starts ends with it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder}/docker.sock"
        self._log = folder / "log"
        (folder / "data").mkdir()
        script = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec dockerd "$@"'
        command = ["unshare", "--net", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child"]
        command += ["sh", "-c", script, "sh", DISK, f"{folder}/data"]
        command += [f"--host={self.url}", f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
        command += [f"--pidfile={folder}/pid", "--bridge=none", "--iptables=false"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def connected(self) -> docker.DockerClient:
        """A client, as soon as the engine answers."""

        def client() -> docker.DockerClient | None:
            with suppress(EngineError):
                return connect(LONG_S)
            assert self.process.poll() is None, self._log.read_text()
            return None

        def late() -> str:
            return f"an answer of the engine, which said:\n{self._log.read_text()}"

        found: docker.DockerClient = wait_for(late, client, DEADLINE_S)
        return found


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateEngine]:
    # A socket's path may have 107 letters, and pytest's folders have long names.
    folder = Path("/tmp") / f"engine-{os.getpid()}"
    folder.mkdir()
    engine = PrivateEngine(folder)
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    try:
        yield engine
    finally:
        engine.process.kill()
        engine.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def ignore(_: str) -> None:
    """A log that nobody reads."""


def test_a_full_disk_and_an_engine_that_is_killed_in_a_build(
    engine: PrivateEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheels = stand_in_wheels(tmp_path / "wheels", "xllamacpp==1.0")
    cell = cell_of("smollm2-cpu", packages=["xllamacpp==1.0"])
    with closing(engine.connected()) as client:
        full = base_with_python(client, "base:full", on_import="dd if=/dev/zero of=/fill bs=1M count=100")
        with pytest.raises(EngineError, match="disk is full, found while building an image") as error:
            build_image(client, cell, host_of(tmp_path, full, wheels=wheels), ignore)
        assert "docker system df" in error.value.remedy

        slow = base_with_python(client, "base:slow", on_import="echo importing; sleep 600")
        importing = threading.Event()

        def kill_when_importing() -> None:
            importing.wait(DEADLINE_S)
            engine.process.kill()

        killer = threading.Thread(target=kill_when_importing)
        killer.start()
        with pytest.raises(EngineError, match=r"the container engine went away while building an image"):
            build_image(
                client,
                cell,
                host_of(tmp_path, slow, wheels=wheels),
                lambda line: importing.set() if line.endswith(": importing") else None,
            )
        killer.join()
        with pytest.raises(EngineError, match="no container engine answers"):
            connect()
