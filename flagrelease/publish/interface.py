"""What a place to publish to must do, and how a publication is told from another: by its manifest."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from flagrelease.errors import PublishError
from flagrelease.publication_policy import Visibility
from flagrelease.records import Publication, PublishedFile, digest

MANIFEST = "manifest.json"
"""Lies beside the files of a publication, and says which they are: whoever reads it can tell a later edit."""

LONGEST_DIFFERENCE = 200_000
"""Bytes of a text above which a dry run names the file only."""


class Publisher(Protocol):
    """A place where releases are published: a folder, a hub."""

    name: str

    def plan(self, files: Mapping[str, bytes], target: str, *, visibility: Visibility | None = None) -> Plan:
        """What `publish` would do, and why it would refuse; nothing is written.

        PublishError: the files or the target may not be published at all.
        """
        ...

    def publish(self, files: Mapping[str, bytes], target: str, *, visibility: Visibility | None = None) -> Publication:
        """Make `target` (organisation/name) hold exactly `files` (path → content), and read that back.

        `visibility`: who may see the files; on a hub `private` goes into a private repository only, None asks nothing.

        Nothing is written if it holds them already. PublishError: refused, or read back differently;
        OutputError: it cannot be written.
        """
        ...

    def current(self, target: str) -> Publication | None:
        """What is published at `target` now, read from there; None if nothing is.

        PublishError: what is there is not what was published.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What publishing would change at a target."""

    publisher: str
    target: str
    revision: str
    """Hash of the manifest of what is to be published."""
    there: str | None
    """Name of the state that the target is in now, as `replace` wants it; None: there is nothing."""
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    differences: str = ""
    """What changes within texts, as a unified diff."""
    refusal: PublishError | None = None
    """Why `publish` would refuse; None: it would not."""

    @property
    def nothing_to_do(self) -> bool:
        """Whether the target holds the files already."""
        return not (self.added or self.changed or self.removed)

    def lines(self) -> Iterator[str]:
        """The plan for people: one line for each file that changes."""
        for sign, paths in (("+", self.added), ("~", self.changed), ("-", self.removed)):
            yield from (f"{sign} {path}" for path in paths)
        if self.nothing_to_do:
            yield f"{self.target} holds these files already ({self.publisher})"


def make_plan(
    publisher: str,
    target: str,
    files: Mapping[str, bytes],
    *,
    there: str | None,
    hashes: Mapping[str, str],
    owned: set[str],
    read: Callable[[str], bytes],
    refusal: PublishError | None,
) -> Plan:
    """Compare `files` with what a target holds.

    `hashes`: sha256 by path of what is there; `owned`: paths there that an earlier publication wrote, which go where
    they are not published again; `read`: the content of a path there.
    """
    wanted = {file.path: file.sha256 for file in manifest(files)}
    changed = tuple(path for path in wanted if path in hashes and hashes[path] != wanted[path])
    removed = tuple(sorted(path for path in owned & hashes.keys() if path not in wanted))
    return Plan(
        publisher=publisher,
        target=target,
        revision=revision({path: content for path, content in files.items() if path != MANIFEST}),
        there=there,
        added=tuple(path for path in wanted if path not in hashes),
        changed=changed,
        removed=removed,
        unchanged=tuple(path for path in wanted if hashes.get(path) == wanted[path]),
        differences="".join(_difference(path, read(path), files[path]) for path in changed if path != MANIFEST),
        refusal=refusal,
    )


def _difference(path: str, before: bytes, after: bytes) -> str:
    """A unified diff of two texts; of anything else one line."""
    try:
        old, new = before.decode().splitlines(keepends=True), after.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        old = new = []
    if not (old or new) or max(len(before), len(after)) > LONGEST_DIFFERENCE:
        return f"{path}: {len(before)} bytes there, {len(after)} to be published\n"
    lines = difflib.unified_diff(old, new, fromfile=f"there/{path}", tofile=f"new/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def manifest(files: Mapping[str, bytes]) -> list[PublishedFile]:
    """Path, hash and size of each file, in the order of their paths."""
    return [
        PublishedFile(path=path, sha256=hashlib.sha256(files[path]).hexdigest(), size=len(files[path]))
        for path in sorted(files)
    ]


def revision(files: Mapping[str, bytes]) -> str:
    """Hash of the manifest: equal files give equal revisions everywhere."""
    return digest([file.model_dump() for file in manifest(files)])


def manifest_json(publication: Publication) -> bytes:
    """The content of the file MANIFEST."""
    data = publication.model_dump(include={"revision", "files"})
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


def stated(content: bytes) -> list[PublishedFile] | None:
    """The files that a file MANIFEST states; None: it is not one of ours, or was changed."""
    try:
        data = json.loads(content)
        files = [PublishedFile.model_validate(file) for file in data["files"]]
        return files if data["revision"] == digest([file.model_dump() for file in files]) else None
    except (ValueError, TypeError, KeyError):
        return None
