"""What servers showed so far, on disk: a bisect that was killed starts none of them again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from flagrelease.bisect.records import Measured
from flagrelease.errors import BisectError
from flagrelease.records import digest

Trial = tuple[frozenset[str], int]
"""Operators that did not run, and which run without just them it was, from 0."""


class Journal:
    """Append-only file, one JSON line a server start; its first line says which bisect it is. A context manager.

    A measurement is on the disk before `add` returns. Raises BisectError where the file is of another bisect (`about`
    is all that decides what a server shows), or was changed by others.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.measured: dict[Trial, Measured] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            self._read(path, about)
        except BaseException:
            self._file.close()
            raise

    def _read(self, path: Path, about: Mapping[str, Any]) -> None:
        self._file.seek(0)
        data = self._file.read()
        # What follows the last line end was being written when the process was killed.
        whole = data.rfind(b"\n") + 1
        self._file.truncate(whole)
        lines, key = data[:whole].splitlines(), digest(about)
        if not lines:
            self._write({"bisect": key, "about": about})
            return
        other = f"remove it to begin anew: rm {path}"
        try:
            if json.loads(lines[0])["bisect"] != key:
                raise BisectError(
                    f"{path} belongs to another bisect: the release, the operators or the host's versions have changed",
                    remedy=other,
                )
            for line in lines[1:]:
                entry = json.loads(line)
                trial = (frozenset(entry["removed"]), int(entry["run"]))
                self.measured[trial] = Measured.model_validate(entry["measured"])
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise BisectError(f"{path} holds what no bisect wrote: {error}", remedy=other) from error

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        """The journal."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def add(self, trial: Trial, measured: Measured) -> None:
        """Keep what a server showed."""
        removed, run = trial
        self._write({"removed": sorted(removed), "run": run, "measured": json.loads(measured.model_dump_json())})
        self.measured[trial] = measured
