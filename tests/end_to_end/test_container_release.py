"""A cell in its own image: built, pushed, released from it; then served as a reader of the card would."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import docker
import pytest
import yaml

from runtime.launch.container import LABEL
from runtime.launch.ports import free_port
from tests.conftest import REGISTRY
from tests.end_to_end.commands import MATRIX, environment, flagrelease, run, said
from tests.integration.images import python_base

pytestmark = [pytest.mark.needs("llama_cpp", "docker", "registry"), pytest.mark.timeout(1800)]
CELL = "smollm2-cpu"


def container_matrix(folder: Path) -> Path:
    """The shipped matrix with its small cell in a container, short: one benchmark."""
    matrix = yaml.safe_load(MATRIX.read_text())
    (cell,) = (cell for cell in matrix["cells"] if cell["model"] == "smollm2")
    cell |= {"launcher": "container", "port": free_port()}
    matrix["models"]["smollm2"]["source"]["local_dir"] = str(folder / "models")
    matrix["suites"]["smoke"] = ["number_sequence"]
    matrix["policy"]["suites"]["smoke"]["without"] = ["speed", "canary"]
    del matrix["policy"]["suites"]["smoke"]["canary"]
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True, sort_keys=False))
    return path


class Released:
    """The cell, released once."""

    def __init__(self, folder: Path) -> None:
        python_base()
        self.folder, self.project = folder, f"{REGISTRY}/flagrelease-tests-{uuid.uuid4().hex[:8]}"
        self.env: Mapping[str, str] = environment(
            folder, FLAGRELEASE_MATRIX=str(container_matrix(folder)), FLAGRELEASE_REGISTRY=self.project
        )
        self.done = flagrelease("release", CELL, env=self.env)
        self.card = (folder / "output" / CELL / "README.md").read_text(encoding="utf-8")

    @property
    def reference(self) -> str:
        """The image by digest, as the card has it pulled."""
        (found,) = set(re.findall(rf"docker pull ({re.escape(self.project)}/\S+@sha256:[0-9a-f]{{64}})", self.card))
        return str(found)

    def evidence(self) -> dict[str, Path]:
        """Files of evidence by name."""
        places = json.loads(flagrelease("show", CELL, "--json", env=self.env).stdout)["places"]
        return {name.removeprefix("evidence: "): Path(place) for name, place in places.items()}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return Released(tmp_path_factory.mktemp("container"))


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    with closing(docker.from_env()) as client:
        yield client


def blocks(card: str, language: str) -> list[str]:
    """What a reader copies: the card's blocks of code."""
    return re.findall(rf"^```{language}\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


def test_a_cell_is_released_from_the_image_that_was_built_for_it(
    released: Released, client: docker.DockerClient
) -> None:
    out = said(released.done)
    assert f"is loading SmolLM2-135M-Instruct in {released.reference}" in out
    verdict = json.loads(flagrelease("gate", CELL, "--json", env=released.env).stdout)
    (row,) = verdict["benchmarks"]
    # The same engine, served from an image, answers as it did in the process that the baseline was compared with.
    assert (row["n"], row["missing"]) == (250, 0)
    assert abs(row["difference"]) < 0.02
    # The baseline has four benchmarks more, so nothing is decided here, and nothing published.
    assert [check["name"] for check in verdict["hygiene"] if not check["passed"]] == ["benchmarks"]
    assert released.done.returncode == 3
    left = client.containers.list(all=True, filters={"label": f"{LABEL}cell={CELL}"})
    assert left == []


def test_its_evidence_tells_the_image(released: Released, client: docker.DockerClient) -> None:
    files = released.evidence()
    components = json.loads(files["sbom.cdx.json"].read_text())["components"]
    packages = {component["name"]: component["version"] for component in components}
    assert packages["xllamacpp"] == "2026.10.11549"
    assert "FROM ${BASE}" in files["Dockerfile"].read_text()
    about = json.loads(files["evaluation.json"].read_text())["provenance"]
    assert about["image_digest"] == released.reference.partition("@")[2]
    assert about["engine_version"] == "2026.10.11549"
    assert "listening on" in files["server.log"].read_text()
    assert client.images.get(released.reference).labels["io.flagos.flagrelease.chip"] == "cpu"


def test_a_second_run_does_nothing(released: Released) -> None:
    assert "no stage was run" in flagrelease("release", CELL, env=released.env).stdout


def test_the_commands_of_the_card_serve_the_model_as_printed(released: Released, client: docker.DockerClient) -> None:
    weights, pull, start, serve = blocks(released.card, "bash")[1:]
    client.images.remove(released.reference, force=True)
    for image in client.images.list(filters={"label": "io.flagos.flagrelease.chip=cpu"}):
        for tag in image.tags:
            if tag.startswith(released.project):
                client.images.remove(tag)
    # The packages are installed here already; that they can be is what a newcomer's test shows.
    typed = [line for line in weights.splitlines() if not line.startswith("pip install")]
    name = "flagos"
    try:
        for command in ("\n".join(typed), pull, start):
            assert _shell(command, released.env).returncode == 0
        client.containers.get(name).exec_run(["sh", "-c", serve], detach=True)
        (snippet,) = blocks(released.card, "python")
        answer = _ask(snippet.replace("<server_ip>", "127.0.0.1"), client, name)
        assert answer.strip()
    finally:
        for container in client.containers.list(all=True, filters={"name": f"^{name}$"}):
            container.remove(force=True)


def _shell(command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return run("bash", "-c", f"set -e\n{command}", env=env)


def _ask(snippet: str, client: docker.DockerClient, name: str) -> str:
    """What the card's snippet prints, once the server in the container is ready."""
    for _ in range(120):
        done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=False, timeout=120)
        if done.returncode == 0:
            return done.stdout
        # While it loads, the server refuses connections or answers 503.
        assert "APIConnectionError" in done.stderr or "503" in done.stderr, done.stderr
        assert client.containers.get(name).status == "running"
    pytest.fail(f"the server did not get ready: {done.stderr}")
