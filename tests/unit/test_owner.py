"""Whether the process that started a server is gone: in doubt it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.launch.owner import start_time, this_process
from tests.waiting import wait_for


def test_this_process_is_there() -> None:
    assert not this_process().gone()
    assert this_process().pid == os.getpid()


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"started": 1}, True),
        ({"pid": 4_194_304}, True),
        ({"boot": "an earlier one", "namespace": "pid:[1]"}, True),
        ({"namespace": "pid:[1]", "started": 1}, False),
        ({"host": "another", "boot": "another", "started": 1}, False),
    ],
)
def test_a_process_is_gone_only_if_that_is_sure(change: dict[str, object], gone: bool) -> None:
    assert this_process()._replace(**change).gone() is gone  # type: ignore[arg-type]


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert start_time(child.pid)
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(child.pid) is None
    child.communicate()


def test_a_name_with_parentheses_is_no_trap(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = tmp_path_factory.mktemp("odd") / "a) Z 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "60"])
    try:
        name = Path(f"/proc/{child.pid}/comm")
        wait_for("the program's name", lambda: name.read_text().startswith(program.name), 30)
        assert (start_time(child.pid) or 0) >= (start_time(os.getpid()) or 0) > 0
    finally:
        child.kill()
        child.wait()
