"""What lies in a hub's repository: whether it holds given files, and whether it is FlagRelease's to replace."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence

import yaml

from flagrelease.publication_policy import Visibility
from flagrelease.publish.hub_calls import Caller
from flagrelease.publish.hub_client import HubClient, RemoteState
from flagrelease.publish.interface import MANIFEST, stated
from flagrelease.records import PublishedFile, digest

CARD = "README.md"


class Reader:
    """Reads the repository `target`; what a state holds is asked once."""

    def __init__(self, client: HubClient, call: Caller, target: str) -> None:
        self.target = target
        self._client, self._call = client, call
        self._hashes: dict[tuple[str, str], str] = {}

    def state(self, tag: str | None = None) -> RemoteState | None:
        """What the default branch, or a tag, holds now; None: there is no such repository, or tag."""
        return self._call.read(f"read {self.target}", lambda: self._client.state(self.target, tag))

    def visibility(self) -> Visibility | None:
        """Who may see the repository, asked now; None: the hub does not say."""
        return self._call.read(f"read {self.target}", lambda: self._client.visibility(self.target))

    def proposed(self, mark: str) -> tuple[str, RemoteState] | None:
        """Address and content of the open pull request with this mark."""
        return self._call.read(f"read {self.target}", lambda: self._client.proposed(self.target, mark))

    def content(self, state: RemoteState, path: str) -> bytes:
        """A file, downloaded."""
        return self._call.read(f"read {path}", lambda: self._client.content(self.target, path, state))

    def sha256(self, state: RemoteState, path: str) -> str:
        """Hash of a file: as the hub states it, else of the bytes."""
        listed = state.files[path].sha256
        if listed is not None:
            return listed
        if (state.head, path) not in self._hashes:
            self._hashes[state.head, path] = sha256(self.content(state, path))
        return self._hashes[state.head, path]

    def holds(self, state: RemoteState, files: Mapping[str, bytes]) -> bool:
        """Whether every file is there as it should be; sizes first, as they cost nothing."""
        sizes = {path: state.files[path].size for path in files if path in state.files}
        return all(path in sizes and sizes[path] in (None, len(content)) for path, content in files.items()) and all(
            self.sha256(state, path) == sha256(content) for path, content in files.items()
        )

    def differing(self, state: RemoteState, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Those of the files that are not there as they should be."""
        return {
            path: content
            for path, content in files.items()
            if path not in state.files or self.sha256(state, path) != sha256(content)
        }

    def stated(self, state: RemoteState) -> list[PublishedFile] | None:
        """What the manifest there says that FlagRelease published; None: no manifest of ours."""
        return stated(self.content(state, MANIFEST)) if MANIFEST in state.files else None

    def edited(self, state: RemoteState, files: Sequence[PublishedFile]) -> list[str]:
        """Files that are not as a manifest says."""
        return [
            file.path for file in files if file.path not in state.files or self.sha256(state, file.path) != file.sha256
        ]

    def foreign(
        self, state: RemoteState, files: Mapping[str, bytes], release: int, taken_back: Collection[str] = ()
    ) -> str | None:
        """Why `files` of a release must not go over a state, in words; None: what they replace is ours, and older.

        `taken_back`: revisions of newer releases that may be replaced.
        """
        published = self.stated(state)
        owned = set() if published is None else {MANIFEST, *(file.path for file in published)}
        at_stake = {path: content for path, content in files.items() if path in state.files and path not in owned}
        if strange := sorted(self.differing(state, at_stake)):
            return f"FlagRelease did not publish what it holds: {', '.join(strange)}"
        if edited := self.edited(state, published or []):
            return f"somebody changed it since FlagRelease published it: {', '.join(edited)}"
        there = release_of(self.content(state, CARD)) if published and CARD in state.files else None
        revision = digest([file.model_dump() for file in published or ()])
        if there is not None and there > release and revision not in taken_back:
            return f"it holds the newer release {there}"
        tagged = self.state(tag_of(release))
        if tagged is not None and not self.holds(tagged, files):
            return f"its tag {tag_of(release)} says that release {release} was published there with other content"
        return None


def tag_of(release: int) -> str:
    """The tag of a release that was read back."""
    return f"v{release}"


def release_of(card: bytes) -> int | None:
    """The release that a card's front matter names, in its block `flagrelease`."""
    block = front_matter(card).get("flagrelease")
    release = block.get("release") if isinstance(block, dict) else None
    return release if isinstance(release, int) and not isinstance(release, bool) and release > 0 else None


def front_matter(card: bytes) -> dict[str, object]:
    """The YAML at the head of a card; empty where there is none that can be read."""
    found = re.match(rb"\A---\r?\n(.*?)^---\s*$", card, re.DOTALL | re.MULTILINE)
    try:
        data = yaml.safe_load(found.group(1)) if found else None
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def sha256(content: bytes) -> str:
    """Hash of a file."""
    return hashlib.sha256(content).hexdigest()
