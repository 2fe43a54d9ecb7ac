"""What this host has of all that a release needs, and how to get the rest. Changes nothing, shows no secret."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from flagrelease.chip import Chip
from flagrelease.errors import FlagReleaseError
from flagrelease.settings import Settings
from runtime import smi
from runtime.doctor_containers import ASK_TIMEOUT_S, examine_containers
from runtime.engines import ENGINES
from runtime.finding import Finding, Task, disk, has, lacks, lacks_as

SERVING: tuple[Task, ...] = ("serve in containers", "serve as processes")
STATE_GIB = 1
HUB_TOKENS: Mapping[str, tuple[str, str]] = {
    "Hugging Face": ("HF_TOKEN", "~/.cache/huggingface/token"),
    "ModelScope": ("MODELSCOPE_API_TOKEN", "~/.modelscope/credentials"),
}
"""Where each hub's client looks for its token: a variable, a file."""


def examine(chip: Chip, host: Settings) -> Iterator[Finding]:
    """All that was found on this host, taken as one that has `chip`."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield has("machine", f"{platform.machine()}, {os.cpu_count()} processors, {memory_gib:.0f} GiB of memory")
    yield from _chip(chip)
    yield from _engines()
    yield from examine_containers(chip, host)
    yield disk("disk for state", host.home_path, STATE_GIB, "evaluate")
    yield _database(host)
    yield _prefect()
    yield from _tokens()


def _chip(chip: Chip) -> Iterator[Finding]:
    if chip.devices:
        name = f"devices of {chip.display}"
        missing = [device for device in chip.devices if not Path(device).exists()]
        how = f"load the driver of {chip.display}, or use a host that has the chip"
        yield (
            lacks(name, f"{', '.join(missing)} not there", how, *SERVING)
            if missing
            else has(name, ", ".join(chip.devices), *SERVING)
        )
    if not chip.smi:
        return
    name = f"driver of {chip.display}"
    try:
        found = smi.report(chip)
    except FlagReleaseError as problem:
        yield lacks_as(name, problem, *SERVING)
        return
    if found:
        free, total = (sum(part) / 1024 for part in zip(*found.devices, strict=True))
        version = f"version {found.driver}, " if found.driver else ""
        yield has(name, f"{version}{len(found.devices)} devices, {free:.0f} of {total:.0f} GiB free", *SERVING)


def _engines() -> Iterator[Finding]:
    found, absent = [], []
    for engine in ENGINES.values():
        try:
            found.append(f"{engine.display} {engine.version()}")
        except FlagReleaseError as problem:
            absent.append(problem)
    if found:
        yield has("engines as processes", ", ".join(found), "serve as processes")
    else:
        message = "; ".join(problem.message for problem in absent)
        yield lacks("engines as processes", message, absent[0].remedy, "serve as processes")


def _database(host: Settings) -> Finding:
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import ArgumentError

    from flagrelease.store.database import translate_errors

    try:
        url = make_url(host.store_url)
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            folder = Path(url.database or "").parent
            there = next(each for each in (folder, *folder.parents) if each.exists())
            if os.access(there, os.W_OK):
                return has("database", f"{shown}, not there yet", "evaluate")
            return lacks(
                "database", f"{there} cannot be written", "set FLAGRELEASE_HOME or FLAGRELEASE_STORE", "evaluate"
            )
        engine = create_engine(url)
        try:
            with translate_errors(engine), engine.connect():
                return has("database", shown, "evaluate")
        finally:
            engine.dispose()
    except FlagReleaseError as problem:
        return lacks_as("database", problem, "evaluate")
    except (ArgumentError, ModuleNotFoundError) as error:
        return lacks(
            "database",
            str(error),
            'check FLAGRELEASE_STORE; PostgreSQL: pip install "flagrelease[postgresql]"',
            "evaluate",
        )


def _prefect() -> Finding:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return has("Prefect API", "none is configured: releases run on this host by themselves")
    url = httpx.URL(address).copy_with(userinfo=b"")
    try:
        status = httpx.get(f"{address.rstrip('/')}/health", timeout=ASK_TIMEOUT_S).status_code
    except httpx.HTTPError as error:
        return lacks(
            "Prefect API", f"{url} does not answer: {error}", "start it: prefect server start; or unset PREFECT_API_URL"
        )
    if status == httpx.codes.OK:
        return has("Prefect API", str(url))
    return lacks("Prefect API", f"{url} answers HTTP {status}", "check PREFECT_API_URL: it ends with /api")


def _tokens() -> Iterator[Finding]:
    for hub, (variable, file) in HUB_TOKENS.items():
        name = f"token of {hub}"
        if os.environ.get(variable):
            yield has(name, f"in {variable}")
        elif Path(file).expanduser().exists():
            yield has(name, f"in {file}")
        else:
            yield lacks(name, "none", f"set {variable}, if the hub is needed: for what is gated, and for publishing")
