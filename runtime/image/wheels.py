"""The pinned wheels of an image, fetched on this host, so that the build needs no network."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import docker

from flagrelease.errors import ImageError
from flagrelease.records import digest
from flagrelease.secrets import PROXIES, child_environment
from flagrelease.settings import Settings
from flagrelease.store.database import check_writable
from runtime.image.base import BaseImage
from runtime.image.recipe import Pin, canonical
from runtime.image.run_inside import run_inside
from runtime.launch.interface import Log

PIP = Pin(component="packages", package="pip", version="25.0.1")
"""Installs the wheels: the newest that still runs on Python 3.8, which some vendors' images have."""
FREE_MIB = 2000

_ABOUT_PYTHON = (
    "import json, platform, sys; print(json.dumps([sys.implementation.name, *sys.version_info[:2], "
    "platform.machine(), *platform.libc_ver()]))"
)


class Wheels(NamedTuple):
    """A folder of wheels."""

    folder: Path
    sha256: dict[str, str]
    """By file name; pip's own wheel is among them."""
    file_of: dict[str, str]
    """File name by package."""


def fetch(client: docker.DockerClient, pins: Sequence[Pin], base: BaseImage, host: Settings, log: Log) -> Wheels:
    """The wheels of `pins` for the Python of `base`: from FLAGRELEASE_WHEELS, or the indexes that pip is set up for.

    They are kept, and fetched once. Raises ImageError where a package cannot be had.
    """
    if not pins:
        return Wheels(Path(), {}, {})
    own = sorted(host.wheels.glob("*.whl")) if host.wheels else []
    if host.wheels and not host.wheels.is_dir():
        raise ImageError(
            f"FLAGRELEASE_WHEELS: there is no folder {host.wheels}", remedy="make it, or unset the variable"
        )
    wanted = {
        "pins": sorted(pin.requirement for pin in (*pins, PIP)),
        "base": base.content,
        # A vendor's wheel may change under its name.
        "own": [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in own],
    }
    target = host.work_path / "wheels" / digest(wanted)[:16]
    if not target.exists():
        check_writable(target.parent, FREE_MIB, ImageError)
        aside = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
        try:
            log(f"wheels: fetching {', '.join(pin.requirement for pin in pins)}")
            _download(
                [*pins, PIP],
                python_options(run_inside(client, base.reference, ["python3", "-c", _ABOUT_PYTHON])),
                aside,
                host.wheels,
            )
            if not target.exists():
                aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return _read(target, pins)


def python_options(about: str) -> list[str]:
    """pip's options that choose wheels for the Python that said `about` itself."""
    implementation, major, minor, machine, libc, libc_version = json.loads(about)
    if implementation != "cpython" or libc != "glibc":
        raise ImageError(
            f"the base image's Python is {implementation} with {libc or 'another C library'}; "
            "wheels are published for CPython with glibc",
            remedy="choose a base image of a Debian, Ubuntu, openEuler or Red Hat kind",
        )
    newest = int(libc_version.split(".")[1])
    platforms = [f"manylinux_2_{old}_{machine}" for old in range(newest, 4, -1)]
    platforms += [f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    abis = [f"cp{major}{minor}", "abi3", "none"]
    return [
        f"--python-version={major}.{minor}",
        "--implementation=cp",
        *(f"--abi={abi}" for abi in abis),
        *(f"--platform={platform}" for platform in platforms),
    ]


def _download(pins: Sequence[Pin], options: Sequence[str], folder: Path, own: Path | None) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ImageError(
            f"the environment of FlagRelease ({sys.executable}) has no pip, which fetches an image's packages",
            remedy=f"install it: {sys.executable} -m ensurepip, or uv pip install pip",
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps"]
    command += ["--only-binary=:all:", f"--dest={folder}", *options, *([f"--find-links={own}"] if own else [])]
    command += [pin.requirement for pin in pins]
    # An address of a package index may hold a password.
    environment = child_environment(keep=("PIP_", *PROXIES))
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if found.returncode == 0:
        return
    errors = [line for line in found.stderr.splitlines() if line.startswith("ERROR:")] or found.stderr.splitlines()
    raise ImageError(
        "the image's packages cannot be fetched for its Python: " + (errors[-1] if errors else "pip said nothing"),
        remedy="name an index that has them (PIP_EXTRA_INDEX_URL), or put their wheels into a folder and name it in "
        "FLAGRELEASE_WHEELS (of a source: pip wheel --no-deps <package>); what there is: pip index versions <package>",
    )


def _read(folder: Path, pins: Sequence[Pin]) -> Wheels:
    files = sorted(folder.glob("*.whl"))
    sha256 = {}
    for path in files:
        with path.open("rb") as file:
            sha256[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    by_name = {canonical(path.name.partition("-")[0]): path.name for path in files}
    return Wheels(folder, sha256, {pin.package: by_name[canonical(pin.package)] for pin in (*pins, PIP)})
