"""The parts of a measurement: each has its time, and says what came of it or why nothing did."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

LEAST_S = 5.0
"""With less than this left, a part is not begun."""


class NotDoneError(Exception):
    """Why a part, or the rest of it, was not done."""


@dataclass
class Part:
    """One part of the measurement."""

    name: str
    budget_s: float
    seconds: float = 0.0
    done: bool = False
    why_not: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    """What was measured, also where the rest was not done."""
    _end: float = 0.0

    def left(self) -> float:
        """Seconds of the part's time that are left."""
        return max(0.0, self._end - time.monotonic())

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}


class Parts:
    """Runs one part after the other; `after_each` keeps what is there, should the whole be killed."""

    def __init__(
        self, seconds: float, expected: type[Exception], say: Callable[[str], None], after_each: Callable[[], None]
    ) -> None:
        self._begun = time.monotonic()
        self._end = self._begun + seconds
        self._expected, self._say, self._after_each = expected, say, after_each
        self.all: list[Part] = []

    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._begun

    def run(self, name: str, budget_s: float, work: Callable[[Part], None]) -> None:
        """Do a part within its budget and the whole's end.

        `work` keeps what it finds in `found` and raises NotDoneError, or an error of the expected kind, where it cannot
        go on; then the part is not done. Any other error is one of this program.
        """
        left = self._end - time.monotonic()
        part = Part(name, round(max(0.0, min(budget_s, left)), 1))
        self.all.append(part)
        begun = time.monotonic()
        part._end = begun + part.budget_s
        self._say(f"{name}: at most {part.budget_s:.0f} s")
        try:
            self._in_time(part, work)
            part.done = True
        except NotDoneError as error:
            part.why_not = str(error)
        except self._expected as error:
            # What then went wrong is that its server was ended.
            part.why_not = f"its {part.budget_s:.0f} s were over" if part.left() == 0 else str(error)
        part.seconds = round(time.monotonic() - begun, 1)
        self._say(f"{name}: {'done' if part.done else f'not done: {part.why_not}'} ({part.seconds:.0f} s)")
        self._after_each()

    def _in_time(self, part: Part, work: Callable[[Part], None]) -> None:
        if part.budget_s < LEAST_S:
            raise NotDoneError("no time was left")
        work(part)
