"""`kill_in.py STAGE CELL`: runs `flagrelease release CELL` and kills the process with SIGKILL in that stage."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from evaluation.harness import lm_eval_models
from flagrelease import cli
from flagrelease.publish import folder
from flows import stages
from runtime.launch import process

KEPT_ANSWERS = 120


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_answers() -> None:
    add = lm_eval_models.Journal.add_partial

    def add_and_die(self: lm_eval_models.Journal, *arguments: Any) -> None:
        add(self, *arguments)
        if len(self.answers) == KEPT_ANSWERS:
            die()

    setattr(lm_eval_models.Journal, "add_partial", add_and_die)  # noqa: B010 - a patch, not an attribute of ours


def main() -> None:
    stage = sys.argv[1]
    if stage == "evaluate":
        die_after_answers()
    else:
        where, name = {
            "build": (stages, "model_path"),
            "serve": (process, "_answers"),
            "decide": (stages, "decide_by_gate"),
            "card": (stages, "render"),
            "publish": (folder, "_swap"),
        }[stage]
        assert hasattr(where, name)
        setattr(where, name, die)
    sys.argv = ["flagrelease", "release", sys.argv[2]]
    cli.main()


if __name__ == "__main__":
    main()
