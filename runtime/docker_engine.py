"""The container engine of this host, through the Docker SDK, with errors that say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException

from flagrelease.errors import EngineError

QUICK_S = 60
LONG_S = 3600
"""How long the engine may be silent in one answer: for questions, and while layers are packed and sent."""

START_IT = (
    "start it (systemctl start docker; on a bare Debian machine, as root: infra/engine/start.sh), "
    "or name another engine in DOCKER_HOST"
)


def connect(timeout_s: int = QUICK_S) -> docker.DockerClient:
    """A client of the engine that DOCKER_HOST names, by default the one of this host; the caller closes it.

    Raises EngineError where none answers, or where this user may not use it.
    """
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        # Asks for the engine's API version, so it fails here if at all.
        return docker.from_env(timeout=timeout_s)
    except DockerException as error:
        number = _errno(error)
        if number in (errno.EACCES, errno.EPERM):
            raise EngineError(
                f"this user may not use the container engine at {where}",
                remedy="run as root, or join the group that owns the socket: sudo usermod -aG docker $USER, "
                "then log in again",
            ) from error
        reason = os.strerror(number) if number else str(error)
        raise EngineError(f"no container engine answers at {where}: {reason}", remedy=START_IT) from error


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Within the block an engine that goes away, or fails by itself, raises EngineError: it happened while `doing`.

    Answers that have a meaning where they arise (not found, a refused login) are caught inside the block.
    """
    try:
        yield
    except APIError as error:
        # Before what it is derived from: the engine answered.
        raise engine_error(doing, explanation(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise gone(doing, str(error)) from error


def gone(doing: str, reason: str) -> EngineError:
    """The engine ended, or cut the connection."""
    return EngineError(
        f"the container engine went away while {doing}: {reason}",
        remedy="see its log (journalctl -u docker), start it again, then run the same command again",
    )


def engine_error(doing: str, reason: str) -> EngineError:
    """The engine reports a fault of its own."""
    if "no space left on device" in reason:
        return EngineError(
            f"the container engine's disk is full, found while {doing}: {reason}",
            remedy="see what takes the space (docker system df) and free some (docker image prune), "
            "then run the same command again",
        )
    return EngineError(
        f"the container engine failed while {doing}: {reason}", remedy="see its log: journalctl -u docker"
    )


def explanation(error: APIError) -> str:
    """What the engine said, without the SDK's frame."""
    return str(error.explanation or error)


def _errno(error: BaseException) -> int | None:
    """Number of the system's error that lies at the bottom of an exception of several libraries."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    inside = [error.__cause__, error.__context__, *error.args]
    return next((number for part in inside if isinstance(part, BaseException) and (number := _errno(part))), None)
