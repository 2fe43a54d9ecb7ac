"""Publishing to a local folder that looks like a hub's repository: for trying out, and for hosts without a hub."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flagrelease.errors import OutputError, PublishError
from flagrelease.publication_policy import Visibility
from flagrelease.publish.guards import check_files, check_target
from flagrelease.publish.interface import MANIFEST, Plan, make_plan, manifest, manifest_json, revision
from flagrelease.records import Publication

__all__ = ["MANIFEST", "FolderPublisher"]

_CAUSES = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EROFS: ("the file system is read-only", "choose another output folder"),
    errno.EACCES: ("access is not permitted", "change the folder's permissions or choose another output folder"),
    errno.EPERM: ("access is not permitted", "change the folder's permissions or choose another output folder"),
    errno.ENOTDIR: ("a part of the path is a file", "choose another output folder"),
    errno.EEXIST: ("a part of the path is a file", "choose another output folder"),
}


class FolderPublisher:
    """Publications as folders `<root>/<organisation>/<name>/`, each with a manifest.

    A publication is written beside its place and renamed into it. Between the two renames that this takes,
    the old one stands under another name, where `current` finds it and the next `publish` takes it back:
    whenever the process dies, the old publication or the new one is there, whole.
    """

    name = "folder"

    def __init__(self, root: Path) -> None:
        self.root = root

    def plan(self, files: Mapping[str, bytes], target: str, *, visibility: Visibility | None = None) -> Plan:  # noqa: ARG002 - hubs alone have it
        """What `publish` would change in the folder of `target`; edits there would be replaced."""
        check_files(files)
        folder = self._folder(target)
        with _explained("read", folder):
            there = _contents(folder)
        return make_plan(
            self.name,
            target,
            files,
            there=revision({path: there[path] for path in there if path != MANIFEST}) if there else None,
            hashes={file.path: file.sha256 for file in manifest(there)},
            owned=there.keys() - {MANIFEST},
            read=there.__getitem__,
            refusal=_not_ours(folder),
        )

    def publish(self, files: Mapping[str, bytes], target: str, *, visibility: Visibility | None = None) -> Publication:  # noqa: ARG002 - hubs alone have it
        """Make the folder of `target` hold exactly `files` and the manifest."""
        check_files(files)
        folder = self._folder(target)
        wanted = Publication(publisher=self.name, target=target, revision=revision(files), files=manifest(files))
        with _explained("publish to", folder), _locked(folder.parent):
            _clean_up(folder)
            if refusal := _not_ours(folder):
                raise refusal
            if self._holds(folder, wanted):
                return wanted
            new = _beside(folder, "new")
            try:
                _write(new, {**files, MANIFEST: manifest_json(wanted)})
                if not self._holds(new, wanted):
                    msg = f"what was written for {target} reads back differently"
                    raise PublishError(msg, remedy=f"check the disk that holds {self.root}, then publish again")
                _swap(new, folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        return wanted

    def current(self, target: str) -> Publication | None:
        """What the folder of `target` holds; PublishError if a file is not the one that was published."""
        place = self._folder(target)
        with _explained("read", place):
            folder = next((path for path in (place, _beside(place, "old")) if path.is_dir()), None)
            return None if folder is None else self._read(folder, target)

    def _folder(self, target: str) -> Path:
        check_target(target)
        return self.root / target

    def _holds(self, folder: Path, wanted: Publication) -> bool:
        """Whether a folder is the publication wanted, by the content of its files."""
        try:
            return folder.is_dir() and self._read(folder, wanted.target) == wanted
        except PublishError:
            return False

    def _read(self, folder: Path, target: str) -> Publication:
        """A publication by the content of its files, which must be what its manifest says."""
        files = _contents(folder)
        stated = files.pop(MANIFEST, b"")
        found = Publication(publisher=self.name, target=target, revision=revision(files), files=manifest(files))
        if stated != manifest_json(found):
            msg = f"{folder} was changed after it was published: {_difference(stated, found)}"
            raise PublishError(msg, remedy="publish again to replace it, or delete the folder")
        return found


def _contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; a link counts as an empty file, which no publication has in its place."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    return {path.relative_to(folder).as_posix(): b"" if path.is_symlink() else path.read_bytes() for path in paths}


def _not_ours(folder: Path) -> PublishError | None:
    """Why a folder must not be replaced: it is no publication."""
    if not folder.exists() or (folder / MANIFEST).exists():
        return None
    msg = f"{folder} is not a publication: it has no {MANIFEST}"
    return PublishError(msg, remedy="move it away, then publish again")


def _difference(stated: bytes, found: Publication) -> str:
    """Which files are not as the manifest states them, in words."""
    try:
        then = {file["path"]: file["sha256"] for file in json.loads(stated)["files"]}
    except (ValueError, TypeError, KeyError):
        return f"{MANIFEST} cannot be read"
    now = {file.path: file.sha256 for file in found.files}
    changed = sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path))
    return ", ".join(changed) or MANIFEST


def _beside(folder: Path, suffix: str) -> Path:
    """The folder's place while it is written (`new`) or was replaced (`old`); no target can have this name."""
    return folder.with_name(f".{folder.name}.{suffix}")


def _clean_up(folder: Path) -> None:
    """Undo what a crash left: take back a publication that was not yet replaced, drop the rest."""
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (new, old):
        if leftover.exists():
            shutil.rmtree(leftover)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """A new folder with files, all on the disk when this returns: a rename must not overtake them."""
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            _sync(path)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; if that fails, `folder` is what it was."""
    old = _beside(folder, "old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    _sync(folder.parent)
    # The new publication stands: whatever of the old one cannot be deleted goes with the next one.
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other publishers out: to them, what is being written here would be the leftovers of a crash."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _explained(action: str, folder: Path) -> Iterator[None]:
    """Turn an operating system's error into one that says what to do."""
    try:
        yield
    except OSError as error:
        cause, remedy = _CAUSES.get(error.errno or 0, (str(error.strerror or error), "check the output folder"))
        msg = f"cannot {action} {folder}: {cause}"
        raise OutputError(msg, remedy=f"{remedy} (FLAGRELEASE_OUTPUT), then try again") from error
