"""Processes that belong to a test, found by a variable of their environment, which their children inherit."""

from __future__ import annotations

import contextlib

import psutil

from tests.waiting import wait_for


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """Running processes with this variable in their environment, orphans and those in other sessions among them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value:
                found.append(process)
    return found


def end_all_with(variable: str, value: str) -> None:
    """Kill all of them, and return when none is left: one may start another while it is looked for."""

    def none_left() -> bool:
        found = processes_with(variable, value)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not found

    wait_for(f"the end of all processes with {variable}={value}", none_left, 30)
