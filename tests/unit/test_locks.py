"""Who may do what at the same time on a host."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flagrelease.errors import PreflightError
from flows.locks import SharedLock, alone, devices

WAIT_S = 10.0


class User:
    """A thread that uses the devices until it is told to stop."""

    def __init__(self, folder: Path, *, exclusive: bool, chip: str = "cpu") -> None:
        self.said: list[str] = []
        self.waits, self.uses, self.over = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._use, args=(folder, chip), kwargs={"exclusive": exclusive})
        self._thread.start()

    def _use(self, folder: Path, chip: str, *, exclusive: bool) -> None:
        with devices(folder, chip, "speed" if exclusive else "evaluate", self._log, exclusive=exclusive):
            self.uses.set()
            self.over.wait(WAIT_S)

    def _log(self, line: str) -> None:
        self.said.append(line)
        self.waits.set()

    def end(self) -> None:
        self.over.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


def test_models_are_asked_side_by_side(tmp_path: Path) -> None:
    users = [User(tmp_path, exclusive=False) for _ in range(3)]
    assert all(user.uses.wait(WAIT_S) for user in users)
    for user in users:
        user.end()


def test_speed_is_measured_by_itself(tmp_path: Path) -> None:
    first = User(tmp_path, exclusive=False)
    assert first.uses.wait(WAIT_S)
    speed = User(tmp_path, exclusive=True)
    assert speed.waits.wait(WAIT_S)
    assert speed.said == ["speed: waiting, as another release asks or measures on the cpu devices of this host"]
    # Who comes later waits for it, so that it is not put off for ever.
    later = User(tmp_path, exclusive=False)
    assert later.waits.wait(WAIT_S)
    assert later.said == [
        "evaluate: waiting, as the speed of another release is measured on the cpu devices of this host"
    ]
    other_chip = User(tmp_path, exclusive=True, chip="metax")
    assert other_chip.uses.wait(WAIT_S)
    assert not speed.uses.is_set()
    first.end()
    assert speed.uses.wait(WAIT_S)
    assert not later.uses.is_set()
    assert speed.said[-1].startswith("speed: waited ")
    speed.end()
    assert later.uses.wait(WAIT_S)
    later.end()
    other_chip.end()


@pytest.mark.parametrize("end", [lambda: None, lambda: 1 / 0], ids=["well", "with an error"])
def test_the_next_may_begin_however_one_ended(tmp_path: Path, end: Callable[[], object]) -> None:
    try:
        with devices(tmp_path, "cpu", "speed", print, exclusive=True), alone(tmp_path / "a", "releasing x"):
            end()
    except ZeroDivisionError:
        pass
    with devices(tmp_path, "cpu", "speed", pytest.fail, exclusive=True), alone(tmp_path / "a", "releasing x"):
        pass


def test_a_second_process_is_refused_at_once(tmp_path: Path) -> None:
    def second() -> None:
        with alone(tmp_path / "a", "releasing x"):
            pass

    with (
        alone(tmp_path / "a", "releasing x"),
        ThreadPoolExecutor() as pool,
        pytest.raises(PreflightError, match="another process on this host is releasing x"),
    ):
        pool.submit(second).result()


def test_where_the_database_is_a_file_there_is_no_other_host(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    first, second = SharedLock(url, "releasing x"), SharedLock(url, "releasing x")
    first.hold()
    second.hold()
    first.close()
    assert not (tmp_path / "store.db").exists()
