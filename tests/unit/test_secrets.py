"""Programs that we start get no secret of ours: their code is of others, and what they write is published."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.catalogue import Hub, Prepared, load_benchmarks
from evaluation.harness import evalscope_process
from evaluation.harness.interface import Endpoint
from evaluation.load_generator import load_generator
from flagrelease.errors import HarnessError
from flagrelease.secrets import child_environment, is_secret, own_values
from runtime.launch.process import start_guarded, stop_guarded
from tests.conftest import ROOT

SECRETS = {
    "HF_TOKEN": "hf_aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3",
    "HUGGING_FACE_HUB_TOKEN": "hf_aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3",
    "MODELSCOPE_API_TOKEN": "ms-01234567-89ab-cdef-0123-456789abcdef",
    "FLAGRELEASE_HUGGINGFACE_TOKEN": "hf_other",
    "FLAGRELEASE_MODELSCOPE_TOKEN": "ms-other",
    "FLAGRELEASE_SIGNING_KEY": "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
    "FLAGRELEASE_REGISTRY_PASSWORD": "123456",
    "FLAGRELEASE_STORE": "postgresql+psycopg://release:correct-horse@db.example.org/flagrelease",
    "AWS_ACCESS_KEY_ID": "AKIA",
    "AWS_SECRET_ACCESS_KEY": "abc",
    "PGPASSWORD": "abc",
    "PREFECT_API_AUTH_STRING": "admin:abc",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://prefect:abc@db/prefect",
    "PIP_INDEX_URL": "https://__token__:abc@index.example.org/simple",
    "HTTPS_PROXY": "http://me:abc@proxy.example.org:3128",
    "GIT_REMOTE": "https://0123456789abcdef0123456789abcdef@git.example.org/x",
}
OTHERS = {
    "PATH": os.environ["PATH"],
    "CUDA_VISIBLE_DEVICES": "0,1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE": "163840",
    "VLLM_USE_FASTOKENS": "1",
    "TIKTOKEN_ENCODINGS_BASE": "/data/tiktoken",
    "HF_TOKEN_PATH": "/data/token",
    "http_proxy": "http://proxy.example.org:3128",
    "FLAGRELEASE_EVIDENCE": "s3://bucket/evidence",
    "DATABASE": "postgresql://release@db.example.org/flagrelease",
}
SHOW = "import json, os; print(json.dumps(dict(os.environ)), flush=True)"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SECRETS | OTHERS).items():
        monkeypatch.setenv(name, value)


def assert_no_secrets(seen: dict[str, str], but: tuple[str, ...] = ()) -> None:
    assert {name for name in SECRETS if name in seen} == set(but)
    assert {name: seen[name] for name in OTHERS if name in seen} == {**OTHERS, "http_proxy": seen["http_proxy"]}


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_known_by_name_or_form(name: str) -> None:
    assert is_secret(name, SECRETS[name])


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_one(name: str) -> None:
    assert not is_secret(name, OTHERS[name])


@pytest.mark.usefixtures("environment")
def test_a_child_sees_no_secret() -> None:
    command = [sys.executable, "-c", SHOW]
    seen = json.loads(subprocess.check_output(command, env=child_environment({"ADDED": "1"}), text=True))
    assert seen["ADDED"] == "1"
    assert_no_secrets(seen)
    seen = json.loads(subprocess.check_output(command, env=child_environment(keep=("PIP_", "HF_TOKEN")), text=True))
    assert_no_secrets(seen, but=("PIP_INDEX_URL", "HF_TOKEN"))


@pytest.mark.usefixtures("environment")
def test_a_model_server_sees_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    server = start_guarded([sys.executable, "-c", SHOW], {"HF_HUB_OFFLINE": "1"}, log)
    server.wait(30)
    stop_guarded(server)
    seen = json.loads(log.read_text())
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert_no_secrets(seen)


def command_of_fake(folder: Path) -> Path:
    """A command whose Python is none: it writes its environment into `folder`/seen.json."""
    python, seen = folder / "python", str(folder / "seen.json")
    python.write_text(f"#!{sys.executable}\nimport json, os\njson.dump(dict(os.environ), open({seen!r}, 'w'))\n")
    python.chmod(0o755)
    return folder / "command"


@pytest.mark.usefixtures("environment")
def test_the_load_generator_sees_no_secret(tmp_path: Path) -> None:
    endpoint = Endpoint("http://127.0.0.1:1", "m", 1, lambda: None)
    with pytest.raises(HarnessError), load_generator(command_of_fake(tmp_path), endpoint, tmp_path, tmp_path / "log"):
        pass
    assert_no_secrets(json.loads((tmp_path / "seen.json").read_text()))


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("hub", "kept"),
    [
        (None, ()),
        ("huggingface", ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTPS_PROXY")),
        ("modelscope", ("MODELSCOPE_API_TOKEN", "HTTPS_PROXY")),
    ],
)
def test_evalscope_sees_the_token_of_the_hub_that_it_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: str | None, kept: tuple[str, ...]
) -> None:
    python = command_of_fake(tmp_path).with_name("python")
    monkeypatch.setattr(evalscope_process, "_python", lambda: python)
    benchmark = next(each for each in load_benchmarks().values() if each.harness == "evalscope")
    dataset = Hub.model_validate({"kind": "hub", "hub": hub, "repository": "o/n"}) if hub else None
    prepared = Prepared(benchmark.model_copy(update={"dataset": dataset}), tmp_path, "", "")
    with pytest.raises(HarnessError):
        evalscope_process.Process(prepared)
    assert_no_secrets(json.loads((tmp_path / "seen.json").read_text()), but=kept)


def test_a_key_named_by_its_file_may_stand_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGRELEASE_SIGNING_KEY", "/etc/flagrelease/signing.pem")
    assert "FLAGRELEASE_SIGNING_KEY" not in own_values()
    assert "FLAGRELEASE_SIGNING_KEY" not in child_environment()
    monkeypatch.setenv("FLAGRELEASE_SIGNING_KEY", SECRETS["FLAGRELEASE_SIGNING_KEY"])
    assert "FLAGRELEASE_SIGNING_KEY" in own_values()


def test_every_child_is_started_with_an_environment_of_its_own() -> None:
    """What is started anew somewhere must say which environment it gets; by default a child gets all of ours."""
    started = []
    for package in ("flagrelease", "runtime", "evaluation", "flows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            # The guard's own environment is the one that its starter gave it.
            if path.name == "guard.py":
                continue
            started += [
                (path.relative_to(ROOT), node.lineno, {keyword.arg for keyword in node.keywords})
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "subprocess"
            ]
    assert started
    assert [where for *where, keywords in started if "env" not in keywords] == []
