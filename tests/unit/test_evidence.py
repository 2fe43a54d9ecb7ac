"""Evidence is known by its hash, whatever happens to the folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flagrelease.errors import EvidenceError
from flagrelease.evidence import EvidenceFolder


@pytest.mark.parametrize("url", ["{tmp}/evidence", "file://{tmp}/evidence", "memory://evidence"])
def test_what_is_put_comes_back(tmp_path: Path, url: str) -> None:
    folder = EvidenceFolder(url.format(tmp=tmp_path))
    kept = folder.put("items", "items.jsonl", b"data")
    assert kept.sha256 == hashlib.sha256(b"data").hexdigest()
    assert folder.put("items", "again", b"data").sha256 == kept.sha256
    assert folder.read(kept.sha256) == b"data"


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    folder = EvidenceFolder(str(tmp_path))
    kept = folder.put("items", "items.jsonl", b"data")
    Path(folder.path(kept.sha256)).write_bytes(b"date")
    with pytest.raises(EvidenceError, match="was changed"):
        folder.read(kept.sha256)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="missing"):
        EvidenceFolder(str(tmp_path)).read("0" * 64)


def test_a_place_that_cannot_be_written_is_an_error_with_its_cause(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvidenceError, match="cannot write evidence"):
        EvidenceFolder(str(tmp_path / "file" / "evidence")).put("k", "n", b"x")
