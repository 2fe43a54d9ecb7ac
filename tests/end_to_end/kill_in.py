"""`kill_in.py STAGE CELL`: runs `flagrelease release CELL` and kills the process with SIGKILL in that stage."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from evaluation import canary, journal
from flagrelease import cli
from flagrelease.publish import folder
from flows import serving, stages
from runtime.launch import readiness

KEPT_ANSWERS = 120


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_answers() -> None:
    add = journal.Journal.add

    def add_and_die(self: journal.Journal, *arguments: Any) -> None:
        add(self, *arguments)
        if len(self.answers) == KEPT_ANSWERS:
            die()

    setattr(journal.Journal, "add", add_and_die)  # noqa: B010 - a patch, not an attribute of ours


def main() -> None:
    stage = sys.argv[1]
    if stage == "evaluate":
        die_after_answers()
    else:
        where, name = {
            "build": (serving, "model_path"),
            "serve": (readiness, "_answers"),
            "canary": (canary, "read"),
            "decide": (stages, "decide_by_gate"),
            "card": (stages, "card_files"),
            "publish": (folder, "_swap"),
        }[stage]
        assert hasattr(where, name)
        setattr(where, name, die)
    sys.argv = ["flagrelease", "release", sys.argv[2]]
    cli.main()


if __name__ == "__main__":
    main()
