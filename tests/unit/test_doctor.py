"""`flagrelease doctor`: what a host has, what it lacks and how to get it; and which chip it has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import typer
from typer.testing import CliRunner

from flagrelease.chip import Chip
from flagrelease.cli.doctor import doctor
from flagrelease.errors import UnknownNameError
from flagrelease.loading import load_chips
from flagrelease.settings import Settings
from runtime.detection import chip_named, detect
from runtime.doctor import examine
from runtime.finding import Finding, can, disk, has, lacks
from tests.unit.test_smi import answer

CHIPS = load_chips()
TOKENS = ("HF_TOKEN", "MODELSCOPE_API_TOKEN")

StandIn = Callable[[str], None]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without an engine, a Prefect server, tokens, and tools of chips."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in (*TOKENS, "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def stand_in(bare: Path) -> StandIn:
    """Makes a stand-in for a chip's management tool, which prints an answer that its documents show."""

    def make(chip: str) -> None:
        tool = CHIPS[chip].smi
        assert tool
        (bare / f"{tool}.txt").write_text(answer(chip))
        (bare / tool).write_text(f'#!/bin/sh\ncat "{bare}/{tool}.txt"\n')
        (bare / tool).chmod(0o755)

    return make


@pytest.fixture
def there(tmp_path: Path) -> dict[str, Chip]:
    """The chips, as on a host that has all their device files."""
    device = tmp_path / "device"
    device.touch()
    return {
        key: chip.model_copy(update={"devices": [str(device)] if chip.devices else []}) for key, chip in CHIPS.items()
    }


def found(chip: Chip, host: Settings) -> dict[str, Finding]:
    return {each.name: each for each in examine(chip, host)}


# --- which chip a host has


@pytest.mark.parametrize("chip", [key for key, chip in CHIPS.items() if chip.smi])
def test_each_chip_is_known_by_its_tool(chip: str, stand_in: StandIn, there: dict[str, Chip]) -> None:
    stand_in(chip)
    assert [each.key for each in detect(there)] == [chip]


def test_a_chip_in_disguise_is_not_taken_for_another(stand_in: StandIn, there: dict[str, Chip]) -> None:
    stand_in("nvidia")
    stand_in("zhenwu")
    assert [each.key for each in detect(there)] == ["zhenwu"]


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("machine", "chip"), [("x86_64", "cpu"), ("aarch64", "arm")])
def test_without_an_accelerator_it_is_the_processor(machine: str, chip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert [each.key for each in detect(CHIPS)] == [chip]


def test_a_tool_that_names_no_device_is_no_chip(stand_in: StandIn, bare: Path) -> None:
    stand_in("cambricon")
    assert [each.key for each in detect(CHIPS)] == ["cambricon"]
    (bare / "cnmon.txt").write_text("no device\n")
    assert "cambricon" not in [each.key for each in detect(CHIPS)]


def test_a_chip_has_many_names() -> None:
    assert chip_named(CHIPS, "Huawei").key == "ascend"
    assert chip_named(CHIPS, "ppu").key == "zhenwu"
    with pytest.raises(UnknownNameError, match="no chip `tpu`"):
        chip_named(CHIPS, "tpu")


# --- what is found


def test_what_a_bare_host_lacks(bare: Path) -> None:
    host = Settings(home=bare / "home")
    findings = found(CHIPS["metax"], host)
    assert "/dev/mxcd" in findings["devices of Metax"].found
    assert "mx-smi, the management tool of Metax, is not on PATH" in findings["driver of Metax"].found
    assert "no container engine answers" in findings["container engine"].found
    assert findings["registry"].remedy == "set FLAGRELEASE_REGISTRY to host/project"
    assert not findings["token of Hugging Face"].ok
    assert all(each.remedy for each in findings.values() if not each.ok)
    tasks = can(findings.values())
    assert not tasks["serve in containers"]
    assert not tasks["build images"]
    assert tasks["evaluate"]
    assert not (bare / "home").exists(), "looking changes nothing"


def test_what_the_tool_says_is_shown(stand_in: StandIn, there: dict[str, Chip], bare: Path) -> None:
    stand_in("metax")
    findings = found(there["metax"], Settings(home=bare))
    assert findings["driver of Metax"].found == "version 3.3.12, 2 devices, 68 of 128 GiB free"
    assert findings["devices of Metax"].ok


def test_no_secret_is_shown(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TOKENS:
        monkeypatch.setenv(name, "very-secret")
    monkeypatch.setenv("PREFECT_API_URL", "http://me:very-secret@127.0.0.1:9/api")
    host = Settings(
        home=bare,
        store="postgresql+psycopg://me:very-secret@127.0.0.1:1/x",
        registry="127.0.0.1:9/x",
        registry_user="me",
        registry_password="very-secret",  # noqa: S106
    )
    findings = found(CHIPS["cpu"], host)
    assert "very-secret" not in str(findings)
    assert findings["token of Hugging Face"].found == "in HF_TOKEN"
    assert not findings["database"].ok
    assert not findings["registry"].ok
    assert not findings["Prefect API"].ok


def test_a_token_in_the_clients_own_file_counts(bare: Path) -> None:
    file = bare / ".cache/huggingface/token"
    file.parent.mkdir(parents=True)
    file.write_text("very-secret")
    assert found(CHIPS["cpu"], Settings(home=bare))["token of Hugging Face"].found == "in ~/.cache/huggingface/token"


@pytest.fixture
def stand_in_registry() -> Iterator[tuple[str, list[int]]]:
    """A stand-in for a registry that answers with the status in the list."""
    status = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", status
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("answered", "ok", "said"),
    [(200, True, "open"), (401, True, "asks for a login"), (404, False, "HTTP 404: no registry")],
)
def test_a_registry_is_asked(
    stand_in_registry: tuple[str, list[int]], bare: Path, answered: int, ok: bool, said: str
) -> None:
    address, status = stand_in_registry
    status[0] = answered
    registry = found(CHIPS["cpu"], Settings(home=bare, registry=f"{address}/team"))["registry"]
    assert registry.ok is ok
    assert said in registry.found


def test_the_prefect_server_is_asked(
    stand_in_registry: tuple[str, list[int]], bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://{stand_in_registry[0]}/api")
    assert found(CHIPS["cpu"], Settings(home=bare))["Prefect API"].ok


def test_a_database_that_is_there_is_opened_and_not_changed(bare: Path) -> None:
    path = bare / "store.db"
    path.write_bytes(b"")
    assert found(CHIPS["cpu"], Settings(home=bare))["database"].ok
    assert path.read_bytes() == b""


def test_too_little_space_is_said(tmp_path: Path) -> None:
    assert disk("d", tmp_path / "not/there/yet", 0.001, "evaluate").ok
    full = disk("d", tmp_path, 10**9, "evaluate")
    assert not full.ok
    assert "1000000000 are needed" in full.found


def test_a_task_can_be_done_if_nothing_that_it_needs_is_missing() -> None:
    findings = [has("a", "", "evaluate"), lacks("b", "", "get it", "push images"), lacks("c", "", "of use")]
    assert {task for task, possible in can(findings).items() if not possible} == {"push images"}


# --- the command


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(doctor)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("evaluation.availability.reachable", lambda _: False)


@pytest.mark.usefixtures("bare", "home")
def test_the_command_says_what_is_missing_and_how_to_get_it() -> None:
    code, said = run()
    assert code == 0
    assert "lacks  container engine: no container engine answers" in said
    assert "         -> start it" in said
    assert "serve in containers:  no, for want of: container engine" in said


@pytest.mark.usefixtures("bare", "home")
def test_a_chip_that_cannot_be_served_ends_with_13() -> None:
    code, said = run("--chip", "muxi")
    assert code == 13
    assert "chip: Metax (this host has CPU)" in said or "chip: Metax (this host has Arm)" in said


@pytest.mark.usefixtures("bare", "home")
def test_programs_get_a_document() -> None:
    code, said = run("--json")
    document = json.loads(said)
    assert code == 0
    assert document["chip"] in {"cpu", "arm"}
    assert document["can"]["build images"] is False
    assert {"name", "ok", "found", "remedy", "needed_for"} == set(document["findings"][0])
