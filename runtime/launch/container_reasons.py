"""Why a container did not start, or ended: the engine's and the log's words as an error with the next step."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flagrelease.errors import (
    FlagReleaseError,
    PortError,
    PreflightError,
    ServerError,
    ServerSettingsError,
    WeightsError,
)
from runtime.docker_engine import engine_error
from runtime.launch.container_spec import ContainerSpec

_NOT_UNDERSTOOD, _NOT_INVOKED, _NOT_FOUND, _SIGNALLED = 2, 126, 127, 128
_TAKEN = re.compile(r"address already in use|port is already allocated|EADDRINUSE|\[Errno 98\]", re.IGNORECASE)
_ABSENT = re.compile(r"no such file|not found|does not exist|failed to open|repo id must be|not a valid", re.IGNORECASE)


class Exit(NamedTuple):
    """How a container ended."""

    code: int
    out_of_memory: bool


class Reason(NamedTuple):
    """Why a server in a container ended."""

    what: str
    remedy: str
    error: type[FlagReleaseError] = ServerError


def reason(end: Exit, container: ContainerSpec, log: str, *, paths: Sequence[str] = ()) -> Reason:
    """Why the container ended; `log` its last lines, `paths` what it reads of the host, such as the model."""
    if end.out_of_memory:
        limit = f"its memory limit of {container.memory}" if container.memory else "the memory of this host"
        return Reason(
            f"ran out of memory ({limit})",
            "give it more (the container option --memory), or ask for less: a shorter context, fewer requests at once",
        )
    if _TAKEN.search(log):
        return Reason(
            "found its port taken by another program",
            "end that one (ss -ltnp names it), or choose another port",
            PortError,
        )
    missing = next((path for line in log.splitlines() for path in paths if path in line and _ABSENT.search(line)), None)
    if missing:
        return Reason(
            f"did not find {missing} in the container",
            "download the model into the folder that the container mounts, or mount the folder that holds it",
            WeightsError,
        )
    return _by_code(end.code, container)


def _by_code(code: int, container: ContainerSpec) -> Reason:
    if code in {_NOT_FOUND, _NOT_INVOKED}:
        how = "was not found" if code == _NOT_FOUND else "may not be executed"
        return Reason(
            f"ended because a command {how}",
            f"use an image that has what the log names; {container.image} does not",
            ServerSettingsError,
        )
    if code > _SIGNALLED:
        number = code - _SIGNALLED
        name = signal.Signals(number).name if number in set(signal.Signals) else f"number {number}"
        return Reason(
            f"was ended by signal {name}" + (" (by hand, or out of the host's memory)" if name == "SIGKILL" else ""),
            "see dmesg for the kernel's word on it, then run the same command again",
        )
    if code == 0:
        return Reason(
            "ended without an error: its command is none that goes on serving",
            "let the container's command be the server itself, in the foreground",
            ServerSettingsError,
        )
    if code == _NOT_UNDERSTOOD:
        return Reason(
            "did not take its arguments (exit code 2)",
            "correct the engine's settings by what the log says before the end",
            ServerSettingsError,
        )
    return Reason(f"crashed with exit code {code}", "see what the log says before the end")


def start_failure(words: str, container: ContainerSpec) -> FlagReleaseError:
    """The error for what the engine answered to creating or starting a container; EngineError where it is its own."""
    for pattern, error in _START_FAILURES:
        if match := re.search(pattern, words):
            return error(match, container)
    return engine_error(f"starting a container of {container.image}", words)


def image_missing(container: ContainerSpec) -> PreflightError:
    """The image is not on this host."""
    return PreflightError(
        f"the image {container.image} is not on this host",
        remedy=f"get it: docker pull {container.image}; or build it: flagrelease image build CELL",
    )


def device_missing(device: str) -> PreflightError:
    """A device file is not on this host."""
    return PreflightError(
        f"no device {device} on this host",
        remedy="run it on a host that has the chip, and see that its driver is loaded",
    )


def _runtime_missing(name: str) -> PreflightError:
    return PreflightError(
        f"the container engine has no runtime {name}",
        remedy="install the chip's container toolkit, or leave the option --runtime out",
    )


_START_FAILURES: tuple[tuple[str, Callable[[re.Match[str], ContainerSpec], FlagReleaseError]], ...] = (
    (r"No such image|pull access denied|manifest unknown", lambda _, container: image_missing(container)),
    (
        r'gathering device information while adding custom device "([^"]*)"',
        lambda found, _: device_missing(found[1]),
    ),
    (
        r"could not select device driver",
        lambda *_: PreflightError(
            "the container engine has no GPU runtime, which --gpus needs",
            remedy="install the NVIDIA container toolkit, run nvidia-ctk runtime configure --runtime=docker, "
            "and start the engine again",
        ),
    ),
    (r"(?i)unknown (?:or invalid )?runtime (?:name|specified)[: ]+(\S+)", lambda found, _: _runtime_missing(found[1])),
    (
        r"Unable to find group ([^:\s]+)",
        lambda found, container: PreflightError(
            f"the image {container.image} has no group {found[1]}, to which --group-add refers",
            remedy=f"use an image that has it, or give the group's number on this host: getent group {found[1]}",
        ),
    ),
    (
        r"unable to find user ([^:\s]+)",
        lambda found, container: PreflightError(
            f"the image {container.image} has no user {found[1]}, to which --user refers",
            remedy="use an image that has it, or give a number",
        ),
    ),
    (
        r'exec: "?([^":]+)"?: (?:executable file not found|stat|no such file)|stat ([^:]+): no such file',
        lambda found, container: PreflightError(
            f"the image {container.image} has no such command: {found[1] or found[2]}",
            remedy="use an image that has it, or correct the command",
        ),
    ),
    (
        rf"(?i){_TAKEN.pattern}",
        lambda *_: PortError(
            "a port that the container publishes is in use by another program",
            remedy="end that one (ss -ltnp names it), or choose another port with --port",
        ),
    ),
    (
        r"operation not permitted",
        lambda _, container: PreflightError(
            f"the container engine may not give {container.image} the rights that its options ask for",
            remedy="let the engine run as root with all capabilities; where it cannot, leave out --privileged, "
            "--cap-add and --ulimit options beyond the host's limits",
        ),
    ),
    (
        r"Minimum memory limit allowed is (\S+)",
        lambda found, container: PreflightError(
            f"the memory limit {container.memory} is below the engine's minimum of {found[1]}",
            remedy="give the container option --memory a larger value",
        ),
    ),
)
