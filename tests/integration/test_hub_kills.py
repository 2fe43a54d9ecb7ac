"""A process that is killed while it publishes: the same command again ends in one commit, or in a refusal."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.hub.hosts import TARGET, Host, assert_holds, card, files, hub_of
from tests.hub.mortal_publisher import DONE, REFUSED, Killer, MortalPublisher, Order, mortal_publisher
from tests.hub.stand_in_huggingface import StandInHuggingFace

POINTS = 20
KINDS = ["huggingface", "modelscope"]
LISTING = {"huggingface": r"/revision/main$", "modelscope": "/repo/files$"}
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalPublisher]:
    with mortal_publisher(tmp_path_factory.mktemp("libraries")) as running:
        yield running


class Place:
    """A hub with an empty repository, and a host that publishes to it."""

    def __init__(self, kind: str, folder: Path, program: MortalPublisher, *, pull_requests: bool = False) -> None:
        (folder / "host").mkdir()
        self.hub = hub_of(kind, folder / "hub")
        self.host = Host(self.hub, kind, folder / "host")
        self.program, self.pull_requests = program, pull_requests

    def publish(self, release: int, killer: Killer | None = None) -> int:
        order = Order(
            kind=self.host.kind,
            endpoint=self.hub.endpoint,
            folder=str(self.host.work),
            release=release,
            pull_requests=self.pull_requests,
        )
        return self.program.publish(order, killer)

    @property
    def said(self) -> str:
        return (self.host.work / "said.txt").read_text()

    @property
    def under_way(self) -> bool:
        """Whether the host has noted that a commit was sent whose outcome it does not know."""
        return bool(list((self.host.work / "publishing").glob("*.json")))

    def commits(self, release: int) -> int:
        return sum(title.startswith(f"FlagRelease release {release},") for title in self.hub.store.titles(TARGET))


@contextmanager
def place(kind: str, folder: Path, program: MortalPublisher, *, pull_requests: bool = False) -> Iterator[Place]:
    made = Place(kind, folder, program, pull_requests=pull_requests)
    with made.hub.running():
        made.hub.store.create(TARGET, "public", {".gitattributes": b"", "weights.bin": b"weights"})
        yield made
    assert made.hub.unknown == []


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory, program: MortalPublisher) -> Callable[..., int]:
    """How many requests a publication takes that nobody kills."""

    @cache
    def count(kind: str, *, second: bool, pull_requests: bool = False) -> int:
        with place(kind, tmp_path_factory.mktemp(kind), program, pull_requests=pull_requests) as there:
            if second:
                assert there.publish(1) == DONE
            before = len(there.hub.requests)
            assert there.publish(2) == (REFUSED if pull_requests else DONE)
            return len(there.hub.requests) - before

    return count


def killer_at(point: int, dice: random.Random, there: Place, requests: int) -> Killer:
    """One of the moments of a publication: each of the points has its own part of it."""
    moment = int((point + dice.random()) / POINTS * 2 * requests)
    return Killer(there.hub, moment // 2 + 1, after=moment % 2 == 1)


def goes_on(there: Place, killer: Killer, then: str, *, over: int) -> None:
    """Publish release 2, be killed, let somebody write or the hub lag, and publish again; `over`: commits before."""
    assert there.publish(2, killer) == -signal.SIGKILL
    print(f"killed {'after' if killer.after else 'before'} {killer.killed}; then {then}")
    arrived = there.commits(2)
    if then == "an edit":
        there.hub.write(TARGET, {"README.md": card(1, "an edit")})
        assert there.publish(2) == REFUSED
        assert "README.md" in there.said
        assert "--replace" in there.said
        assert there.hub.store.files(TARGET)["README.md"] == card(1, "an edit")
        assert there.commits(2) == arrived
        return
    weights = b"other weights" if then == "another file" else b"weights"
    if then == "another file":
        there.hub.write(TARGET, {"weights.bin": weights})
    if then == "a late listing" and arrived:
        there.hub.fail("GET", LISTING[there.host.kind], stale=True, times=3)
    assert there.publish(2) == DONE
    assert there.hub.store.files(TARGET)["weights.bin"] == weights
    assert_holds(there.host, files(2), commits=over + 1, release=2)
    assert not there.under_way


@pytest.mark.parametrize("point", range(POINTS))
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment(
    kind: str, point: int, program: MortalPublisher, requests: Callable[..., int], tmp_path: Path
) -> None:
    dice = random.Random(f"{kind} {point}")
    second = dice.random() < 0.5
    with place(kind, tmp_path, program) as there:
        if second:
            assert there.publish(1) == DONE
        killer = killer_at(point, dice, there, requests(kind, second=second))
        goes_on(there, killer, dice.choice(["nothing", "an edit", "another file"]), over=int(second))


@pytest.mark.parametrize("then", ["nothing", "an edit", "another file", "a late listing"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_the_commit(kind: str, after: bool, then: str, program: MortalPublisher, tmp_path: Path) -> None:
    with place(kind, tmp_path, program) as there:
        assert there.publish(1) == DONE
        goes_on(there, Killer(there.hub, 1, after=after, only="/commit/"), then, over=1)


@pytest.mark.parametrize("point", range(0, POINTS, 2))
def test_killed_at_any_moment_of_a_pull_request(
    point: int, program: MortalPublisher, requests: Callable[..., int], tmp_path: Path
) -> None:
    dice = random.Random(point)
    with place("huggingface", tmp_path, program, pull_requests=True) as there:
        hub = there.hub
        assert isinstance(hub, StandInHuggingFace)
        killer = killer_at(point, dice, there, requests("huggingface", second=False, pull_requests=True))
        assert there.publish(2, killer) == -signal.SIGKILL
        print(f"killed {'after' if killer.after else 'before'} {killer.killed}")
        assert there.publish(2) == REFUSED
        assert "/discussions/1\nmerge it, then publish again" in there.said
        assert len(hub.pull_requests[TARGET]) == 1
        hub.merge(TARGET, 1)
        assert there.publish(2) == DONE
        assert_holds(there.host, files(2), release=2)
