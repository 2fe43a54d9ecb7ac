"""Whoever names a repository gets a release checked straight from the hub, without an account or a database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import evaluation.recompute
from flagrelease.errors import PublishError
from flagrelease.provenance.keys import SigningKey, signing_key
from flagrelease.publish import hub_calls
from flagrelease.publish.interface import MANIFEST, manifest, manifest_json, revision
from flagrelease.records import Publication
from flagrelease.settings import settings
from tests.hub.hosts import TOKENS, hub_of
from tests.hub.stand_in_hub import StandInHub
from tests.integration.hub_world import KINDS, TARGET, home_with_releases, quiet_libraries, world_at
from tests.unit.command_line import Run
from tests.unit.published_release import files_of

OTHERS = {".gitattributes": b"*.bin lfs\n", "model.safetensors": b"weights", "configuration.json": b"{}"}
"""What lies in a repository beside a publication."""


@pytest.fixture(scope="module")
def publication(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], bytes]:
    """The files of a release as it is published, and the public key of whom it is from."""
    home = home_with_releases(tmp_path_factory.mktemp("releases") / "home")
    key = signing_key(home)
    assert key
    here = world_at(home, home / "output")
    files = files_of(here, 1, key)
    here.store.close()
    stated = Publication(publisher="", target=TARGET, revision=revision(files), files=manifest(files))
    return {**files, MANIFEST: manifest_json(stated)}, key.public.pem


class Verified:
    """A repository on a hub, and `flagrelease verify` of it."""

    def __init__(self, hub: StandInHub, kind: str, run: Run, key: Path) -> None:
        self.hub, self.kind, self._run, self.key = hub, kind, run, key

    def __call__(self, repository: str = TARGET, *, key: Path | None = None) -> int:
        return self._run("verify", repository, "--hub", self.kind, "--key", key or self.key, "--json")

    @property
    def problems(self) -> list[str]:
        found: list[str] = json.loads(self._run.out)["problems"]
        return found

    @property
    def report(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self._run.out)
        return found

    @property
    def error(self) -> str:
        return self._run.err


@pytest.fixture(params=KINDS)
def verify(
    request: pytest.FixtureRequest,
    publication: tuple[dict[str, bytes], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Verified]:
    """A public repository with the release; afterwards, that no token was sent and nothing kept."""
    quiet_libraries(tmp_path, monkeypatch)
    monkeypatch.setattr(hub_calls, "PAUSES_S", (0.0,))
    files, public = publication
    hub, home = hub_of(request.param, tmp_path / "hub"), tmp_path / "flagrelease"
    (tmp_path / "public.pem").write_bytes(public)
    (tmp_path / "temporary").mkdir()
    with hub.running():
        hub.store.create(TARGET, "public", {**files, **OTHERS})
        monkeypatch.setenv(f"FLAGRELEASE_{request.param.upper()}_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("FLAGRELEASE_HOME", str(home))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        settings.cache_clear()
        yield Verified(hub, request.param, Run(monkeypatch, capsys), tmp_path / "public.pem")
    settings.cache_clear()
    assert hub.unknown == []
    assert not home.exists()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not [line for line in hub.requests if not line.startswith("GET") or "safetensors" in line]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the statistics, which take most of the time."""
    monkeypatch.setattr(evaluation.recompute, "recompute", lambda *_: [])


def test_a_release_is_proven_as_far_as_files_can(verify: Verified, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of the environment does not go to an address that is not on the list."""
    monkeypatch.setenv("HF_TOKEN", "hf_void")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-void")
    monkeypatch.setenv(f"FLAGRELEASE_{verify.kind.upper()}_TOKEN", "void")
    settings.cache_clear()
    assert verify() == 0
    report = verify.report
    assert str(report["place"]).startswith(f"{TARGET} ({verify.kind}, ")
    assert [check["state"] for check in report["checks"]] == ["proven"] * 6  # type: ignore[attr-defined]
    not_proven = "\n".join(report["not_proven"])  # type: ignore[arg-type]
    assert "not looked at: configuration.json, model.safetensors" in not_proven
    assert "not looked at: .gitattributes" in not_proven


def flipped(content: bytes) -> bytes:
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


Change = Callable[[Mapping[str, bytes]], dict[str, bytes]]
WRONG: dict[str, tuple[Change, str]] = {
    "a byte of the evidence": (
        lambda files: {"evidence/items.jsonl": flipped(files["evidence/items.jsonl"])},
        r"evidence/items\.jsonl: is not the file that was published",
    ),
    "a byte of the figure": (
        lambda files: {"differences.svg": flipped(files["differences.svg"])},
        r"differences\.svg: is not the file that was published",
    ),
    "a number in the card": (
        lambda files: {
            "README.md": re.sub(rb"(\| [\d.]+ \([^)]+\) \| )[\d.]+", rb"\g<1>99.9", files["README.md"], count=1)
        },
        r"README\.md: .*candidate: it prints 99\.9",
    ),
    "more evidence": (lambda _: {"evidence/more.safetensors": b"x"}, r"evidence/more\.safetensors: was added"),
    "code": (lambda _: {"modeling.py": b"x"}, r"modeling\.py: was added"),
    "another card": (lambda _: {"README_zh.md": b"x"}, r"README_zh\.md: was added"),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("what", WRONG)
def test_what_was_changed_or_added_is_named(verify: Verified, what: str) -> None:
    change, words = WRONG[what]
    verify.hub.write(TARGET, change(verify.hub.store.files(TARGET)))
    assert verify() == 1
    assert any(re.match(words, problem) for problem in verify.problems), verify.problems


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["evidence/items.jsonl", "README.md", "release.pub", "release.dsse.json"])
def test_what_was_removed_is_named(verify: Verified, name: str) -> None:
    verify.hub.store.commit(TARGET, {}, [name], "somebody else")
    assert verify() == 1
    assert f"{name}: is missing" in [problem[: len(name) + 12] for problem in verify.problems]


@pytest.mark.usefixtures("quick")
def test_a_file_that_the_statement_no_longer_names_is_still_checked(verify: Verified) -> None:
    """What is fetched is what anybody says is published, so nobody hides a file by leaving it out of one list."""
    stated = json.loads(verify.hub.store.files(TARGET)["release.json"])
    stated["subject"] = [each for each in stated["subject"] if each["name"] != "evidence/items.jsonl"]
    edited = {"release.json": json.dumps(stated).encode(), "evidence/items.jsonl": b"{}\n"}
    verify.hub.store.commit(TARGET, edited, [MANIFEST], "somebody else")
    assert verify() == 1
    assert "release.json: is not what was signed" in verify.problems
    assert any(problem.startswith("evidence/items.jsonl: is not the file") for problem in verify.problems)


@pytest.mark.usefixtures("quick")
def test_another_key_is_told(verify: Verified, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(SigningKey(Ed25519PrivateKey.generate()).public.pem)
    assert verify(key=other) == 1
    assert any("not by the one given" in problem for problem in verify.problems)


@pytest.mark.usefixtures("quick")
def test_a_revision_is_checked_as_it_is_there(verify: Verified) -> None:
    commit = verify.hub.store.resolve(TARGET, verify.hub.BRANCH)
    assert commit
    verify.hub.store.set_reference(TARGET, "refs/tags/v1", commit)
    verify.hub.write(TARGET, {"README.md": b"# by hand\n"})
    assert verify(f"{TARGET}@v1") == 0
    assert verify(TARGET) == 1
    assert verify(f"{TARGET}@v2") == PublishError.exit_code
    assert "has no revision v2" in verify.error


def test_what_is_not_there_private_or_no_release(verify: Verified) -> None:
    for repository in ("FlagRelease/nothing", "FlagRelease/nothing@v1"):
        assert verify(repository) == PublishError.exit_code
        assert f"there is no repository FlagRelease/nothing at {verify.hub.endpoint}, or it is private" in verify.error
    verify.hub.store.create("FlagRelease/weights", "public", OTHERS)
    assert verify("FlagRelease/weights") == PublishError.exit_code
    assert "FlagRelease/weights" in verify.error
    assert "is no publication to be checked" in verify.error
    verify.hub.store.visibility[TARGET] = "private"
    assert verify() == PublishError.exit_code
    assert f"there is no repository {TARGET}" in verify.error
    assert f"FLAGRELEASE_{verify.kind.upper()}_TOKEN" in verify.error
    assert verify("no-repository") == PublishError.exit_code
    assert "names no repository" in verify.error


@pytest.mark.usefixtures("quick")
def test_a_private_one_is_checked_with_a_token(verify: Verified, monkeypatch: pytest.MonkeyPatch) -> None:
    verify.hub.store.visibility[TARGET] = "private"
    monkeypatch.setenv("FLAGRELEASE_HUB_ENDPOINTS", json.dumps([verify.hub.endpoint]))
    monkeypatch.setenv(f"FLAGRELEASE_{verify.kind.upper()}_TOKEN", TOKENS[verify.kind])
    settings.cache_clear()
    assert verify() == 0
    monkeypatch.setenv(f"FLAGRELEASE_{verify.kind.upper()}_TOKEN", TOKENS[verify.kind][:-4] + "0000")
    settings.cache_clear()
    assert verify() == PublishError.exit_code
    assert "refused, 401" in verify.error
    assert "or none at all" in verify.error


def test_a_hub_that_does_not_answer(verify: Verified) -> None:
    verify.hub.fail("GET", r".", status=503, times=99)
    assert verify() == PublishError.exit_code
    assert f"see whether {verify.hub.endpoint} can be reached from here" in verify.error


@pytest.mark.usefixtures("quick")
def test_a_folder_comes_first_unless_a_hub_is_named(
    verify: Verified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / TARGET).mkdir(parents=True)
    assert verify() == 0
    assert verify._run("verify", TARGET) == PublishError.exit_code
    assert f"{TARGET} is no publication to be checked" in verify.error
