"""Calling a hub with patience that ends: what is tried again, and how long is waited."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flagrelease.errors import PublishError
from flagrelease.publish.hub_client import ThrottledError, UnansweredError

PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Before each further try of a request that changes nothing, where the hub does not say how long."""
LONGEST_WAIT_S = 300.0
"""Of one wait that a hub asks for: their limits count in windows of five minutes."""
LONGEST_WAITS_S = 900.0
"""Of all the waits of one publisher."""

_T = TypeVar("_T")


class HubUnavailableError(PublishError):
    """A hub does not answer, or asks to wait for too long."""

    transient = True


class Caller:
    """Calls a hub; each wait is told with its reason."""

    def __init__(self, name: str, log: Callable[[str], None], pause: Callable[[float], None]) -> None:
        """`name`: of the hub; `log` is told the waits, `pause` waits a number of seconds."""
        self._name, self._log, self._pause = name, log, pause
        self._waited = 0.0

    def read(self, what: str, call: Callable[[], _T]) -> _T:
        """The answer to a request that changes nothing, so that it may be sent several times."""
        for pause in PAUSES_S:
            try:
                return call()
            except ThrottledError as error:
                self.wait(error, pause)
            except UnansweredError as error:
                self._log(f"{self._name}: {error}; trying to {what} again in {pause:.0f} s")
                self._pause(pause)
        try:
            return call()
        except (ThrottledError, UnansweredError) as error:
            raise HubUnavailableError(
                f"cannot {what} at {self._name}: {error}, {1 + len(PAUSES_S)} times",
                remedy="see whether the hub can be reached from here, then publish again",
            ) from error

    def write(self, call: Callable[[], None]) -> bool:
        """Send a request that changes something, once; False: the hub was too busy to do it.

        After a wait; what became of the request is to be read from the hub in any case.
        """
        try:
            call()
        except ThrottledError as error:
            self.wait(error)
            return False
        except UnansweredError as error:
            self._log(f"{self._name}: {error}; looking whether it was done all the same")
        return True

    def wait(self, error: ThrottledError, otherwise: float = PAUSES_S[-1]) -> None:
        """Wait as the hub asks, or `otherwise` seconds; HubUnavailableError where that is too long."""
        seconds = otherwise if error.seconds is None else error.seconds + 1
        if seconds > LONGEST_WAIT_S or self._waited + seconds > LONGEST_WAITS_S:
            raise HubUnavailableError(
                f"{self._name} was asked too often, and asks to wait for {seconds:.0f} s",
                remedy="publish again after that; what was begun goes on from there",
            ) from error
        reason = "does not say for how long" if error.seconds is None else f"asks to wait {error.seconds:.0f} s"
        self._log(f"{self._name}: too many requests, the hub {reason}; going on in {seconds:.0f} s")
        self._waited += seconds
        self._pause(seconds)
