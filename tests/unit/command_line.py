"""The command line in this process, and processes at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest

from flagrelease import cli


class Run:
    """The command line in this process: its exit code and what it wrote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, *argv: object) -> int:
        self._monkeypatch.setattr(sys, "argv", ["flagrelease", *map(str, argv)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)


def failures_at_once(times: int, work: Callable[[], object]) -> list[Exception]:
    """What went wrong while so many threads did the same at once."""
    failures = []

    def do() -> None:
        try:
            work()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=do) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures
