"""What a stand-in hub keeps: a bare git repository for each of its repositories, and a folder of large files."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

POINTER = re.compile(rb"\Aversion https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n\Z")
IDENTITY = {f"GIT_{who}_{what}": "hub" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@dataclass(frozen=True)
class Blob:
    """A file at a commit."""

    path: str
    oid: str
    content: bytes
    """As git has it: of a large file its pointer."""

    @property
    def large(self) -> tuple[str, int] | None:
        """Hash and size of the large file that this points to."""
        found = POINTER.match(self.content)
        return (found.group(1).decode(), int(found.group(2))) if found else None


class GitStore:
    """Repositories by name (`organisation/name`)."""

    def __init__(self, root: Path, branch: str) -> None:
        self.root, self.branch = root, branch
        self.lock = threading.RLock()
        self.visibility: dict[str, str] = {}
        self._large: dict[str, bytes] = {}
        self._blobs: dict[str, bytes] = {}
        self._trees: dict[str, list[Blob]] = {}

    def names(self) -> list[str]:
        return sorted(self.visibility)

    def create(self, name: str, visibility: str, files: Mapping[str, bytes]) -> None:
        self._git(name, "init", "--bare", "--quiet", f"--initial-branch={self.branch}", str(self._folder(name)))
        self.visibility[name] = visibility
        self.commit(name, files, (), "initial commit")

    def commit(
        self,
        name: str,
        files: Mapping[str, bytes],
        removed: Iterable[str],
        title: str,
        *,
        to: str | None = None,
        base: str | None = None,
    ) -> str:
        """Commit onto a reference (by default the branch), from `base` or what the reference names."""
        with self.lock:
            reference = to or f"refs/heads/{self.branch}"
            parent = base or self.resolve(name, reference)
            index = {"GIT_INDEX_FILE": str(self._folder(name) / f"index-{threading.get_ident()}")}
            self._git(name, "read-tree", *([parent] if parent else ["--empty"]), env=index)
            lines = [f"0 {'0' * 40}\t{path}\n" for path in removed]
            for path, content in files.items():
                oid = self._git(name, "hash-object", "-w", "--stdin", data=content).decode().strip()
                lines.append(f"100644 {oid}\t{path}\n")
            self._git(name, "update-index", "--index-info", data="".join(lines).encode(), env=index)
            tree = self._git(name, "write-tree", env=index).decode().strip()
            parents = ["-p", parent] if parent else []
            commit = self._git(name, "commit-tree", tree, *parents, "-m", title).decode().strip()
            self._git(name, "update-ref", reference, commit)
            return commit

    def resolve(self, name: str, revision: str) -> str | None:
        """The commit of a branch, tag, reference or commit."""
        try:
            found = self._git(name, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except subprocess.CalledProcessError:
            return None
        return found.decode().strip()

    def blobs(self, name: str, commit: str) -> list[Blob]:
        if commit not in self._trees:
            self._trees[commit] = self._tree(name, commit)
        return self._trees[commit]

    def _tree(self, name: str, commit: str) -> list[Blob]:
        lines = self._git(name, "ls-tree", "-r", "-z", commit).decode().split("\0")
        found = []
        for line in filter(None, lines):
            head, path = line.split("\t", 1)
            oid = head.split()[2]
            if oid not in self._blobs:
                self._blobs[oid] = self._git(name, "cat-file", "blob", oid)
            found.append(Blob(path, oid, self._blobs[oid]))
        return found

    def files(self, name: str, revision: str | None = None) -> dict[str, bytes]:
        """What somebody downloads, without what the hub added."""
        commit = self.resolve(name, revision or self.branch)
        assert commit, f"{name} has no {revision}"
        found = {blob.path: self.download(blob) for blob in self.blobs(name, commit)}
        return {path: content for path, content in found.items() if path != ".gitattributes"}

    def download(self, blob: Blob) -> bytes:
        return self._large[blob.large[0]] if blob.large else blob.content

    def titles(self, name: str) -> list[str]:
        """Titles of the commits on the branch, newest first."""
        return self._git(name, "log", "--first-parent", "--format=%s", self.branch).decode().splitlines()

    def tags(self, name: str) -> dict[str, str]:
        lines = self._git(name, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags").decode()
        return dict(line.split(" ", 1) for line in lines.splitlines())

    def set_reference(self, name: str, reference: str, commit: str) -> None:
        self._git(name, "update-ref", reference, commit)

    def everything(self, name: str) -> bytes:
        """All that was ever stored, reachable or not: files, trees, commits, large files."""
        objects = self._git(name, "cat-file", "--batch", "--batch-all-objects")
        return b"\n".join([objects, *self._large.values()])

    def remove_tag(self, name: str, tag: str) -> None:
        self._git(name, "update-ref", "-d", f"refs/tags/{tag}")

    # Large files

    def has_large(self, oid: str) -> bool:
        return oid in self._large

    def keep_large(self, oid: str, content: bytes) -> bool:
        """Store a large file; false: it is not what its hash says."""
        if hashlib.sha256(content).hexdigest() != oid:
            return False
        self._large[oid] = content
        return True

    def _folder(self, name: str) -> Path:
        return self.root / f"{name}.git"

    def _git(self, name: str, *arguments: str, data: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        where = ["-C", str(self._folder(name))] if self._folder(name).exists() else []
        return subprocess.run(
            ["git", *where, *arguments],
            input=data,
            capture_output=True,
            check=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self.root)} | IDENTITY | dict(env or {}),
        ).stdout


def pointer(oid: str, size: int) -> bytes:
    """The content that git has of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
