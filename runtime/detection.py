"""Which chips this host has: their device files and their management tool tell."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from flagrelease.chip import Chip
from flagrelease.errors import PreflightError, UnknownNameError
from runtime import smi

ARM_MACHINES = {"aarch64", "arm64"}


def detect(chips: Mapping[str, Chip]) -> list[Chip]:
    """The chips of this host; where it has no accelerator, its processor.

    A chip that another one looks like is left out where that other one is found: its tools are a disguise.
    """
    found = [chip for chip in chips.values() if _is_here(chip)]
    disguises = {key for chip in found for key in chip.looks_like}
    found = [chip for chip in found if chip.key not in disguises]
    processor = "arm" if platform.machine() in ARM_MACHINES else "cpu"
    return found or [chips[processor]]


def _is_here(chip: Chip) -> bool:
    """Whether the host has the chip: all of its device files, and a tool that knows of a device.

    Device files alone do not tell (AMD's and Hygon's have the same names); a tool alone does where it names a device.
    """
    if not chip.smi or shutil.which(chip.smi) is None:
        return False
    if chip.devices:
        return all(Path(device).exists() for device in chip.devices)
    try:
        return smi.report(chip) is not None
    except PreflightError:
        return False


def chip_named(chips: Mapping[str, Chip], word: str) -> Chip:
    """The chip with this key, or with this word among its names; raises UnknownNameError."""
    for chip in chips.values():
        if word.casefold() in {*chip.names, chip.vendor.casefold()}:
            return chip
    raise UnknownNameError(f"there is no chip `{word}`", remedy=f"the chips are: {', '.join(chips)}")
