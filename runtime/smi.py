"""What a chip's management tool says of this host: the driver's version, the devices, and their memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

from flagrelease.chip import Chip, SmiQuery
from flagrelease.errors import PreflightError
from flagrelease.secrets import child_environment

TIMEOUT_S = 30
POLL_S = 0.5
_MIB = {None: 1.0, "B": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2**10}


class DeviceMemory(NamedTuple):
    """Memory of one device, in MiB."""

    free: float
    total: float


class SmiReport(NamedTuple):
    """The management tool's word."""

    driver: str | None
    """Version; none where the tool does not tell, or it is not known how."""
    devices: tuple[DeviceMemory, ...]
    """By their numbers."""


def report(chip: Chip) -> SmiReport | None:
    """What the chip's tool says; none where the chip has no tool, or it is not known how to read it.

    Raises PreflightError where the tool is missing, fails, hangs, or names no device.
    """
    if not chip.smi or not chip.smi_query:
        return None
    tool = shutil.which(chip.smi)
    if tool is None:
        raise PreflightError(
            f"{chip.smi}, the management tool of {chip.display}, is not on PATH",
            remedy=f"install the driver of {chip.display}, or run it on a host that has the chip",
        )
    command = [chip.smi, *chip.smi_query.arguments]
    shown = " ".join(command)
    try:
        answer = subprocess.run(
            [tool, *chip.smi_query.arguments],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise PreflightError(
            f"`{shown}` did not answer within {TIMEOUT_S} s",
            remedy="the driver hangs: look at dmesg, and load it again or start the host anew",
        ) from error
    except OSError as error:
        raise PreflightError(f"`{shown}` cannot be run: {error.strerror}", remedy="install the driver again") from error
    found = parse(chip.smi_query, answer.stdout)
    if answer.returncode or not found.devices:
        said = (answer.stderr or answer.stdout).strip()[-300:]
        raise PreflightError(
            f"`{shown}` names no device"
            + (f" (exit code {answer.returncode})" if answer.returncode else "")
            + f": {said}",
            remedy=f"see that the driver of {chip.display} is loaded and that this user may use the devices",
        )
    return found


def parse(query: SmiQuery, text: str) -> SmiReport:
    """What the tool's answer says."""
    version = re.search(query.driver, text, re.MULTILINE) if query.driver else None
    devices = []
    for match in re.finditer(query.device, text, re.MULTILINE):
        groups = match.groupdict()
        memory = {
            name: float(groups[name]) * _MIB[groups.get(f"{name}_unit")]
            for name in ("free", "used", "total")
            if groups.get(name)
        }
        free = memory["free"] if "free" in memory else memory["total"] - memory["used"]
        devices.append(DeviceMemory(free, memory["total"]))
    return SmiReport(version["version"] if version else None, tuple(devices))


def used_devices(chip: Chip, environment: Mapping[str, str]) -> set[int] | None:
    """Numbers of the devices that a container's environment leaves it; none where it may use all."""
    numbers = environment.get(chip.visible_devices or "", "").split(",")
    return {int(number) for number in numbers} if all(map(str.isdecimal, numbers)) else None


def check_free(chip: Chip, needed: float, only: Collection[int] | None = None) -> SmiReport | None:
    """What the tool says; raises PreflightError where a device has less than the share `needed` of its memory free.

    `only`: numbers of the devices that count.
    """
    found = report(chip)
    taken = [
        f"device {number}: {device.free / 1024:.1f} of {device.total / 1024:.1f} GiB"
        for number, device in enumerate(found.devices if found else ())
        if device.free < needed * device.total and (only is None or number in only)
    ]
    if taken:
        raise PreflightError(
            f"less than {needed:.0%} of the memory of {chip.display} is free: {'; '.join(taken)}",
            remedy=f"see who uses it ({chip.smi}) and end that, or choose other devices with {chip.visible_devices}",
        )
    return found


def wait_free(chip: Chip, before: SmiReport, *, slack_mib: float, timeout_s: float) -> list[str]:
    """Wait until devices have the free memory of `before` again, but for `slack_mib`; in words those that have not."""
    end = time.monotonic() + timeout_s
    while True:
        now = report(chip)
        pairs = zip(before.devices, now.devices if now else (), strict=False)
        held = [
            f"device {number}: {(old.free - new.free) / 1024:.1f} GiB"
            for number, (old, new) in enumerate(pairs)
            if old.free - new.free > slack_mib
        ]
        if not held or time.monotonic() > end:
            return held
        time.sleep(POLL_S)
