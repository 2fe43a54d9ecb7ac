"""How many requests a server is sent at once: found by trying, within a bound.

Slow start and additive increase with multiplicative decrease, as in TCP: Jacobson 1988 (Congestion avoidance and
control), Chiu and Jain 1989 (Computer Networks and ISDN Systems 17). A model server seldom refuses what is too much, it
only stops to get faster; so what is watched is the rate of answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeVar

from flagrelease.records import Evaluation

RequestT = TypeVar("RequestT")

RISE = 1.05
"""A rate is higher than another if it is so by this factor; less is noise."""
EVIDENCE = 24
"""Answers that it takes to say that a rate does not rise: rates of few answers are noisy."""
STEP = 4
"""An additive step is a quarter of the level, at least one request."""
LONGEST_PAUSE = 8
"""Rounds between two trials of a step, at most; each trial that fails doubles them."""
WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before a request that failed is sent again; after the last it has failed for good."""


def requests_in_flight(evaluation: Evaluation) -> dict[str, int]:
    """How many requests at once were found to be best, by benchmark; the cell's bound where that is not known."""
    bound = int(evaluation.provenance.engine_settings.get("concurrency", 1))
    return {run.benchmark: run.concurrency or bound for run in evaluation.benchmarks}


class TransientError(Exception):
    """A request failed for a reason that may pass: the server is busy, or the connection broke."""


class Concurrency:
    """How many requests may be in flight: `level`, never above `bound`.

    In rounds of as many answers as the level, the level doubles from 1 while the rate of answers rises; where two
    rounds do not raise it, the level goes back to the best. From there it tries a step up now and then, in longer
    rounds, and keeps it if the rate rises. A failure halves it.

    It knows neither a clock nor a server: `begin`, `answered` and `failed` are told the time, in seconds.

    How many requests a server computes together changes the arithmetic of most engines, and so now and then an answer.
    What was found differs from run to run; the bound is part of the cell. Bound 1, which is exactly one request at a
    time, is what makes answers repeat on such an engine.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.level = 1
        self._phase: Literal["slow start", "steady", "trial"] = "slow start"
        self._best = (1, 0.0)
        self._without_rise: list[int] = []
        self._pause = 1
        self._round_began = self._halved = 0.0
        self._answers = 0

    def begin(self, now: float) -> None:
        """Requests are going to be sent: what came before says nothing of the rate."""
        self._round_began, self._answers = now, 0

    def answered(self, now: float) -> None:
        """An answer came while as many requests were in flight as the level allows."""
        self._answers += 1
        if self._answers <= 0:
            self._round_began = now
        if self._answers < self._round():
            return
        rate = self._answers / max(now - self._round_began, 1e-9)
        self.begin(now)
        if self._phase == "slow start":
            self._slow_start(rate)
        elif self._phase == "trial":
            self._trial(rate)
        else:
            self._best = (self.level, rate)
            self._try_more()

    def failed(self, sent: float, now: float) -> None:
        """A request sent at `sent` failed; those sent before the last decrease tell nothing new."""
        if sent < self._halved:
            return
        self._halved = now
        self.begin(now)
        self._steady(max(1, self.level // 2), 2 * self._pause)

    def _round(self) -> int:
        """Answers of the round."""
        if self._phase == "slow start":
            return self.level
        long = max(2 * self.level, EVIDENCE)
        return self._pause * long if self._phase == "steady" else long

    def _slow_start(self, rate: float) -> None:
        if rate > RISE * self._best[1]:
            self._best, self._without_rise = (self.level, rate), []
        else:
            self._without_rise.append(self.level)
        enough = len(self._without_rise) > 1 and sum(self._without_rise) >= EVIDENCE
        if not enough and self.level < self.bound:
            self.level = min(2 * self.level, self.bound)
        else:
            self._steady(self._best[0], 1)

    def _trial(self, rate: float) -> None:
        if rate > RISE * self._best[1]:
            self._best, self._pause = (self.level, rate), 1
            self._try_more()
        else:
            self._steady(self._best[0], 2 * self._pause)

    def _try_more(self) -> None:
        if self.level == self.bound:
            self._steady(self.level, 1)
            return
        self._phase = "trial"
        self.level = min(self.level + max(1, self.level // STEP), self.bound)

    def _steady(self, level: int, pause: int) -> None:
        # Answers to what is in flight beyond the new level came as fast as at the old one, and do not count.
        self._answers = min(0, level - self.level)
        self.level = level
        self._phase = "steady"
        self._pause = min(pause, LONGEST_PAUSE)


async def ask_all(
    requests: Iterable[RequestT],
    ask: Callable[[RequestT], Awaitable[None]],
    concurrency: Concurrency,
    failure: Callable[[], str | None],
) -> None:
    """Await `ask(request)` for all requests, in their order, as many at once as `concurrency` says.

    A TransientError is tried again after a pause, at most `len(WAITS_S)` times, and not at all once `failure` says why
    the server is gone. Any exception that remains cancels the requests in flight and is raised.
    """
    waiting = deque(requests)
    workers = 0

    async def work() -> None:
        nonlocal workers
        while waiting and workers <= concurrency.level:
            await _patiently(waiting.popleft(), ask, concurrency, failure)
            # With nothing left to send, fewer requests are in flight than the level allows.
            if waiting:
                concurrency.answered(time.monotonic())
                hire()
        workers -= 1

    def hire() -> None:
        nonlocal workers
        while waiting and workers < concurrency.level:
            workers += 1
            group.create_task(work())

    concurrency.begin(time.monotonic())
    try:
        async with asyncio.TaskGroup() as group:
            hire()
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed.exceptions[0].__cause__


async def _patiently(
    request: RequestT,
    ask: Callable[[RequestT], Awaitable[None]],
    concurrency: Concurrency,
    failure: Callable[[], str | None],
) -> None:
    """Ask until there is an answer, or no hope of one."""
    for pause in (*WAITS_S, None):
        sent = time.monotonic()
        try:
            await ask(request)
        except TransientError:
            concurrency.failed(sent, time.monotonic())
            if pause is None or failure() is not None:
                raise
            await asyncio.sleep(pause)
        else:
            return
