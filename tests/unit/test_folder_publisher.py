from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import OutputError, PublishError
from flagrelease.publish import folder as folder_module
from flagrelease.publish.folder import FolderPublisher
from flagrelease.publish.interface import Publisher, manifest, revision

TARGET = "FlagRelease/Qwen3-8B-metax-FlagOS"
OLD = {"README.md": b"# old\n", "evidence/items.jsonl": b"{}\n"}
NEW = {"README.md": b"# new\n", ".eval_results/flagrelease.yaml": b"[]\n"}


class Killed(BaseException):
    """Stands for the end of the process: no handler may run after it."""


@pytest.fixture
def publisher(tmp_path: Path) -> FolderPublisher:
    return FolderPublisher(tmp_path)


def _state(root: Path) -> dict[str, tuple[int, int]]:
    """Every entry with its modification time and inode."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in [root, *root.rglob("*")]}


def _entries(publisher: FolderPublisher) -> list[str]:
    return sorted(path.name for path in (publisher.root / "FlagRelease").iterdir())


def test_published_folder_looks_like_a_repository(publisher: FolderPublisher, tmp_path: Path) -> None:
    as_publisher: Publisher = publisher
    assert as_publisher.current(TARGET) is None
    publication = as_publisher.publish(OLD, TARGET)
    folder = tmp_path / TARGET
    assert {name: (folder / name).read_bytes() for name in OLD} == OLD
    stated = json.loads((folder / "manifest.json").read_text())
    assert stated["files"] == [file.model_dump() for file in manifest(OLD)]
    assert stated["revision"] == publication.revision == revision(OLD)
    assert (publication.publisher, publication.target) == ("folder", TARGET)
    assert [file.path for file in publication.files] == ["README.md", "evidence/items.jsonl"]
    assert as_publisher.current(TARGET) == publication
    assert _entries(publisher) == ["Qwen3-8B-metax-FlagOS"]


def test_second_publish_changes_nothing(publisher: FolderPublisher, tmp_path: Path) -> None:
    first = publisher.publish(OLD, TARGET)
    before = _state(tmp_path)
    assert publisher.publish(dict(reversed(OLD.items())), TARGET) == first
    assert _state(tmp_path) == before


def test_new_files_replace_all_old_ones(publisher: FolderPublisher, tmp_path: Path) -> None:
    publisher.publish(OLD, TARGET)
    publication = publisher.publish(NEW, TARGET)
    assert publisher.current(TARGET) == publication
    assert not (tmp_path / TARGET / "evidence").exists()
    assert _entries(publisher) == ["Qwen3-8B-metax-FlagOS"]


@pytest.mark.parametrize("failing", [1, 2])
def test_failed_rename_keeps_the_old_publication(
    publisher: FolderPublisher, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    old = publisher.publish(OLD, TARGET)
    rename, calls = os.rename, 0

    def fail_once(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "no space")
        rename(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail_once)
        with pytest.raises(OutputError, match="disk is full"):
            publisher.publish(NEW, TARGET)
    assert publisher.current(TARGET) == old
    assert _entries(publisher) == ["Qwen3-8B-metax-FlagOS"]


@pytest.mark.parametrize("survived", range(5))
def test_killed_at_any_rename_or_removal(
    publisher: FolderPublisher, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """The process dies at the given step: nothing after it happens, no clean-up either."""
    old = publisher.publish(OLD, TARGET)
    steps = 0

    def die(real: Any) -> Any:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > survived:
                raise Killed
            return real(*args, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", die(os.rename))
        patch.setattr(shutil, "rmtree", die(shutil.rmtree))
        try:
            publisher.publish(NEW, TARGET)
        except Killed:
            assert survived < 4
    found = publisher.current(TARGET)
    assert found is not None
    assert found.revision in ({old.revision} if survived < 2 else {revision(NEW)})

    assert publisher.publish(NEW, TARGET).revision == revision(NEW)
    assert _entries(publisher) == ["Qwen3-8B-metax-FlagOS"]


def test_killed_while_writing(publisher: FolderPublisher, tmp_path: Path) -> None:
    old = publisher.publish(OLD, TARGET)
    leftover = tmp_path / "FlagRelease" / ".Qwen3-8B-metax-FlagOS.new"
    leftover.mkdir()
    (leftover / "README.md").write_bytes(b"# ne")
    assert publisher.current(TARGET) == old
    assert publisher.publish(OLD, TARGET) == old
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "not permitted"), (errno.EIO, "I/O")],
)
def test_failed_write_leaves_nothing(
    publisher: FolderPublisher, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, "Input/output error I/O")

    old = publisher.publish(OLD, TARGET)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match=words) as raised:
            publisher.publish(NEW, TARGET)
    assert "try again" in raised.value.remedy
    assert publisher.current(TARGET) == old
    assert _entries(publisher) == ["Qwen3-8B-metax-FlagOS"]


def test_root_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    publisher = FolderPublisher(tmp_path / "file" / "output")
    assert publisher.current(TARGET) is None
    with pytest.raises(OutputError, match="a part of the path is a file"):
        publisher.publish(OLD, TARGET)


def test_what_reads_back_differently_is_not_published(
    publisher: FolderPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publisher.publish(OLD, TARGET)
    write = folder_module._write

    def corrupt(folder: Path, files: dict[str, bytes]) -> None:
        write(folder, {**files, "README.md": b"# now\n"})

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "_write", corrupt)
        with pytest.raises(PublishError, match="reads back differently"):
            publisher.publish(NEW, TARGET)
    assert publisher.current(TARGET) == old


@pytest.mark.parametrize("change", ["edit", "add", "remove", "link", "manifest"])
def test_changes_are_noticed_and_replaced(publisher: FolderPublisher, tmp_path: Path, change: str) -> None:
    publication = publisher.publish(OLD, TARGET)
    readme = tmp_path / TARGET / "README.md"
    match change:
        case "edit":
            readme.write_bytes(b"# OLD\n")
        case "add":
            (tmp_path / TARGET / "README.md.orig").write_bytes(b"")
        case "remove":
            readme.unlink()
        case "link":
            readme.rename(tmp_path / "elsewhere.md")
            readme.symlink_to(tmp_path / "elsewhere.md")
        case "manifest":
            (tmp_path / TARGET / "manifest.json").write_text("[]")
    with pytest.raises(PublishError, match="manifest.json" if change == "manifest" else r"README\.md"):
        publisher.current(TARGET)
    assert publisher.publish(OLD, TARGET) == publication
    assert publisher.current(TARGET) == publication


def test_a_folder_that_is_no_publication_is_left_alone(publisher: FolderPublisher, tmp_path: Path) -> None:
    own = tmp_path / TARGET / "thesis.txt"
    own.parent.mkdir(parents=True)
    own.write_text("years of work")
    with pytest.raises(PublishError, match="not a publication"):
        publisher.publish(OLD, TARGET)
    assert own.read_text() == "years of work"


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "../up.md", "a/../../up.md", "a\\b", "", "a//b", "a/", "./a", ".", ".git/config", "a/.env"),
        *("a\nb", "a\0b", "manifest.json", "manifest.json/a", "README.md/a"),
    ],
)
def test_unsafe_paths_are_refused(publisher: FolderPublisher, tmp_path: Path, path: str) -> None:
    with pytest.raises(PublishError):
        publisher.publish({"README.md": b"", path: b"x"}, TARGET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["", "name", "a/b/c", "../a", "a/..", "/a/b", "a/.b", "a/b\n", "a\\b/c"])
def test_unsafe_targets_are_refused(publisher: FolderPublisher, tmp_path: Path, target: str) -> None:
    with pytest.raises(PublishError):
        publisher.publish(OLD, target)
    with pytest.raises(PublishError):
        publisher.current(target)
    assert list(tmp_path.iterdir()) == []


def test_nothing_cannot_be_published(publisher: FolderPublisher) -> None:
    with pytest.raises(PublishError, match="no files"):
        publisher.publish({}, TARGET)
