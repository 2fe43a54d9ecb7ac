"""Following a sweep: what is ready is submitted, what has ended is noted, until nothing is left to do.

Nothing here knows Prefect or a clock, so the same loop runs in tests with runs that are simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

from flows.scheduling import Schedule, Work


class Seen(NamedTuple):
    """The run of a work, as it stands."""

    state: Literal["waiting", "running", "ok", "failed"]
    seconds: float = 0.0
    """That it has run."""
    cause: str = ""
    """Why it failed."""


class Runs(Protocol):
    """Where works are run."""

    def seen(self) -> Mapping[str, Seen]:
        """The runs that there are, by work: of this sweep, and others that do the same."""

    def submit(self, work: Work) -> None:
        """Start a work where a host of its pool is free. Told again for the same work, it starts nothing."""


def follow(
    schedule: Schedule, runs: Runs, tell: Callable[[Mapping[str, Seen]], None], pause: Callable[[], None]
) -> None:
    """Bring all works of a schedule to their end; `tell` gets what each look found, `pause` waits for the next one.

    A sweep that was killed is followed by a new schedule: what its runs came to meanwhile is seen at the first look.
    """
    while True:
        seen = runs.seen()
        for work, run in seen.items():
            if work not in schedule:
                # What an interrupted sweep had finished is not to be done again.
                continue
            if run.state in ("ok", "failed"):
                schedule.finished(work, ok=run.state == "ok", cause=run.cause, seconds=run.seconds)
            else:
                schedule.started(work)
        for ready in schedule.ready():
            runs.submit(ready)
            schedule.started(ready.id)
        tell(seen)
        if schedule.done:
            return
        pause()
