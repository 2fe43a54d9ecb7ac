"""What a place to publish to must do, and how a publication is told from another: by its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

from flagrelease.records import Publication, PublishedFile, digest


class Publisher(Protocol):
    """A place where releases are published: a folder, a hub."""

    name: str

    def publish(self, files: Mapping[str, bytes], target: str) -> Publication:
        """Make `target` (organisation/name) hold exactly `files` (path → content), and read that back.

        Nothing is written if it holds them already. PublishError: refused, or read back differently;
        OutputError: it cannot be written.
        """
        ...

    def current(self, target: str) -> Publication | None:
        """What is published at `target` now, read from there; None if nothing is.

        PublishError: what is there is not what was published.
        """
        ...


def manifest(files: Mapping[str, bytes]) -> list[PublishedFile]:
    """Path, hash and size of each file, in the order of their paths."""
    return [
        PublishedFile(path=path, sha256=hashlib.sha256(files[path]).hexdigest(), size=len(files[path]))
        for path in sorted(files)
    ]


def revision(files: Mapping[str, bytes]) -> str:
    """Hash of the manifest: equal files give equal revisions everywhere."""
    return digest([file.model_dump() for file in manifest(files)])
