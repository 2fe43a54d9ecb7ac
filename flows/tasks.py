"""Steps of a flow as Prefect tasks: tried again where that may help, ended where they take too long."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_engine import TaskRunTimeoutError

from flagrelease.errors import StageTimeoutError, is_transient

T = TypeVar("T")

# Seconds before a task is tried again: long enough for a daemon, a database or a host's driver to be back.
PAUSES_S = [30.0, 300.0]
ALARM_AGAIN_S = 60.0
"""A library may take an alarm's exception for its own, or wait for its threads on the way out; then it comes again."""


class Limit(NamedTuple):
    """How long a task may take, and what is said where it takes longer."""

    seconds: float
    message: str
    remedy: str

    @property
    def error(self) -> StageTimeoutError:
        """The error that says so."""
        return StageTimeoutError(self.message, remedy=self.remedy)

    def within(self, work: Callable[[], T]) -> T:
        """What `work` returns; raises StageTimeoutError where Prefect ends it, which it does by a signal."""
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        if 0 < left <= self.seconds:
            signal.setitimer(signal.ITIMER_REAL, left, ALARM_AGAIN_S)
        end = time.monotonic() + (left or self.seconds)
        try:
            return work()
        except asyncio.CancelledError as error:
            # So that what is recorded is the reason, and not how the work was ended.
            raise self.error from error
        except Exception as error:
            if time.monotonic() < end:
                raise
            raise self.error from error


def as_task(name: str, work: Callable[[], T], *, limit: Limit | None = None, retry: bool = True) -> T:
    """Run `work` as a Prefect task; the store, not Prefect, remembers results.

    It is tried again, after a pause, where its error is one that may pass (`flagrelease.errors.is_transient`). Each try
    may take as long as `limit` says; then it is ended and StageTimeoutError is raised.
    """
    task = Task(
        work,
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(PAUSES_S) if retry else 0,
        retry_delay_seconds=PAUSES_S,
        retry_condition_fn=_may_pass,
        timeout_seconds=limit.seconds if limit else None,
    )
    try:
        return task()
    except TaskRunTimeoutError as error:
        if limit is None:
            raise
        raise limit.error from error


def _may_pass(task: Any, run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - as Prefect calls it
    error = state.data
    return isinstance(error, Exception) and not isinstance(error, TaskRunTimeoutError) and is_transient(error)
