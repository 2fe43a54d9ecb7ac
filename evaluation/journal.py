"""The answers so far, on disk: what a killed evaluation does not ask again (docs/decisions/0004-answers-journal.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Self

from flagrelease.errors import HarnessError


class Answer(NamedTuple):
    """What the server said to one request."""

    value: Any
    """Text, or what a harness reads from the response; JSON."""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None
    """Seconds from request to whole answer."""


class Journal:
    """Append-only file of answers, one JSON line each, by the hash of the request; a context manager.

    An answer is with the operating system before `add` returns, so killing the process loses none that was added.
    Raises HarnessError naming the line where the file was changed by others.
    """

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, Answer] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        data = self._file.read()
        # What follows the last line end was being written when the process was killed.
        whole = data.rfind(b"\n") + 1
        self._file.truncate(whole)
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                key, *answer = json.loads(line)
                self.answers[key] = Answer(*answer)
            except (ValueError, TypeError) as error:
                self._file.close()
                raise HarnessError(
                    f"{path}:{number}: not an answer that was kept here: {error}",
                    remedy=f"remove the file, and its questions are asked again: rm {path}",
                ) from error

    def __enter__(self) -> Self:
        """The journal."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer."""
        self._file.write(json.dumps([key, *answer]).encode() + b"\n")
        self._file.flush()
        self.answers[key] = answer
