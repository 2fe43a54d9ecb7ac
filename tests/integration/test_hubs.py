"""One contract for both hubs: the real libraries publish to a stand-in hub, which fails where it is asked to."""

from __future__ import annotations

import json
import logging
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flagrelease.errors import FlagReleaseError, PublishError
from flagrelease.publication_policy import Visibility
from flagrelease.publish.guards import Places
from flagrelease.publish.hub import COMMITS
from flagrelease.publish.hub_calls import HubUnavailableError
from flagrelease.publish.hub_client import Creation
from flagrelease.publish.interface import MANIFEST, Publisher, manifest
from flagrelease.publish.ledger import Ledger
from tests.hub.hosts import TARGET, TOKENS, Host, assert_holds, card, files, hub_of, ours
from tests.hub.stand_in_huggingface import StandInHuggingFace
from tests.hub.stand_in_modelscope import StandInModelScope

COMMIT = r"/commit/"
GOLDEN = Path(__file__).parents[1] / "hub" / "golden"
PROCESS_KILLED = KeyboardInterrupt


@pytest.fixture(autouse=True)
def libraries_slept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The libraries' own pauses in seconds, which take no time; what they write goes into the test's folder."""
    import huggingface_hub.constants
    import huggingface_hub.utils._http
    import modelscope_hub._legacy_api as legacy

    slept: list[float] = []

    def quick(module: Any) -> SimpleNamespace:
        return SimpleNamespace(**{**vars(module.time), "sleep": slept.append})

    for module in (huggingface_hub.utils._http, legacy):
        monkeypatch.setattr(module, "time", quick(module))
    # Where a test before this one had the library imported offline.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # The stand-in keeps large files by the classic protocol.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return slept


@pytest.fixture(params=["huggingface", "modelscope"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """With an empty repository; afterwards, that the library asked nothing that the hub does not know."""
    hub = hub_of(request.param, tmp_path / "hub")
    with hub.running():
        hub.store.create(TARGET, "public", {".gitattributes": b"", "weights.bin": b"weights"})
        yield Host(hub, request.param, tmp_path / "work")
    assert hub.unknown == []
    assert hub.foreign_tokens == []


@pytest.fixture
def huggingface(tmp_path: Path) -> Iterator[Host]:
    hub = hub_of("huggingface", tmp_path / "hub")
    with hub.running():
        hub.store.create(TARGET, "public", {".gitattributes": b""})
        yield Host(hub, "huggingface", tmp_path / "work")
    assert hub.unknown == []


# What is published


def test_what_is_downloaded_is_what_was_planned(host: Host) -> None:
    publisher: Publisher = host.publisher()
    assert publisher.current(TARGET) is None
    plan = publisher.plan(files(), TARGET)
    assert plan.added == ("README.md", "evidence/items.bin", "evidence/verdict.json", MANIFEST)
    assert (plan.changed, plan.removed, plan.refusal) == ((), (), None)
    assert ours(host) == []
    publication = publisher.publish(files(), TARGET)
    assert publication.files == manifest(files())
    assert publication.revision == plan.revision
    assert host.publisher().current(TARGET) == publication
    assert host.hub.store.files(TARGET)["weights.bin"] == b"weights"
    assert_holds(host, files())
    assert list((host.work / "publishing").glob("*.json")) == []


def test_the_second_time_nothing_is_sent(host: Host) -> None:
    first = host.publisher().publish(files(), TARGET)
    before = len(host.hub.requests)
    assert host.publisher().publish(files(), TARGET) == first
    assert [line for line in host.hub.requests[before:] if not line.startswith("GET")] == []
    plan = host.publisher().plan(files(), TARGET)
    assert plan.nothing_to_do
    assert list(plan.lines()) == [f"{TARGET} holds these files already ({host.kind})"]
    assert_holds(host, files())


def test_the_next_release_replaces_it_in_one_commit(host: Host) -> None:
    host.publisher().publish(files(1, **{"old.json": b"{}"}), TARGET)
    plan = host.publisher().plan(files(2), TARGET)
    assert plan.removed == ("evidence/old.json",)
    assert "-  release: 1\n+  release: 2\n" in plan.differences
    assert "~ README.md" in list(plan.lines())
    host.publisher().publish(files(2), TARGET)
    assert "evidence/old.json" not in host.hub.store.files(TARGET)
    assert_holds(host, files(2), commits=2, release=2)
    assert host.hub.store.files(TARGET, "v1")["README.md"] == card(1)


def test_an_older_release_does_not_replace_a_newer_one(host: Host) -> None:
    host.publisher().publish(files(2), TARGET)
    with pytest.raises(PublishError, match="it holds the newer release 2") as raised:
        host.publisher().publish(files(1), TARGET)
    assert_holds(host, files(2), release=2)
    plan = host.publisher().plan(files(1), TARGET)
    assert str(plan.refusal) == str(raised.value)
    assert plan.there is not None
    assert f"--replace {plan.there}" in raised.value.remedy
    host.publisher(replace=plan.there).publish(files(1), TARGET)
    assert_holds(host, files(1), commits=2, release=1)


def test_a_card_of_somebody_else_is_not_replaced(host: Host) -> None:
    host.hub.write(TARGET, {"README.md": b"# made by hand\n"})
    assert host.publisher().current(TARGET) is None
    with pytest.raises(PublishError, match=r"did not publish what it holds: README\.md"):
        host.publisher().publish(files(), TARGET)
    assert host.hub.store.files(TARGET)["README.md"] == b"# made by hand\n"
    host.publisher(replace=host.publisher().plan(files(), TARGET).there).publish(files(), TARGET)
    assert_holds(host, files())


def test_an_edit_on_the_web_is_not_lost(host: Host) -> None:
    host.publisher().publish(files(1), TARGET)
    host.hub.write(TARGET, {"README.md": card(1, "edited on the web")})
    with pytest.raises(PublishError, match=r"changed after it was published: README\.md"):
        host.publisher().current(TARGET)
    for release in (1, 2):
        with pytest.raises(PublishError, match=r"somebody changed it .*: README\.md"):
            host.publisher().publish(files(release), TARGET)
    seen = host.publisher().plan(files(2), TARGET).there
    host.hub.write(TARGET, {"README.md": card(1, "edited again")})
    with pytest.raises(PublishError, match="somebody changed it"):
        host.publisher(replace=seen).publish(files(2), TARGET)
    assert host.hub.store.files(TARGET)["README.md"] == card(1, "edited again")


def test_a_release_is_published_with_one_content_only(host: Host) -> None:
    host.publisher().publish(files(1), TARGET)
    with pytest.raises(PublishError, match="release 1 was published there with other content"):
        host.publisher().publish(files(1, **{"more.json": b"{}"}), TARGET)
    assert_holds(host, files(1))


def test_large_files_take_the_new_way_of_hugging_face(
    huggingface: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its compiled library brings a stand-in for that store; what came back is what the hub lists."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    hub = huggingface.hub
    assert isinstance(hub, StandInHuggingFace)
    hub.xet = tmp_path / "xet"
    huggingface.publisher().publish(files(), TARGET)
    assert any("xet-write-token" in line for line in hub.requests)
    assert not any(line.startswith("PUT") for line in hub.requests)
    assert [path for path in hub.xet.rglob("*") if path.is_file()]
    assert len(ours(huggingface)) == 1


# Where it is published


def test_a_mistyped_name_creates_nothing(host: Host) -> None:
    before = host.hub.store.names()
    with pytest.raises(PublishError, match="there is no repository FlagRelease/Qwem3"):
        host.publisher().publish(files(), "FlagRelease/Qwem3")
    refusal = host.publisher().plan(files(), "FlagRelease/Qwem3").refusal
    assert refusal is not None
    assert "--create" in refusal.remedy
    assert host.hub.store.names() == before


@pytest.mark.parametrize("visibility", ["public", "private"])
def test_a_repository_is_created_as_asked(host: Host, visibility: Visibility) -> None:
    create = Creation(visibility=visibility, licence="apache-2.0")
    target = "FlagRelease/new"
    host.publisher(create=create).publish(files(), target)
    assert host.hub.store.visibility[target] == visibility
    assert {path: host.hub.store.files(target, "v1")[path] for path in files()} == files()
    assert len(host.hub.store.titles(target)) == 2


def test_a_repository_has_the_licence_of_its_card(host: Host) -> None:
    publisher = host.publisher(create=Creation(visibility="public", licence="mit"))
    with pytest.raises(PublishError, match=r"under 'apache-2\.0', .* under 'mit'") as raised:
        publisher.publish(files(), "FlagRelease/new")
    assert str(publisher.plan(files(), "FlagRelease/new").refusal) == str(raised.value)
    assert host.hub.store.names() == [TARGET]


def test_an_answer_lost_while_creating(host: Host) -> None:
    host.hub.fail("POST", r"/create$|/v1/models$", lost=True)
    target = "FlagRelease/new"
    host.publisher(create=Creation(visibility="public", licence="apache-2.0")).publish(files(), target)
    assert len(host.hub.store.titles(target)) == 2


def test_other_places_get_no_request(host: Host) -> None:
    elsewhere = Places(endpoints=("https://huggingface.co", "https://modelscope.cn"), namespaces=("FlagRelease",))
    with pytest.raises(PublishError, match="is not a hub to publish to"):
        host.publisher(places=elsewhere).publish(files(), TARGET)
    for target in ("FlagReIease/Qwen3", "FlagRelease/../x", "FlagRelease"):
        with pytest.raises(PublishError):
            host.publisher().publish(files(), target)
    assert host.hub.requests == []


def test_a_namespace_without_rights_is_refused_by_the_hub(host: Host) -> None:
    create = Creation(visibility="public", licence="apache-2.0")
    with pytest.raises(PublishError, match="refused, 403") as raised:
        host.publisher(create=create).publish(files(), "Elsewhere/new")
    assert "_TOKEN" in raised.value.remedy


# What goes wrong on the way


@pytest.mark.parametrize(
    "fault",
    [
        {"lost": True},
        {"lost": True, "status": 500},
        {"cut": True},
        {"status": 500},
        {"status": 503, "times": 2},
        {"status": 429},
        {"status": 429, "headers": {"Retry-After": "7"}},
    ],
    ids=["answer lost", "500 though done", "connection cut", "500 once", "503 twice", "429", "429 with Retry-After"],
)
def test_a_failed_commit_ends_in_one_commit(host: Host, fault: dict[str, Any]) -> None:
    host.publisher().publish(files(1), TARGET)
    host.hub.fail("POST", COMMIT, **fault)
    host.publisher().publish(files(2), TARGET)
    assert_holds(host, files(2), commits=2, release=2)
    if "headers" in fault:
        assert 8.0 in host.pauses.seconds
        assert f"{host.kind}: too many requests, the hub asks to wait 7 s; going on in 8 s" in host.log


@pytest.mark.parametrize("fault", [{"cut": True}, {"status": 500}, {"lost": True}], ids=["cut", "500", "lost"])
def test_an_upload_that_breaks_is_sent_again(host: Host, fault: dict[str, Any]) -> None:
    host.hub.fail("PUT", "/objects/", **fault)
    host.publisher().publish(files(), TARGET)
    assert_holds(host, files())


@pytest.mark.parametrize(("method", "path"), [("PUT", "/objects/"), ("POST", COMMIT)], ids=["large file", "commit"])
def test_a_connection_that_breaks_in_the_middle_of_a_request(host: Host, method: str, path: str) -> None:
    """Of a size that no socket takes at once."""
    large = files(1, **{"log.bin": bytes(8_000_000), "log.txt": b"." * 5_000_000})
    host.hub.fail(method, path, halfway=True)
    host.publisher().publish(large, TARGET)
    assert host.hub.faults[0].times == 0
    assert_holds(host, large)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", r"/tree/|/repo/files$"),
        ("GET", r"/resolve/.*README|/repo$"),
        ("GET", r"/revision/|/models/[^/]+/[^/]+$"),
        ("POST", r"/preupload/|/objects/batch$"),
        ("POST", r"/tag"),
    ],
    ids=["listing", "download", "repository", "before the upload", "tag"],
)
@pytest.mark.parametrize("fault", [{"cut": True}, {"status": 500}, {"status": 429}], ids=["cut", "500", "429"])
def test_any_other_request_may_fail_once(host: Host, method: str, path: str, fault: dict[str, Any]) -> None:
    host.hub.fail(method, path, **fault)
    host.publisher().publish(files(), TARGET)
    assert_holds(host, files())


def test_a_hub_that_stays_down_is_given_up(host: Host) -> None:
    host.hub.fail("POST", COMMIT, status=503, times=99)
    with pytest.raises(HubUnavailableError) as raised:
        host.publisher().publish(files(), TARGET)
    assert raised.value.transient
    assert host.hub.store.tags(TARGET) == {}
    host.hub.faults.clear()
    host.publisher().publish(files(), TARGET)
    assert_holds(host, files())


def test_a_hub_that_always_says_that_somebody_was_faster_is_given_up(host: Host) -> None:
    answer = {"status": 412} if host.kind == "huggingface" else {"status": 400, "code": 10030000001}
    host.hub.fail("POST", COMMIT, times=99, **answer)
    with pytest.raises(HubUnavailableError, match="took none of 4 commits"):
        host.publisher().publish(files(), TARGET)
    assert sum("/commit/" in line for line in host.hub.requests) == COMMITS
    assert host.hub.store.tags(TARGET) == {}


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(host: Host, libraries_slept: list[float]) -> None:
    for path in (COMMIT, r"/tree/|/repo/files$"):
        host.hub.faults.clear()
        host.hub.fail("POST" if path == COMMIT else "GET", path, status=429, headers={"Retry-After": "3600"}, times=9)
        if path == COMMIT or host.kind == "huggingface":
            with pytest.raises(HubUnavailableError, match="3601 s"):
                host.publisher().publish(files(), TARGET)
    assert max([*host.pauses.seconds, *libraries_slept], default=0) < 60
    assert ours(host) == []


def test_a_listing_that_lags_behind_is_waited_for(host: Host) -> None:
    host.publisher().publish(files(1), TARGET)
    listing = r"/revision/main$" if host.kind == "huggingface" else "/repo/files$"

    def lag() -> None:
        host.hub.fail("GET", listing, stale=True, times=2)

    host.hub.fail("POST", COMMIT, before=lag)
    host.publisher().publish(files(2), TARGET)
    assert_holds(host, files(2), commits=2, release=2)


def test_what_only_modelscope_answers(tmp_path: Path) -> None:
    hub = hub_of("modelscope", tmp_path / "hub")
    host = Host(hub, "modelscope", tmp_path / "work")
    with hub.running():
        hub.store.create(TARGET, "public", {})
        hub.fail("POST", COMMIT, status=200, says='{"Success": false, "Message": "a file is not allowed"}')
        with pytest.raises(PublishError, match="a file is not allowed"):
            host.publisher().publish(files(), TARGET)
        assert ours(host) == []
        hub.fail("POST", COMMIT, status=400, says="the branch was updated", code=10030000001)
        host.publisher().publish(files(), TARGET)
        assert_holds(host, files())


def test_a_killed_process_is_continued(host: Host) -> None:
    """It dies after the commit was applied; the next one sees it late, and sends no second one."""
    host.publisher().publish(files(1), TARGET)
    publisher = host.publisher()
    listing = r"/revision/main$" if host.kind == "huggingface" else "/repo/files$"

    def die(_: float) -> None:
        raise PROCESS_KILLED

    host.hub.fail("POST", COMMIT, lost=True)
    with pytest.raises(PROCESS_KILLED):
        host.publisher(pause=die).publish(files(2), TARGET)
    assert list((host.work / "publishing").glob("*.json"))
    host.hub.fail("GET", listing, stale=True, times=3)
    publisher.publish(files(2), TARGET)
    assert any("an earlier attempt was cut off" in line for line in host.log)
    assert_holds(host, files(2), commits=2, release=2)
    assert list((host.work / "publishing").glob("*.json")) == []


def test_a_process_killed_before_the_tag_sets_it_later(host: Host) -> None:
    host.hub.fail("POST", "/tag", status=403)
    with pytest.raises(PublishError, match="refused, 403"):
        host.publisher().publish(files(), TARGET)
    host.publisher().publish(files(), TARGET)
    assert_holds(host, files())


# Others who write


def test_another_writer_between_read_and_commit(host: Host) -> None:
    host.publisher().publish(files(1), TARGET)
    # After the first look, and before the commit: while the large file is uploaded.
    host.hub.fail("PUT", "/objects/", before=lambda: host.hub.write(TARGET, {"README.md": card(1, "an edit")}))
    with pytest.raises(PublishError, match=r"somebody changed it .*: README\.md"):
        host.publisher().publish(files(2), TARGET)
    assert host.hub.store.files(TARGET)["README.md"] == card(1, "an edit")
    assert len(ours(host)) == 1


def test_another_writer_in_the_last_moment(host: Host) -> None:
    """Hugging Face refuses our commit then. ModelScope takes it: the edit is in its history, one commit back."""
    host.publisher().publish(files(1), TARGET)
    edit = {"README.md": card(1, "an edit")}
    host.hub.fail("POST", COMMIT, before=lambda: host.hub.write(TARGET, edit))
    if host.kind == "huggingface":
        with pytest.raises(PublishError, match=r"somebody changed it .*: README\.md"):
            host.publisher().publish(files(2), TARGET)
        assert host.hub.store.files(TARGET)["README.md"] == edit["README.md"]
        assert len(ours(host)) == 1
    else:
        host.publisher().publish(files(2), TARGET)
        assert host.hub.store.files(TARGET, "master~1")["README.md"] == edit["README.md"]
        assert_holds(host, files(2), commits=2, release=2)


def test_another_writer_before_the_tag(host: Host) -> None:
    """Hugging Face tags the commit that was read back; ModelScope the branch, so its tag is read as well."""
    edit = {"README.md": card(1, "an edit")}
    host.hub.fail("POST", "/tag", before=lambda: host.hub.write(TARGET, edit))
    if host.kind == "huggingface":
        host.publisher().publish(files(), TARGET)
        assert host.hub.store.files(TARGET, "v1")["README.md"] == card(1)
    else:
        with pytest.raises(PublishError, match="the tag v1 names another content"):
            host.publisher().publish(files(), TARGET)
    assert host.hub.store.files(TARGET)["README.md"] == edit["README.md"]


def test_another_writer_of_another_file_loses_nothing(host: Host) -> None:
    host.hub.fail("PUT", "/objects/", before=lambda: host.hub.write(TARGET, {"config.json": b"{}"}))
    host.publisher().publish(files(), TARGET)
    there = host.hub.store.files(TARGET)
    assert {path: there[path] for path in files()} == files()
    assert there["config.json"] == b"{}"
    assert len(ours(host)) == 1


def test_an_answer_that_makes_no_sense(host: Host) -> None:
    """Such as the page of a proxy: not taken for an empty repository, nor for a refusal."""
    host.hub.fail("GET", r"/revision/main$|/repo/files$", status=200, says="<html>", times=99)
    with pytest.raises(HubUnavailableError):
        host.publisher().publish(files(), TARGET)
    assert ours(host) == []


def test_a_writer_right_after_the_commit(host: Host) -> None:
    """His edit stays, and the release is not called published."""

    def edit() -> None:
        host.hub.write(TARGET, {"README.md": card(1, "an edit")})

    first = r"/revision/main$" if host.kind == "huggingface" else "/repo/files$"
    host.hub.fail("POST", COMMIT, before=lambda: host.hub.fail("GET", first, before=edit))
    with pytest.raises(PublishError, match="somebody changed it"):
        host.publisher().publish(files(), TARGET)
    assert host.hub.store.files(TARGET)["README.md"] == card(1, "an edit")
    assert host.hub.store.tags(TARGET) == {}
    assert len(ours(host)) == 1


def _at_once(publish: list[Callable[[], object]]) -> list[FlagReleaseError]:
    """Call all of them at once; what was raised."""
    errors: list[FlagReleaseError] = []
    barrier = threading.Barrier(len(publish))

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        try:
            call()
        except FlagReleaseError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in publish]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_four_processes_of_one_host_at_once(host: Host) -> None:
    publishers = [host.publisher() for _ in range(4)]
    assert _at_once([lambda one=one: one.publish(files(), TARGET) for one in publishers]) == []  # type: ignore[misc]
    assert_holds(host, files())


def test_four_hosts_at_once(huggingface: Host, tmp_path: Path) -> None:
    """Hugging Face refuses all but the first; ModelScope cannot, there the hosts' common database keeps them apart."""
    publishers = [huggingface.publisher(ledger=Ledger(tmp_path / str(number))) for number in range(4)]
    assert _at_once([lambda one=one: one.publish(files(), TARGET) for one in publishers]) == []  # type: ignore[misc]
    assert_holds(huggingface, files())


def test_four_releases_from_four_hosts_at_once(huggingface: Host, tmp_path: Path) -> None:
    publishers = [huggingface.publisher(ledger=Ledger(tmp_path / str(number))) for number in range(4)]
    errors = _at_once([lambda n=n: publishers[n].publish(files(n + 1), TARGET) for n in range(4)])  # type: ignore[misc]
    assert all("newer release" in str(error) or "took none" in str(error) for error in errors)
    assert huggingface.hub.store.files(TARGET)["README.md"] == card(4)
    assert len(ours(huggingface)) <= 4


# Pull requests


def test_a_token_without_write_rights_opens_one_pull_request(huggingface: Host, tmp_path: Path) -> None:
    hub = huggingface.hub
    assert isinstance(hub, StandInHuggingFace)
    hub.read_only = True
    with pytest.raises(PublishError, match="refused, 403") as raised:
        huggingface.publisher().publish(files(), TARGET)
    assert "PULL_REQUESTS" in raised.value.remedy
    hub.fail("POST", COMMIT, lost=True)
    for other in ("this", "this", "another"):
        ledger = Ledger(tmp_path / other)
        with pytest.raises(PublishError, match=r"waits for its pull request to be merged: .*/discussions/1"):
            huggingface.publisher(pull_requests=True, ledger=ledger).publish(files(), TARGET)
    assert len(hub.pull_requests[TARGET]) == 1
    assert "README.md" not in hub.store.files(TARGET)
    hub.merge(TARGET, 1)
    huggingface.publisher(pull_requests=True).publish(files(), TARGET)
    assert_holds(huggingface, files())


def test_a_pull_request_that_somebody_changed_is_left_alone(huggingface: Host) -> None:
    hub = huggingface.hub
    assert isinstance(hub, StandInHuggingFace)
    with pytest.raises(PublishError, match="waits for its pull request"):
        huggingface.publisher(pull_requests=True).publish(files(), TARGET)
    hub.store.commit(TARGET, {"README.md": card(1, "an edit")}, (), "somebody else", to="refs/pr/1")
    with pytest.raises(PublishError, match="somebody changed the pull request"):
        huggingface.publisher(pull_requests=True).publish(files(), TARGET)
    assert len(hub.pull_requests[TARGET]) == 1


# What must not leave


def test_the_token_is_nowhere(host: Host, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    token = TOKENS[host.kind]
    said: list[str] = []
    host.hub.fail("POST", COMMIT, lost=True)
    host.publisher().publish(files(), TARGET)
    host.hub.fail("POST", COMMIT, status=403)
    wrong = token[:-4] + "0000"
    for publisher, release in ((host.publisher(), 2), (host.publisher(token=wrong), 3)):
        with pytest.raises(PublishError) as raised:
            publisher.publish(files(release), TARGET)
        said += [str(raised.value), repr(publisher), repr(vars(publisher))]
    said += [caplog.text, *host.log]
    said += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    for secret in (token, wrong):
        assert [text for text in said if secret in text] == []
    assert caplog.records


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize("request_", [("GET", "/tree/|/repo/files$"), ("PUT", "/objects/"), ("POST", COMMIT)], ids=str)
def test_a_token_that_the_hub_repeats_is_not_repeated_by_us(host: Host, request_: tuple[str, str], status: int) -> None:
    """Nor by the exceptions that were the cause, which a traceback shows."""
    token = TOKENS[host.kind]
    host.hub.fail(*request_, status=status, says=f"the token {token} may not write", times=99)
    with pytest.raises(PublishError) as raised:
        host.publisher().publish(files(), TARGET)
    shown = "".join(traceback.format_exception(raised.value))
    assert token not in shown
    assert token not in "".join(host.log)
    if status == 403:
        assert "the token … may not write" in str(raised.value)


@pytest.mark.parametrize("kind", ["own", "pattern"])
def test_a_secret_in_the_evidence_is_not_published(host: Host, kind: str) -> None:
    secret = TOKENS[host.kind] if kind == "own" else "AKIA" + "Z" * 16
    with pytest.raises(PublishError, match=r"evidence/server\.log, line 2, holds") as raised:
        host.publisher().publish(files(1, **{"server.log": f"started\nkey {secret}\n".encode()}), TARGET)
    assert secret not in str(raised.value)
    assert host.hub.requests == []


def test_modelscopes_token_stays_with_modelscope(tmp_path: Path) -> None:
    """The library would send it to whatever host the hub names for an upload."""
    hub, store = hub_of("modelscope", tmp_path / "hub"), hub_of("huggingface", tmp_path / "store")
    assert isinstance(hub, StandInModelScope)
    with hub.running(), store.running():
        hub.store.create(TARGET, "public", {})
        hub.store._large = store.store._large
        hub.objects_at = store.endpoint
        Host(hub, "modelscope", tmp_path / "work").publisher().publish(files(), TARGET)
        assert hub.store.files(TARGET)["evidence/items.bin"] == files()["evidence/items.bin"]
    assert [line for line in store.requests if line.startswith("PUT")]
    assert store.foreign_tokens == []


# What the libraries send: where a new version of one sends something else, this fails first

LIBRARIES = {"huggingface": "huggingface_hub", "modelscope": "modelscope-hub"}


def test_the_requests_of_one_publication(host: Host) -> None:
    host.publisher().publish(files(), TARGET)
    sent = [
        [method, re.sub(r"\b[0-9a-f]{40}\b", "C", re.sub(r"\b[0-9a-f]{64}\b", "H", path.replace(TARGET, "R"))), status]
        for method, path, status in host.hub.answered
        if "agent-harnesses" not in path
    ]
    library = LIBRARIES[host.kind]
    record, now = GOLDEN / f"{host.kind}.json", f"{library} {version(library)}"
    if not record.exists():
        lines = ",\n".join(f"  {json.dumps(request)}" for request in sent)
        record.write_text(f'{{"library": "{now}", "requests": [\n{lines}\n]}}\n')
        pytest.fail(f"the requests of {now} are recorded in {record}: look at what is new there, and commit it")
    recorded = json.loads(record.read_text())
    assert sent == recorded["requests"], (
        f"{now} sends other requests than {recorded['library']} did, or FlagRelease does. Where that is meant: delete "
        f"{record}, and run this test once more, which records them"
    )
