"""One thing that a host has or lacks, and what cannot be done without it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from flagrelease.errors import FlagReleaseError

Task = Literal["build images", "push images", "serve in containers", "serve as processes", "evaluate"]
TASKS: tuple[Task, ...] = ("build images", "push images", "serve in containers", "serve as processes", "evaluate")


class Finding(NamedTuple):
    """What was looked for, and what was found."""

    name: str
    ok: bool
    found: str
    """What is there, or what is wrong."""
    remedy: str
    """How to get what is missing."""
    needed_for: tuple[Task, ...]
    """What cannot be done without it; empty: it is of use, and nothing needs it."""


def has(name: str, found: str, *needed_for: Task) -> Finding:
    """Something that is there."""
    return Finding(name, ok=True, found=found, remedy="", needed_for=needed_for)


def lacks(name: str, found: str, remedy: str, *needed_for: Task) -> Finding:
    """Something that is missing."""
    return Finding(name, ok=False, found=found, remedy=remedy, needed_for=needed_for)


def lacks_as(name: str, problem: FlagReleaseError, *needed_for: Task) -> Finding:
    """Something that is missing, as an error says it."""
    return lacks(name, problem.message, problem.remedy, *needed_for)


def can(findings: Iterable[Finding]) -> dict[Task, bool]:
    """What can be done: each task whose needs are all there."""
    blocked = {task for each in findings if not each.ok for task in each.needed_for}
    return {task: task not in blocked for task in TASKS}


def disk(name: str, folder: Path, needed_gib: float, *needed_for: Task) -> Finding:
    """Space where `folder` is, or will be."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free_gib = shutil.disk_usage(there).free / 2**30
    found = f"{free_gib:.0f} GiB free in {folder}"
    if free_gib >= needed_gib:
        return has(name, found, *needed_for)
    return lacks(name, f"{found}, {needed_gib:.0f} are needed", "free some, or use another folder", *needed_for)
