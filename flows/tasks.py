"""Steps of a flow as Prefect tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE

T = TypeVar("T")


def as_task(name: str, work: Callable[[], T]) -> T:
    """Run `work` as a Prefect task; the store, not Prefect, remembers results."""
    return Task(work, name=name, cache_policy=NO_CACHE, persist_result=False)()
