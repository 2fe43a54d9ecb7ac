"""A release is taken back: the files of the one before are there again, nothing of the history is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flagrelease.errors import PublishError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.publication_policy import PublicationPolicy
from flagrelease.publish.hub_calls import HubUnavailableError
from flagrelease.publish.interface import MANIFEST, manifest, revision
from flagrelease.settings import settings
from flagrelease.store.publications import Place, taken_back
from flagrelease.store.queries import release_view
from flows import stages
from flows.hubs import hubs_of
from flows.session import publication_stands, publisher_of
from tests.conftest import ROOT
from tests.hub.hosts import TARGET, Host, card, files, hub_of
from tests.integration.hub_world import KINDS, HubWorld, home_with_releases, hub_world, quiet_libraries
from tests.integration.hub_world import TARGET as RELEASED

COMMIT = r"/commit/"
FIRST, SECOND = files(1, **{"first.json": b"{}"}), files(2, **{"second.json": b"{}"})
TAKEN_BACK = (revision(SECOND),)


@pytest.fixture(params=KINDS)
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """With a hub that holds release 2, published over release 1."""
    quiet_libraries(tmp_path, monkeypatch)
    hub = hub_of(request.param, tmp_path / "hub")
    with hub.running():
        hub.store.create(TARGET, "public", {".gitattributes": b"", "model.safetensors": b"weights"})
        host = Host(hub, request.param, tmp_path / "work")
        host.publisher().publish(FIRST, TARGET)
        host.publisher().publish(SECOND, TARGET)
        yield host
    assert hub.unknown == []


def roll_back(host: Host, **options: Any) -> None:
    publisher = host.publisher(taken_back=TAKEN_BACK, **options)
    found = publisher.released(TARGET, 1)
    assert found == FIRST
    assert publisher.publish(found, TARGET).files == manifest(FIRST)


def assert_rolled_back(host: Host) -> None:
    there = host.hub.store.files(TARGET)
    assert {path: there[path] for path in FIRST} == FIRST
    assert set(there) == {*FIRST, MANIFEST, "model.safetensors"}
    titles = [title for title in host.hub.store.titles(TARGET) if title.startswith("FlagRelease")]
    assert [title.partition(", manifest")[0] for title in titles] == [
        "FlagRelease release 1 put back",
        "FlagRelease release 2",
        "FlagRelease release 1",
    ]
    for name, release in (("v1", FIRST), ("v2", SECOND)):
        tagged = host.hub.store.files(TARGET, name)
        assert {path: tagged[path] for path in release} == release
    assert list((host.work / "publishing").glob("*.json")) == []


def test_the_files_before_are_there_again_and_nothing_is_lost(host: Host) -> None:
    tags = host.hub.store.tags(TARGET)
    roll_back(host)
    assert_rolled_back(host)
    assert host.hub.store.tags(TARGET) == tags
    assert host.publisher().current(TARGET) == host.publisher().publish(FIRST, TARGET)


def test_a_second_time_nothing_is_sent(host: Host) -> None:
    roll_back(host)
    before = len(host.hub.requests)
    roll_back(host)
    assert [line for line in host.hub.requests[before:] if not line.startswith("GET")] == []
    assert_rolled_back(host)


def test_only_the_release_that_is_taken_back_is_replaced(host: Host) -> None:
    with pytest.raises(PublishError, match="it holds the newer release 2"):
        host.publisher(taken_back=[revision(files(3))]).publish(FIRST, TARGET)
    host.publisher().publish(files(3), TARGET)
    with pytest.raises(PublishError, match="it holds the newer release 3"):
        roll_back(host)
    assert host.hub.store.files(TARGET)["README.md"] == card(3)


def test_an_edit_on_top_is_not_lost(host: Host) -> None:
    edit = {"README.md": card(2, "an edit")}
    host.hub.write(TARGET, edit)
    with pytest.raises(PublishError, match=r"somebody changed it .*: README\.md") as raised:
        roll_back(host)
    assert host.hub.store.files(TARGET)["README.md"] == edit["README.md"]
    seen = host.publisher().plan(FIRST, TARGET).there
    assert f"--replace {seen}" in raised.value.remedy
    roll_back(host, replace=seen)
    assert host.hub.store.files(TARGET)["README.md"] == card(1)


@pytest.mark.parametrize(
    "fault", [{"lost": True}, {"cut": True}, {"status": 503}, {"status": 429}], ids=["lost", "cut", "503", "429"]
)
def test_an_answer_that_does_not_come(host: Host, fault: dict[str, object]) -> None:
    host.hub.fail("POST", COMMIT, **fault)
    roll_back(host)
    assert_rolled_back(host)


def test_a_killed_process_is_continued(host: Host) -> None:
    """It dies after the commit was applied; the next one sees it late, and sends no second one."""

    def die(_: float) -> None:
        raise KeyboardInterrupt

    listing = r"/revision/main$" if host.kind == "huggingface" else "/repo/files$"
    host.hub.fail("POST", COMMIT, lost=True)
    with pytest.raises(KeyboardInterrupt):
        roll_back(host, pause=die)
    assert list((host.work / "publishing").glob("*.json"))
    publisher = host.publisher(taken_back=TAKEN_BACK)
    host.hub.fail("GET", listing, stale=True, times=3)
    publisher.publish(FIRST, TARGET)
    assert any("an earlier attempt was cut off" in line for line in host.log)
    assert_rolled_back(host)


def test_a_writer_of_another_file_in_the_last_moment_loses_nothing(host: Host) -> None:
    """Hugging Face refuses our commit then (412); it is sent again on top of the other one."""
    host.hub.fail("POST", COMMIT, before=lambda: host.hub.write(TARGET, {"config.json": b"{}"}))
    roll_back(host)
    there = host.hub.store.files(TARGET)
    assert there["config.json"] == b"{}"
    assert {path: there[path] for path in FIRST} == FIRST


def test_a_hub_that_stays_down_is_given_up_and_asked_again(host: Host) -> None:
    host.hub.fail("POST", COMMIT, status=503, times=99)
    with pytest.raises(HubUnavailableError):
        roll_back(host)
    host.hub.faults.clear()
    roll_back(host)
    assert_rolled_back(host)


def test_a_tag_that_is_not_there_names_no_files(host: Host) -> None:
    assert host.publisher().released(TARGET, 7) is None
    assert host.publisher().released(TARGET, 2) == SECOND


# The command, with real releases


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_with_releases(tmp_path_factory.mktemp("releases") / "home")


@pytest.fixture
def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[HubWorld]:
    """Releases 1 and 2 of the small cell, published to both hubs and the folder."""
    with hub_world(home, tmp_path, monkeypatch, capsys) as made:
        made.publish(1)
        made.publish(2)
        yield made


def everywhere(release: int) -> dict[str, int]:
    return {"huggingface": release, "modelscope": release, "folder": release}


BY_NUMBER = "flagrelease publish release 2"


def stage_publish(world: HubWorld, release: int) -> list[str]:
    """The stage `publish` of a release, as the flow runs it; returns what it logged."""
    view, log = release_view(world.here.store, release), list[str]()
    assert view.gate
    cell = resolve(load_matrix(ROOT / "matrix.yaml"), load_chips(), "smollm2-cpu")
    job = SimpleNamespace(publish=True, publication=PublicationPolicy(), target=RELEASED, cell=cell)
    session: Any = SimpleNamespace(
        job=job,
        host=settings(),
        store=world.here.store,
        evidence=world.here.evidence,
        publisher=publisher_of(settings()),
        hubs=hubs_of(settings(), log.append),
        release=release,
        log=log.append,
    )
    stages.publish(session, view.gate)
    return log


def test_back_and_forth_by_commands(world: HubWorld) -> None:
    run, store = world.run, world.here.store
    assert run("publish", "rollback", "smollm2-cpu", "--dry-run") == 0
    assert "~ README.md" in run.out
    assert world.holds() == everywhere(2)

    assert run("publish", "rollback", "smollm2-cpu") == 0
    assert run.out.splitlines() == [f"{RELEASED} ({name}) holds release 1 again" for name in (*KINDS, "folder")]
    assert world.holds() == everywhere(1)
    assert run("verify", RELEASED, "--hub", "huggingface") == 0, run.out

    before = {name: each.store.titles(RELEASED) for name, each in world.hubs.items()}
    assert run("publish", "rollback", "smollm2-cpu") == 0
    assert run.out.splitlines() == [f"{RELEASED} ({name}) held release 1 already" for name in (*KINDS, "folder")]
    assert {name: each.store.titles(RELEASED) for name, each in world.hubs.items()} == before

    # What releases the cell again, unchanged, leaves it so; by its number it is published again.
    for name in (*KINDS, "folder"):
        assert taken_back(store)[2, Place(name, RELEASED)] == 1
    assert publication_stands(store, publisher_of(settings()), 2, RELEASED)
    log = stage_publish(world, 2)
    assert [line for line in log if f"and release 1 put back; to publish it again: {BY_NUMBER}" in line] == log
    assert len(log) == 3
    assert run("show", "2") == 0
    assert run.out.count(f"taken back from {RELEASED}") == 3
    assert run("publish", "release", "smollm2-cpu") == PublishError.exit_code
    assert "release 2 of smollm2-cpu was taken back" in run.err
    assert world.holds() == everywhere(1)
    assert run("publish", "release", "2") == 0
    assert world.holds() == everywhere(2)
    assert taken_back(store) == {}


def test_an_edit_another_key_and_a_hub_that_is_down(world: HubWorld) -> None:
    """An edit is not lost. What this host would sign with another key is had from a hub. Nobody waits for a hub."""
    other = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    world.set(SIGNING_KEY=other.decode())
    world.hubs["huggingface"].fail("POST", COMMIT, status=503, times=99)
    world.hubs["modelscope"].write(RELEASED, {"README.md": b"# by hand\n"})
    assert world.run("publish", "rollback", "smollm2-cpu") == PublishError.exit_code
    assert "huggingface took none of" in world.run.err
    assert "somebody changed it" in world.run.err
    assert world.holds() == {"huggingface": 2, "modelscope": 2, "folder": 1}
    assert world.hubs["modelscope"].store.files(RELEASED)["README.md"] == b"# by hand\n"

    world.hubs["huggingface"].faults.clear()
    assert world.run("publish", "rollback", "smollm2-cpu") == PublishError.exit_code
    assert world.holds() == {"huggingface": 1, "modelscope": 2, "folder": 1}
    state = world.run.err.split("--replace ")[-1].split()[0]
    assert world.run("publish", "rollback", "smollm2-cpu", "--replace", state) == 0
    assert world.holds() == everywhere(1)


def test_where_there_is_no_tag_it_is_rendered_from_the_store(world: HubWorld) -> None:
    hub = world.hubs["modelscope"]
    hub.store.remove_tag(RELEASED, "v1")
    world.set(HUBS=json.dumps(["modelscope"]))
    assert world.run("publish", "rollback", "2") == PublishError.exit_code
    assert f"release 2 is also at {RELEASED} (huggingface)" in world.run.err
    world.set(HUBS=json.dumps(KINDS))
    assert world.run("publish", "rollback", "2") == 0
    assert world.holds() == everywhere(1)
    assert "v1" in hub.store.tags(RELEASED)
