"""Finding the number of requests in flight, on simulated servers, and sending them."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from evaluation import concurrency
from evaluation.concurrency import Concurrency, TransientError, ask_all

Service = Callable[[random.Random, int], float]


def constant(_: random.Random, __: int) -> float:
    return 1.0


def scattered(source: random.Random, _: int) -> float:
    return source.expovariate(1.0)


def thrashing(_: random.Random, at_once: int) -> float:
    """Slower for everybody beyond eight at once, as an engine that has to recompute what it dropped."""
    return 1.0 if at_once <= 8 else (at_once / 8) ** 2


class Simulated(NamedTuple):
    seconds: float
    levels: list[int]


def simulated(
    asking: Concurrency, answers: int, *, at_once: int, service: Service = constant, seed: int = 0
) -> Simulated:
    """A server that computes `at_once` requests together and lets the others wait is asked for so many answers."""
    source = random.Random(seed)
    now, sent, waiting = 0.0, 0, 0
    running: list[float] = []
    levels = []
    asking.begin(now)
    for _ in range(answers):
        while sent < answers and len(running) + waiting < asking.level:
            sent, waiting = sent + 1, waiting + 1
        while waiting and len(running) < at_once:
            waiting -= 1
            heapq.heappush(running, now + service(source, len(running) + 1))
        now = heapq.heappop(running)
        if sent < answers:
            asking.answered(now)
        levels.append(asking.level)
    return Simulated(now, levels)


def test_the_level_doubles_from_one_while_answers_come_faster() -> None:
    levels = simulated(Concurrency(64), 127, at_once=64).levels
    assert list(dict.fromkeys(levels)) == [2, 4, 8, 16, 32, 64]


def test_one_at_a_time_stays_so() -> None:
    assert set(simulated(Concurrency(1), 500, at_once=64).levels) == {1}


@pytest.mark.parametrize("service", [constant, scattered, thrashing])
@pytest.mark.parametrize("bound", [3, 16, 100])
def test_the_bound_is_never_passed(service: Service, bound: int) -> None:
    assert max(simulated(Concurrency(bound), 3000, at_once=40, service=service).levels) <= bound


def test_more_requests_than_the_server_computes_together_are_not_kept_up() -> None:
    assert max(simulated(Concurrency(256), 3000, at_once=8).levels[1000:]) <= 10


def test_a_server_that_gets_slower_is_asked_less() -> None:
    found = simulated(Concurrency(256), 3000, at_once=256, service=thrashing)
    assert max(found.levels[1000:]) <= 12
    assert found.seconds < 1.5 * 3000 / 8


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("at_once", [1, 4, 16, 64])
def test_answers_of_random_length_do_not_end_the_search_too_early(at_once: int, seed: int) -> None:
    found = simulated(Concurrency(64), 4000, at_once=at_once, service=scattered, seed=seed)
    assert found.seconds < 1.2 * 4000 / at_once


def test_what_was_found_is_where_the_next_benchmark_begins() -> None:
    asking = Concurrency(64)
    simulated(asking, 2000, at_once=64)
    assert simulated(asking, 640, at_once=64).seconds == pytest.approx(10, rel=0.1)


def test_a_failure_halves_the_level_once_and_it_grows_again_by_steps() -> None:
    asking = Concurrency(64)
    simulated(asking, 127, at_once=64)
    assert asking.level == 64
    asking.failed(sent=100.0, now=101.0)
    for _ in range(5):
        # These were sent together with the first.
        asking.failed(sent=100.0, now=101.5)
    assert asking.level == 32
    asking.failed(sent=102.0, now=103.0)
    assert asking.level == 16
    levels = simulated(asking, 4000, at_once=64).levels
    assert list(dict.fromkeys(levels))[:4] == [16, 20, 25, 31]
    assert levels[-1] == 64


def test_the_level_is_at_least_one() -> None:
    asking = Concurrency(64)
    for now in range(10):
        asking.failed(float(now), now + 0.5)
    assert asking.level == 1


class Server:
    """A stand-in whose answers take no time, and which takes down how it was asked."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.asked: list[int] = []
        self.answered: list[int] = []
        self.in_flight = self.most = 0

    async def ask(self, request: int) -> None:
        self.asked.append(request)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(0)
            if self.failures:
                self.failures -= 1
                raise TransientError("HTTP 503")
            self.answered.append(request)
        finally:
            self.in_flight -= 1


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "WAITS_S", (0.0,) * len(concurrency.WAITS_S))


def runs() -> None:
    """Nothing is wrong with the server."""


def ask(server: Server, requests: int, bound: int, failure: Callable[[], str | None] = runs) -> None:
    asyncio.run(ask_all(range(requests), server.ask, Concurrency(bound), failure))


def test_every_request_is_asked_once() -> None:
    server = Server()
    ask(server, 500, bound=16)
    assert sorted(server.asked) == list(range(500))
    assert server.most <= 16


def test_bound_one_asks_one_after_the_other_in_their_order() -> None:
    server = Server()
    ask(server, 50, bound=1)
    assert server.asked == list(range(50))
    assert server.most == 1


def test_fewer_are_in_flight_as_soon_as_the_level_falls() -> None:
    asking, in_flight, after = Concurrency(16), 0, []

    async def ask_one(request: int) -> None:
        nonlocal in_flight
        in_flight += 1
        await asyncio.sleep(0)
        if request == 300:
            for _ in range(3):
                asking.failed(time.monotonic(), time.monotonic())
        if 330 < request < 400:
            after.append(in_flight)
        in_flight -= 1

    asyncio.run(ask_all(range(500), ask_one, asking, runs))
    assert max(after) <= 2


def test_a_failure_that_passes_is_asked_again() -> None:
    server = Server(failures=3)
    ask(server, 20, bound=4)
    assert sorted(server.answered) == list(range(20))
    assert len(server.asked) == 23


def test_a_failure_that_does_not_pass_ends_it_after_some_attempts() -> None:
    server = Server(failures=1000)
    with pytest.raises(TransientError, match="HTTP 503"):
        ask(server, 20, bound=1)
    assert server.asked == [0] * (len(concurrency.WAITS_S) + 1)


def test_a_dead_server_is_not_asked_again() -> None:
    server = Server(failures=1000)
    with pytest.raises(TransientError):
        ask(server, 20, bound=1, failure=lambda: "it was killed")
    assert server.asked == [0]


def test_an_error_ends_the_requests_in_flight() -> None:
    cancelled = []

    async def ask_one(request: int) -> None:
        if request == 30:
            raise ValueError("broken")
        try:
            await asyncio.sleep(0 if request < 28 else 3600)
        except asyncio.CancelledError:
            cancelled.append(request)
            raise

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(ask_all(range(500), ask_one, Concurrency(8), runs))
    assert cancelled
    assert set(cancelled) <= set(range(28, 40))
