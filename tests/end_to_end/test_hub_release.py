"""The small cell is released to both hubs, and whoever downloads it there can check it; no secret is left anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flagrelease.provenance.keys import SigningKey
from flagrelease.publish.interface import MANIFEST
from tests.end_to_end.commands import BIN, ROOT, environment, flagrelease, run, said
from tests.end_to_end.short import short_matrix
from tests.hub.hosts import TOKENS, hub_of
from tests.hub.mortal_publisher import Killer
from tests.hub.stand_in_hub import StandInHub

CELL = "smollm2-cpu"
TARGET = "FlagRelease/SmolLM2-135M-Instruct-cpu-native"
KINDS = ["huggingface", "modelscope"]
REFUSED = 24
TOKEN_VARIABLES = {"FLAGRELEASE_HUGGINGFACE_TOKEN": "huggingface", "FLAGRELEASE_MODELSCOPE_TOKEN": "modelscope"}
# What every library has to say.
LOUD = {"PREFECT_LOGGING_ROOT_LEVEL": "DEBUG"}
pytestmark = [pytest.mark.needs("llama_cpp"), pytest.mark.timeout(1800)]


@dataclass
class Watched:
    """A command that ran, and which of its descendants had a secret in their command line or environment."""

    code: int
    output: str
    seen: set[str] = field(default_factory=set)
    """Programs that were looked at."""
    leaks: set[str] = field(default_factory=set)


@dataclass
class Released:
    """What the fixture did, step by step."""

    home: Path
    env: dict[str, str]
    hubs: dict[str, StandInHub]
    secrets: dict[str, str]
    """By what they are."""
    key: Path
    """The public key, as the publisher hands it out."""
    refused: Watched
    """The release while one of the repositories was missing."""
    names_then: dict[str, list[str]]
    """Repositories of each hub after that."""
    killed: int
    """How the command ended that creates it; it was killed when its commit was done."""
    created: subprocess.CompletedProcess[str]
    """The same command again."""
    done: Watched

    def planned(self) -> dict[str, str]:
        """Hash by path of all that is to be downloaded, from the folder that the same release was published to."""
        folder = self.home / "output" / "hub" / TARGET
        stated = json.loads((folder / MANIFEST).read_text())["files"]
        return {file["path"]: file["sha256"] for file in stated} | {MANIFEST: sha256(folder / MANIFEST)}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def watched(*argv: str, env: Mapping[str, str], secrets: Mapping[str, str]) -> Watched:
    """Run `flagrelease`; its descendants are looked at all the while."""
    process = subprocess.Popen(
        [BIN / "flagrelease", *argv], env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    found, ended = Watched(0, ""), threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    _look_at(child, secrets, found)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        found.output = process.communicate(timeout=800)[0]
    finally:
        ended.set()
        watcher.join()
        process.kill()
    found.code = process.returncode
    print(f"$ flagrelease {' '.join(argv)}  -> {found.code}\n{found.output}")
    return found


def _look_at(child: psutil.Process, secrets: Mapping[str, str], found: Watched) -> None:
    try:
        line, variables = " ".join(child.cmdline()), child.environ()
    except psutil.Error:
        return
    if not line:
        return
    found.seen.add(line)
    for secret, value in secrets.items():
        places = [name for name, held in variables.items() if value in held]
        found.leaks |= {f"{secret} in {name} of {line}" for name in places}
        if value in line:
            found.leaks.add(f"{secret} in the command line {line.replace(value, '…')}")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Released]:
    """The cell, released to both hubs; one repository is there, the other is created as the refusal says."""
    home, signer = tmp_path_factory.mktemp("publisher"), tmp_path_factory.mktemp("signer")
    matrix = short_matrix(home, ["number_sequence"])
    private, public = _made_key(signer)
    secrets = {f"the token for {kind}": TOKENS[kind] for kind in KINDS}
    secrets["the signing key"] = private.split("\n")[1]
    with ExitStack() as running:
        hubs = {kind: hub_of(kind, home / f"hub-{kind}") for kind in KINDS}
        for hub in hubs.values():
            running.enter_context(hub.running())
        hubs["modelscope"].store.create(TARGET, "public", {".gitattributes": b""})
        env = _environment(home, matrix, hubs, private)
        refused = watched("release", CELL, env=env, secrets=secrets)
        names = {kind: hub.store.names() for kind, hub in hubs.items()}
        create = ("publish", "release", "1", "--create", "private")
        killed = _killed(*create, env=env, killer=Killer(hubs["huggingface"], 1, after=True, only="/commit/"))
        created = flagrelease(*create, env=env)
        done = watched("release", CELL, env=env | LOUD, secrets=secrets)
        yield Released(home, env, hubs, secrets, public, refused, names, killed, created, done)
    for hub in hubs.values():
        assert hub.unknown == []
        assert hub.foreign_tokens == []


def _killed(*argv: str, env: Mapping[str, str], killer: Killer) -> int:
    """How a command ended that a hub killed."""
    with killer.waiting():
        process = subprocess.Popen([BIN / "flagrelease", *argv], env=env, cwd=ROOT)
        killer.processes.put(process.pid)
        return process.wait(120)


def _made_key(home: Path) -> tuple[str, Path]:
    """A new key of a publisher: the private one as text, the public one as a file."""
    env = environment(home)
    assert flagrelease("keys", "create", env=env).returncode == 0
    private = next((home / "state" / "keys").glob("*.pem")).read_text()
    public = home / "flagrelease.pub"
    public.write_text(subprocess.check_output([BIN / "flagrelease", "keys", "show"], env=env, text=True))
    return private, public


def _environment(home: Path, matrix: Path, hubs: Mapping[str, StandInHub], private: str) -> dict[str, str]:
    """A publisher's, with all that can be made to say more."""
    return environment(
        home,
        FLAGRELEASE_MATRIX=str(matrix),
        FLAGRELEASE_HUBS=json.dumps(KINDS),
        FLAGRELEASE_HUB_ENDPOINTS=json.dumps([hub.endpoint for hub in hubs.values()]),
        FLAGRELEASE_HUGGINGFACE_ENDPOINT=hubs["huggingface"].endpoint,
        FLAGRELEASE_HUGGINGFACE_TOKEN=TOKENS["huggingface"],
        FLAGRELEASE_MODELSCOPE_ENDPOINT=hubs["modelscope"].endpoint,
        FLAGRELEASE_MODELSCOPE_TOKEN=TOKENS["modelscope"],
        FLAGRELEASE_SIGNING_KEY=private,
        PREFECT_LOGGING_LEVEL="DEBUG",
        HF_DEBUG="1",
        HF_HUB_VERBOSITY="debug",
        # The stand-in keeps large files by the classic protocol.
        HF_HUB_DISABLE_XET="1",
        HF_HOME=str(home / "hf"),
        MODELSCOPE_HOME=str(home / "ms"),
        MODELSCOPE_CACHE=str(home / "ms-cache"),
        PYTHONPATH=str(ROOT),
    )


def test_where_there_is_no_repository_nothing_is_created_and_the_next_step_is_named(released: Released) -> None:
    assert released.refused.code == REFUSED
    assert f"there is no repository {TARGET}" in released.refused.output
    assert "flagrelease publish release 1 --create public|private" in released.refused.output
    assert released.names_then == {"huggingface": [], "modelscope": [TARGET]}


def test_it_is_created_as_asked_and_published_once(released: Released) -> None:
    assert released.killed == -signal.SIGKILL
    assert released.created.returncode == 0
    for kind, hub in released.hubs.items():
        assert f"{TARGET} ({kind}) holds release 1" in released.created.stdout
        assert sum(title.startswith("FlagRelease") for title in hub.store.titles(TARGET)) == 1
        assert list(hub.store.tags(TARGET)) == ["v1"]
    assert released.hubs["huggingface"].store.visibility == {TARGET: "private"}
    assert released.done.code == 0
    assert "CONSISTENT" in released.done.output


def test_a_second_time_nothing_is_done(released: Released) -> None:
    before = {kind: len(hub.requests) for kind, hub in released.hubs.items()}
    again = flagrelease("release", CELL, env=released.env)
    assert again.returncode == 0
    assert "release 1 of smollm2-cpu is complete" in again.stdout
    assert "no stage was run" in again.stdout
    for kind, hub in released.hubs.items():
        assert {line.split()[0] for line in hub.requests[before[kind] :]} == {"GET"}


def test_a_mistyped_organisation_gets_no_request(released: Released) -> None:
    before = {kind: (len(hub.requests), hub.store.names()) for kind, hub in released.hubs.items()}
    typo = released.env | {"FLAGRELEASE_HUB_NAMESPACES": '["FlagReIease"]'}
    refused = flagrelease("publish", "release", "1", "--create", "public", env=typo)
    assert refused.returncode == REFUSED
    assert f"{TARGET} is outside the namespaces to publish in; allowed: FlagReIease" in refused.stderr
    assert {kind: (len(hub.requests), hub.store.names()) for kind, hub in released.hubs.items()} == before


# As somebody who knows nothing but the hub, the commands of docs/verify.md and the public key


def somebody(home: Path, released: Released) -> dict[str, str]:
    """The environment of somebody who has an account there and nothing of the publisher's."""
    hubs = released.hubs
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FLAGRELEASE_", "PREFECT_"))}
    return own | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLAGRELEASE_HOME": str(home / "empty"),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_ENDPOINT": hubs["huggingface"].endpoint,
        "HF_TOKEN": TOKENS["huggingface"],
        "MODELSCOPE_HOME": str(home / "ms"),
        "MODELSCOPE_CACHE": str(home / "ms-cache"),
        "MODELSCOPE_ENDPOINT": hubs["modelscope"].endpoint,
        "MODELSCOPE_API_TOKEN": TOKENS["modelscope"],
    }


DOWNLOAD = {
    "huggingface": ["hf", "download", TARGET, "--local-dir"],
    "modelscope": ["modelscope", "download", "--model", TARGET, "--local_dir"],
}


@pytest.fixture(scope="module")
def downloaded(released: Released, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each hub's own command downloads."""
    found = {}
    for kind, (command, *options) in DOWNLOAD.items():
        home = tmp_path_factory.mktemp(kind)
        found[kind] = home / "release"
        done = run(BIN / command, *options, found[kind], env=somebody(home, released), cwd=home)
        assert done.returncode == 0
    return found


def verified(folder: Path, released: Released, *, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    home = folder.parent
    env = somebody(home, released)
    done = run(BIN / "flagrelease", "verify", folder, "--key", key or released.key, env=env, cwd=home)
    assert not (home / "empty").exists(), "something was written where the home would be"
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_downloaded_is_what_was_planned(kind: str, released: Released, downloaded: dict[str, Path]) -> None:
    folder = downloaded[kind]
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found = {name: sha256(path) for name, path in names.items() if not name.startswith(".")}
    assert found == released.planned()
    assert {"README.md", "evidence/items.jsonl", "release.dsse.json", "release.pub"} <= found.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_proven_from_the_download_alone(kind: str, released: Released, downloaded: dict[str, Path]) -> None:
    done = verified(downloaded[kind], released)
    assert done.returncode == 0
    assert done.stdout.startswith("NOTHING IS WRONG")
    assert re.search(r"ok +signature +signed by the key [0-9a-f]{16}", done.stdout)
    assert re.search(r"ok +answers +scores, n, repeats and 95 % intervals of 1 benchmark", done.stdout)


def _changed(folder: Path) -> None:
    path = folder / "evidence" / "items.jsonl"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _edited(folder: Path) -> None:
    card = folder / "README.md"
    text = card.read_text()
    score = re.search(r"\| [^|]+ \| [\d.]+ \([^)]*\) \| ([\d.]+) ", text)
    assert score
    card.write_text(text.replace(f" {score[1]} (", " 99.0 (", 1))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed byte": (_changed, "evidence/items.jsonl: is not the file that was published"),
    "a removed file": (lambda folder: (folder / "evidence/verdict.json").unlink(), "evidence/verdict.json: is missing"),
    "an added file": (lambda folder: (folder / "weights.bin").write_bytes(b"x"), "weights.bin: was added"),
    "a number in the card": (_edited, "README.md: "),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_was_changed_is_named(what: str, released: Released, downloaded: dict[str, Path], tmp_path: Path) -> None:
    damage, words = DAMAGES[what]
    folder = Path(shutil.copytree(downloaded["huggingface"], tmp_path / "release"))
    damage(folder)
    done = verified(folder, released)
    assert done.returncode == 1
    assert f"- {words}" in done.stdout


def test_another_key_is_not_taken(released: Released, downloaded: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    other.write_bytes(SigningKey(Ed25519PrivateKey.generate()).public.pem)
    done = verified(downloaded["modelscope"], released, key=other)
    assert done.returncode == 1
    assert "release.dsse.json: it is signed by the key" in done.stdout


# Secrets


def test_a_refused_token_is_not_said(released: Released) -> None:
    """With all that the libraries log."""
    wrong = {name: TOKENS[kind][:-6] + "abcdef" for name, kind in TOKEN_VARIABLES.items()}
    refused = flagrelease("publish", "release", "1", env=released.env | LOUD | wrong)
    assert refused.returncode == REFUSED
    assert "FLAGRELEASE_HUGGINGFACE_TOKEN" in refused.stderr
    for secret in (*released.secrets.values(), *wrong.values()):
        assert secret not in said(refused)


def test_no_child_of_a_release_has_a_secret(released: Released) -> None:
    """Neither in its command line nor in its environment."""
    assert any("llama_cpp_server" in line for line in released.refused.seen)
    assert any("prefect.server" in line for line in released.done.seen)
    assert released.refused.leaks | released.done.leaks == set()


def _everything(released: Released) -> Iterator[tuple[str, bytes]]:
    """All that the release left on the publisher's host and on the hubs, and all that it said."""
    yield "output of the release that was refused", released.refused.output.encode()
    yield "output of the release", released.done.output.encode()
    yield "output of publishing", said(released.created).encode()
    for path in released.home.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(released.home)), path.read_bytes()
    for kind, hub in released.hubs.items():
        yield f"{kind}'s repository", hub.store.everything(TARGET)


def test_no_secret_is_left_anywhere(released: Released) -> None:
    found = dict(_everything(released))
    # What is looked through is what it is meant to be.
    for place in ("state/store.db", "state/prefect/prefect.db", "output of the release", "huggingface's repository"):
        assert CELL.encode() in found[place], place
    for endpoint in (hub.endpoint.removeprefix("http://") for hub in released.hubs.values()):
        assert endpoint.partition(":")[2] in released.done.output
    for what, secret in released.secrets.items():
        held = [place for place, content in found.items() if secret.encode() in content]
        assert held == [], f"{what} is in {held}"
