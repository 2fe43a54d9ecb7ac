from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from flagrelease.errors import OutputError, PreflightError, is_transient
from flagrelease.publish.folder import FolderPublisher
from flagrelease.publish.hub_calls import LONGEST_WAIT_S, LONGEST_WAITS_S, Caller, HubUnavailableError
from flagrelease.publish.hub_client import ThrottledError, UnansweredError, asked_wait
from flagrelease.publish.hub_reading import release_of
from flagrelease.publish.huggingface import HuggingFaceClient
from flagrelease.publish.interface import MANIFEST, manifest_json, revision, stated
from flagrelease.publish.ledger import Attempt, Ledger
from flagrelease.publish.modelscope import ModelScopeClient

TARGET = "FlagRelease/Qwen3-8B-metax-FlagOS"


class Hub:
    """Fails as it is told to, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.log: list[str] = []
        self.pauses: list[float] = []
        self.call = Caller("hub", self.log.append, self.pauses.append)

    def __call__(self) -> str:
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    def change(self) -> None:
        self()


def test_reads_are_tried_again_with_longer_pauses() -> None:
    hub = Hub(UnansweredError("the hub answered 502"), ThrottledError(None), ThrottledError(30))
    assert hub.call.read("read it", hub) == "answer"
    assert hub.pauses == [1, 2, 31]
    assert hub.log == [
        "hub: the hub answered 502; trying to read it again in 1 s",
        "hub: too many requests, the hub does not say for how long; going on in 2 s",
        "hub: too many requests, the hub asks to wait 30 s; going on in 31 s",
    ]


def test_reads_end() -> None:
    hub = Hub(*[UnansweredError("the connection broke")] * 9)
    with pytest.raises(HubUnavailableError, match="cannot read it at hub: the connection broke, 5 times") as raised:
        hub.call.read("read it", hub)
    assert is_transient(raised.value)
    assert len(hub.failures) == 4


def test_changes_are_sent_once() -> None:
    for failure, tried in ((UnansweredError("the connection broke"), True), (ThrottledError(2), False)):
        hub = Hub(failure)
        assert hub.call.write(hub.change) is tried
        assert len(hub.log) == 1


def test_waits_are_bounded() -> None:
    with pytest.raises(HubUnavailableError, match="asks to wait for 3601 s"):
        Hub().call.wait(ThrottledError(3600))
    hub = Hub()
    often = [ThrottledError(LONGEST_WAIT_S - 1)] * int(LONGEST_WAITS_S // LONGEST_WAIT_S)
    for error in often:
        hub.call.wait(error)
    with pytest.raises(HubUnavailableError):
        hub.call.wait(ThrottledError(1))
    assert sum(hub.pauses) == LONGEST_WAITS_S


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "soon"}, None),
        ({"ratelimit": '"api";r=0;t=3', "retry-after": "60"}, 3),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_what_a_hub_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers) == seconds


def test_a_wait_until_a_date() -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    seconds = asked_wait({"retry-after": until})
    assert seconds is not None
    assert 500 < seconds <= 600


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("---\nflagrelease: {release: 12}\n---\n# x\n", 12),
        ("---\r\nflagrelease:\r\n  release: 3\r\n---\r\n", 3),
        ("# no front matter\n---\nflagrelease: {release: 12}\n---\n", None),
        ("---\nflagrelease: {release: '12'}\n---\n", None),
        ("---\nflagrelease: {release: true}\n---\n", None),
        ("---\nflagrelease: 12\n---\n", None),
        ("---\n- a\n---\n", None),
        ("---\n: : :\n---\n", None),
        ("", None),
    ],
)
def test_the_release_of_a_card(text: str, release: int | None) -> None:
    assert release_of(text.encode()) == release


def test_a_manifest_that_was_changed_states_nothing(tmp_path: Path) -> None:
    publication = FolderPublisher(tmp_path).publish({"README.md": b"# x\n"}, TARGET)
    content = manifest_json(publication)
    assert stated(content) == publication.files
    assert content == (tmp_path / TARGET / MANIFEST).read_bytes()
    data = json.loads(content)
    data["files"][0]["sha256"] = "0" * 64
    for other in (json.dumps(data).encode(), b"", b"[]", b"{}", b"null", b"\xff", b'{"files": 1, "revision": 2}'):
        assert stated(other) is None


def test_the_ledger_keeps_an_open_attempt(tmp_path: Path) -> None:
    attempt = Attempt(manifest="a" * 64, base="b" * 40)
    with Ledger(tmp_path / "work").opened("huggingface", TARGET) as entry:
        assert entry.read() is None
        entry.begin(attempt)
    with Ledger(tmp_path / "work").opened("huggingface", TARGET) as entry:
        assert entry.read() == attempt
    with Ledger(tmp_path / "work").opened("modelscope", TARGET) as entry:
        assert entry.read() is None
    with Ledger(tmp_path / "work").opened("huggingface", TARGET) as entry:
        entry.end()
        entry.end()
        assert entry.read() is None


def test_a_broken_entry_is_none(tmp_path: Path) -> None:
    with Ledger(tmp_path).opened("huggingface", TARGET) as entry:
        for content in (b"", b"{", b"[]", b'{"manifest": "a"}', b'{"manifest": "a", "base": "b", "more": 1}'):
            (tmp_path / "huggingface--FlagRelease--Qwen3-8B-metax-FlagOS.json").write_bytes(content)
            assert entry.read() is None


def test_a_ledger_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot note"), Ledger(tmp_path / "file" / "x").opened("hub", TARGET):
        pass


def test_a_dry_run_of_a_folder(tmp_path: Path) -> None:
    publisher = FolderPublisher(tmp_path)
    old = {"README.md": b"# old\nsame\n", "evidence/old.json": b"{}", "picture.png": b"\xff\x00"}
    new = {"README.md": b"# new\nsame\n", "evidence/new.json": b"{}", "picture.png": b"\xff\x01"}
    first = publisher.plan(old, TARGET)
    assert (first.added, first.there) == (tuple(sorted(old)), None)
    assert list(tmp_path.iterdir()) == []
    publisher.publish(old, TARGET)
    assert publisher.plan(old, TARGET).nothing_to_do
    plan = publisher.plan(new, TARGET)
    assert list(plan.lines()) == ["+ evidence/new.json", "~ README.md", "~ picture.png", "- evidence/old.json"]
    assert "-# old\n+# new\n same\n" in plan.differences
    assert "picture.png: 2 bytes there, 2 to be published\n" in plan.differences
    assert (plan.there, plan.revision, plan.refusal) == (revision(old), revision(new), None)
    (tmp_path / TARGET / MANIFEST).unlink()
    assert "not a publication" in str(publisher.plan(new, TARGET).refusal)


def test_a_missing_library_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for client, package in ((HuggingFaceClient, "huggingface-hub"), (ModelScopeClient, "modelscope-hub")):
        with pytest.raises(PreflightError, match=package) as raised:
            client()
        assert "flagrelease[hubs]" in raised.value.remedy


def test_the_libraries_of_hubs_are_imported_when_they_are_used() -> None:
    code = (
        "import sys\n"
        "from flagrelease.publish import folder, hub, huggingface, modelscope\n"
        "huggingface.HuggingFaceClient(), modelscope.ModelScopeClient()\n"
        "print([name for name in ('huggingface_hub', 'modelscope_hub', 'requests', 'httpx2') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
