"""Waiting for what becomes true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(what: str | Callable[[], str], found: Callable[[], Any], timeout_s: float = 300) -> Any:
    """What `found` gives as soon as that is something; fails with `what`, or what that says, after the time."""
    end = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < end, f"{what if isinstance(what, str) else what()}: not within {timeout_s:.0f} s"
        time.sleep(0.2)
    return answer
