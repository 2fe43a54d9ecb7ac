"""FlagScale's own launcher in an image that was built for it, with vLLM and the real model.

vLLM itself is mounted from this host, as 2 GB in an image prove nothing more. FlagGems needs an accelerator: a stand-in
writes its list of operators.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import docker
import openai
import pytest
import yaml

from flagrelease.settings import Settings, settings
from flows.job import Job, make_job
from flows.serving import start_server
from runtime import operators
from runtime.launch.interface import Server
from tests.conftest import ROOT
from tests.integration.images import python_base, remove

pytestmark = pytest.mark.needs("vllm", "llama_cpp", "docker")
SITE = ROOT / ".venv-vllm" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
# What FlagScale's launcher needs besides what vLLM brings.
PACKAGES = {
    "antlr4-python3-runtime": "4.9.3",
    "hydra-core": "1.3.8",
    "omegaconf": "2.3.1",
    "pandas": "3.1.1",
    "python-dateutil": "4.0.0",
}
# Stands on PATH where an accelerator's image has vLLM's own command.
VLLM = """#!/bin/bash
if [ "$USE_FLAGGEMS" = 1 ]; then
  # A stand-in for FlagGems, in the words of its log.
  echo "[DEBUG] flag_gems.ops.mm.mm: GEMS MM" > "$FLAGGEMS_ENABLE_OPLIST_PATH"
fi
exec python3 -c 'import sys; from vllm.entrypoints.cli.main import main; sys.argv[0] = "vllm"; main()' "$@"
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings for a matrix whose small cell is served by FlagScale; the image is removed afterwards."""
    folder = tmp_path_factory.mktemp("flagscale")
    (folder / "wheels").mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "--no-deps"]
    name = "antlr4-python3-runtime"
    # Published as source only.
    subprocess.run([*pip, f"--wheel-dir={folder / 'wheels'}", f"{name}=={PACKAGES[name]}"], check=True)
    command = folder / "vllm"
    command.write_text(VLLM)
    command.chmod(0o755)
    matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    (cell,) = (cell for cell in matrix["cells"] if cell["model"] == "smollm2")
    cell |= {
        "stack": "flagos",
        "launcher": "container",
        "engine": "flagscale",
        "engines": {"flagscale": cell["engines"]["vllm"] | {"concurrency": 2, "ready_timeout_s": 500}},
        "versions": {"flagscale": "0.8.0", "packages": [f"{name}=={version}" for name, version in PACKAGES.items()]},
        "container": {
            "image": "flagrelease_cpu_flagscale",
            "name": "flagos",
            "options": [
                *("--init", "--network=host", "--shm-size=4g"),
                *("-v", f"{SITE}:/opt/vllm:ro", "-v", f"{command}:/usr/local/bin/vllm:ro"),
                *("-v", f"{folder}/models:/models/smollm2:ro"),
                *("-e", "PYTHONPATH=/opt/flagrelease/packages:/opt/vllm"),
            ],
            "command": ["sleep", "infinity"],
        },
    }
    (folder / "matrix.yaml").write_text(yaml.safe_dump(matrix, allow_unicode=True, sort_keys=False))
    found = Settings(
        home=folder / "home",
        matrix=folder / "matrix.yaml",
        wheels=folder / "wheels",
        base_images={"cpu": python_base()},
    )
    yield found
    with closing(docker.from_env()) as client:
        for image in client.images.list("flagrelease_cpu_flagscale"):
            remove(client, image.tags[0])


@pytest.fixture(scope="module")
def job(host: Settings) -> Job:
    return make_job("smollm2-cpu", None, host)


@pytest.fixture(scope="module")
def server(job: Job, host: Settings) -> Iterator[Server]:
    settings.cache_clear()
    with start_server(job, host, print) as server:
        yield server


def test_flagscale_serves_the_model(job: Job, server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.base_url}/v1/", api_key="EMPTY") as client:
        answer = client.chat.completions.create(
            model=job.cell.served_name, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
        )
    assert answer.choices[0].message.content
    assert "Application startup complete" in server.log_path.read_text()


def test_its_operator_list_is_read_where_it_ran(server: Server) -> None:
    files = {path: content for path in operators.PATHS if (content := server.read(path)) is not None}
    assert list(files) == [operators.WRITTEN]
    assert operators.read(files).operators == ["mm"]
    # What the image brought was not written by this server.
    assert server.read("/etc/passwd") is None
    assert server.read("/opt/flagrelease/healthcheck.py") is None
