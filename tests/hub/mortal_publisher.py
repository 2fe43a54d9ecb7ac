"""Publishes to a stand-in hub, each time in a process of its own that a test may kill.

Run as a program it takes an order a line on standard input, forks, and says the process' id, then how it ended: the
libraries are imported once, so that a process is there in milliseconds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TextIO

from flagrelease.errors import PublishError
from tests.hub.hosts import TARGET, Host, files, hub_of
from tests.hub.stand_in_hub import Answer, Request, StandInHub

DONE, REFUSED = 0, PublishError.exit_code


@dataclass(frozen=True, kw_only=True)
class Order:
    """One publication."""

    kind: str
    endpoint: str
    folder: str
    """The host's: what it notes, and what it says (`said.txt`), lies here."""
    release: int
    pull_requests: bool = False


@dataclass
class Killer:
    """Lets a hub kill whoever sends the n-th request from now, before it is done or after; it is never answered."""

    hub: StandInHub
    request: int
    after: bool
    only: str = ""
    """What the path of a request that counts has in it."""
    killed: str = ""
    """The request that was the last."""

    def __post_init__(self) -> None:
        self.processes: SimpleQueue[int] = SimpleQueue()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the block runs."""
        serve = self.hub.serve

        def until_killed(request: Request) -> Answer | None:
            self.request -= self.only in request.path
            if self.request or self.only not in request.path:
                return serve(request)
            if self.after:
                serve(request)
            else:
                self.hub.requests.append(f"{request.method} {request.path}")
            self.killed = f"{request.method} {request.path}"
            self._kill(self.processes.get())
            return None

        self.hub.serve = until_killed  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.hub.serve

    def _kill(self, process: int) -> None:
        """The process is gone when this returns: it must not see that the connection breaks."""
        there = os.pidfd_open(process)
        os.kill(process, signal.SIGKILL)
        select.select([there], [], [])
        os.close(there)


class MortalPublisher:
    """The program, seen from a test."""

    def __init__(self, orders: IO[str], answers: IO[str]) -> None:
        self._orders, self._answers = orders, answers

    def publish(self, order: Order, killer: Killer | None = None) -> int:
        """Publish, in a process that the hub's `killer` may kill; how it ended, as `subprocess` says it."""
        with killer.waiting() if killer else nullcontext():
            print(json.dumps(asdict(order)), file=self._orders, flush=True)
            process = int(self._answers.readline())
            if killer:
                killer.processes.put(process)
            return int(self._answers.readline())


@contextmanager
def mortal_publisher(home: Path) -> Iterator[MortalPublisher]:
    """The program, running; the libraries write into `home`."""
    env = os.environ | {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    program = subprocess.Popen(
        [sys.executable, "-m", __name__], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert program.stdin
    assert program.stdout
    try:
        yield MortalPublisher(program.stdin, program.stdout)
    finally:
        program.stdin.close()
        program.wait(30)
        program.stdout.close()


def _published(order: Order, said: TextIO) -> int:
    # Not running: it only carries the address.
    hub = hub_of(order.kind, Path(order.folder) / f"hub-{os.getpid()}")
    hub.endpoint = order.endpoint
    host = Host(hub, order.kind, Path(order.folder))
    try:
        host.publisher(pull_requests=order.pull_requests).publish(files(order.release), TARGET)
    except PublishError as error:
        print(f"{error.message}\n{error.remedy}", file=said)
        return REFUSED
    finally:
        print("\n".join(host.log), file=said)
    return DONE


def main() -> None:
    """Serve orders until there are no more."""
    import httpcore2  # noqa: F401
    import huggingface_hub.hf_api  # noqa: F401
    import modelscope_hub._legacy_api  # noqa: F401

    for line in sys.stdin:
        order = Order(**json.loads(line))
        process = os.fork()
        if process == 0:
            code = 1
            with (Path(order.folder) / "said.txt").open("w") as said:
                try:
                    code = _published(order, said)
                finally:
                    said.close()
                    os._exit(code)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
