"""Who started a server, so that a later process can tell whether that one is gone (numbers are used again)."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

_STATE, _START_TIME = 0, 19
"""Places in /proc/PID/stat behind the process's name."""


class Owner(NamedTuple):
    """A process of a host, as no other process is."""

    host: str
    boot: str
    namespace: str
    """Of process numbers: a container has one of its own."""
    pid: int
    started: int
    """Clock ticks after boot. Not the time of day: clocks are set."""

    def gone(self) -> bool:
        """Whether it has surely ended; false as well where it cannot be seen from here."""
        here = this_process()
        if self.host != here.host:
            return False
        if self.boot != here.boot:
            return True
        return self.namespace == here.namespace and start_time(self.pid) != self.started


def this_process() -> Owner:
    """This process."""
    started = start_time(os.getpid())
    return Owner(
        host=socket.gethostname(),
        boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        namespace=str(Path("/proc/self/ns/pid").readlink()),
        pid=os.getpid(),
        started=started or 0,
    )


def start_time(pid: int) -> int | None:
    """Clock ticks after boot when the process began; none where it does not run (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[_STATE] == "Z" else int(fields[_START_TIME])
