"""The evidence folder: files known by the SHA-256 of their content, local or in object storage (fsspec)."""

from __future__ import annotations

import hashlib
import os
import uuid

import fsspec

from flagrelease.errors import EvidenceError
from flagrelease.records import Artefact


class EvidenceFolder:
    """Content-addressed files below an fsspec URL. A file is written once and never changed."""

    def __init__(self, url: str) -> None:
        try:
            self._fs, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise EvidenceError(
                f"cannot use the evidence folder {url}: {error}",
                remedy="set FLAGRELEASE_EVIDENCE to a folder or to s3://bucket/path "
                '(which needs: pip install "flagrelease[s3]")',
            ) from error

    def put(self, kind: str, name: str, data: bytes) -> Artefact:
        """Keep `data` and say under which hash."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        try:
            if not self._fs.exists(path):
                # Written aside and moved: a crash leaves no half file under a hash.
                self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
                aside = f"{path}.{uuid.uuid4().hex}"
                self._fs.pipe_file(aside, data)
                self._fs.mv(aside, path)
        except OSError as error:
            raise EvidenceError(
                f"cannot write evidence in {self._root}: {os.strerror(error.errno) if error.errno else error}",
                remedy="free space or set FLAGRELEASE_EVIDENCE to another place, then run the same command again",
            ) from error
        return Artefact(kind=kind, name=name, sha256=sha256, size=len(data))

    def read(self, sha256: str) -> bytes:
        """The file with this hash; raises EvidenceError where it is missing or was changed."""
        try:
            data: bytes = self._fs.cat_file(self.path(sha256))
        except FileNotFoundError as error:
            raise EvidenceError(
                f"evidence {sha256[:12]} is missing in {self._root}",
                remedy="set FLAGRELEASE_EVIDENCE to the folder that the release was made with, or restore it",
            ) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise EvidenceError(
                f"evidence {sha256[:12]} in {self._root} was changed: its hash is another one",
                remedy="restore the file; what it proves cannot be trusted until then",
            )
        return data

    def path(self, sha256: str) -> str:
        """Where the file with this hash lies."""
        return f"{self._root}/{sha256[:2]}/{sha256}"
