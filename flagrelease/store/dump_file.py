"""The file of a dump: gzip of JSON Lines.

First a header: format, its version, schema revision, rows of each table. Then for each table a line with its name and
columns, and a line a row: an array of values in that order. Last the SHA-256 of all lines before, so that a cut or
changed file is noticed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from flagrelease.errors import StoreError, StoreVersionError
from flagrelease.store.database import revisions

FORMAT, FORMAT_VERSION = "flagrelease-store", 1
LONGEST_HEADER = 100_000
"""Bytes; a first line that is longer is not a header."""


class Contents(NamedTuple):
    """What a dump says of itself."""

    revision: str
    created: str
    """UTC, ISO 8601."""
    rows: dict[str, int]
    """By table, in the order of the file."""


@contextmanager
def writing(file: Path) -> Iterator[Callable[[Any], None]]:
    """Gives a function that writes a line as JSON, the header first; the checksum follows at the end."""
    digest = hashlib.sha256()
    # Level 3 takes half the time of 6 and gives files a tenth larger.
    with file.open("wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=3, mtime=0) as packed:

            def write(value: Any) -> None:
                line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                digest.update(line)
                packed.write(line)

            yield write
            packed.write(_trailer(digest.hexdigest()))
        raw.flush()
        os.fsync(raw.fileno())


def verify(file: Path) -> Contents:
    """Read all of a dump: it is whole, unchanged, and of a format and schema known here.

    Raises StoreError or StoreVersionError.
    """
    lines = _lines(file)
    first = next(lines)
    # Only what is known to be whole is believed, the schema in the first line included.
    for _ in lines:
        pass
    return _contents(file, first)


def read(file: Path) -> Iterator[Any]:
    """The lines between header and checksum; raises StoreError where the file is not whole."""
    return (json.loads(line) for line in islice(_lines(file), 1, None))


def _lines(file: Path) -> Iterator[bytes]:
    """The lines before the checksum; raises StoreError where the file is not whole."""
    digest = hashlib.sha256()
    line = b""
    try:
        with gzip.open(file) as packed:
            line = packed.readline(LONGEST_HEADER)
            require(line.startswith(b'{"format":'), file, "it is no dump of a FlagRelease store")
            for following in packed:
                digest.update(line)
                yield line
                line = following
    except FileNotFoundError as error:
        raise StoreError(f"there is no file {file}", remedy="name a file that flagrelease db dump wrote") from error
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(file, f"{error}") from error
    require(line == _trailer(digest.hexdigest()), file, "its end is missing, or it was changed")


def _trailer(sha256: str) -> bytes:
    return json.dumps({"sha256": sha256}).encode() + b"\n"


def _contents(file: Path, line: bytes) -> Contents:
    header = json.loads(line)
    require(header["format"] == FORMAT, file, "it is no dump of a FlagRelease store")
    version, contents = header["format_version"], Contents(*(header[name] for name in Contents._fields))
    if version > FORMAT_VERSION or contents.revision not in revisions():
        raise StoreVersionError(
            f"{file} was written by a newer FlagRelease (format {version}, schema {contents.revision}; "
            f"this one knows up to {FORMAT_VERSION} and {revisions()[-1]})",
            remedy="upgrade FlagRelease, then restore",
        )
    return contents


def require(sound: bool, file: Path, cause: str) -> None:
    """Raise StoreError with the cause unless the file is sound."""
    if not sound:
        raise _unreadable(file, cause)


def _unreadable(file: Path, cause: str) -> StoreError:
    return StoreError(
        f"{file} cannot be restored: {cause}",
        remedy="nothing was changed; take another copy of the file, or dump the store again",
    )
