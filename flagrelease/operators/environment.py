"""The Python that has torch, Triton and FlagGems: which one, and what is in it; none of them is imported here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flagrelease.errors import PreflightError
from flagrelease.secrets import child_environment
from flagrelease.settings import settings

OWN_ENVIRONMENT = Path(".venv-operators/bin/python")
INSTALL = (
    "in a checkout: make operators. Elsewhere: pip install 'flagrelease[operators]', or let FLAGRELEASE_OPERATORS name "
    "a Python that has torch, Triton and FlagGems"
)
# FlagGems and torch say what they are without being imported.
_ASK = """
import importlib.metadata, importlib.util, json
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
found = importlib.util.find_spec("flag_gems")
names = ("flag_gems", "torch", "triton", "numpy", "flagrelease")
package = found and list(found.submodule_search_locations or [])[:1]
print(json.dumps({"package": package, **{name: version(name) for name in names}}))
"""
_DEVICE = """
import torch
found = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
available = torch.accelerator.is_available() if found else torch.cuda.is_available()
print((found.type if found else "cuda") if available else "cpu")
"""
# What `flag_gems.<operator>` is: FlagGems puts the vendor's own functions there when it is imported. A small kernel is
# launched, so that what every operator would fail of is not said of each; twice, as the first launch is Triton's and
# the later ones are FlagGems' own (`flag_gems.utils.libentry`).
_LOADED = """
import json, os, sys
import torch, flag_gems
from flag_gems.runtime.common import vendors
ones = torch.ones(8, device={device!r})
for _ in range(2):
    flag_gems.abs(ones).cpu()
modules = {{name: getattr(getattr(flag_gems, name, None), "__module__", None) for name in {names}}}
known = [vendor.name.lower() for vendor in vendors]
name_of = getattr(getattr(torch, {device!r}, None), "get_device_name", None)
try:
    name = str(name_of(0)) if name_of else None
except Exception:  # Vendors' torch raise what they like, and it is only a name.
    name = None
print(json.dumps({{"vendor": flag_gems.vendor_name, "vendors": known, "modules": modules, "name": name}}))
sys.stdout.flush()
# A vendor's torch may die when the interpreter ends.
os._exit(0)
"""
_IMPORTING = 600.0
"""Seconds that importing FlagGems on a device and a small kernel may take: it looks for the device and compiles."""


@dataclass(frozen=True)
class Environment:
    """What one Python holds; versions are None where a package is missing."""

    python: Path
    package: Path | None
    """The folder `flag_gems`."""
    flag_gems: str | None
    torch: str | None
    triton: str | None
    numpy: str | None
    flagrelease: str | None

    def versions(self) -> dict[str, str | None]:
        """Everything that may change a result."""
        found = asdict(self)
        return {name: found[name] for name in ("flag_gems", "torch", "triton", "numpy")}


@dataclass(frozen=True)
class Loaded:
    """What FlagGems is on a device, once it is imported there."""

    vendor: str
    """Whose device it takes it for, as it calls vendors."""
    vendors: tuple[str, ...]
    """All that it knows."""
    modules: dict[str, str | None]
    """Where the function of each operator comes from."""
    name: str | None = None
    """The device's own name; None where torch does not tell it."""

    def own(self, operator: str) -> str | None:
        """The vendor's or the architecture's module that the operator is from; None: FlagGems' plain one."""
        module = self.modules.get(operator) or ""
        _, of_backend, inner = module.partition("runtime.backend.")
        return (inner if of_backend else module.lstrip("_") if module.partition(".")[0] != "flag_gems" else "") or None


def environment() -> Environment:
    """The chosen Python: FLAGRELEASE_OPERATORS, else .venv-operators, else this one.

    Raises PreflightError where it cannot be run.
    """
    chosen = settings().operators or (OWN_ENVIRONMENT if OWN_ENVIRONMENT.exists() else Path(sys.executable))
    answer = json.loads(_run(chosen, _ASK))
    folders = answer.pop("package")
    package = Path(folders[0]) if folders else None
    # A link to Python is what makes an environment, so it is not followed.
    return Environment(python=Path(os.path.abspath(chosen)), package=package, **answer)  # noqa: PTH100


def with_flag_gems(found: Environment) -> tuple[Path, str]:
    """The package's folder and version. Raises PreflightError where FlagGems is not installed."""
    if found.package is None:
        raise PreflightError(f"FlagGems is not installed for {found.python}", remedy=INSTALL)
    return found.package, found.flag_gems or "of unknown version"


def device_of(found: Environment) -> str:
    """Torch's name of the accelerator of this host, or cpu. Imports torch, which takes seconds."""
    return _run(found.python, _DEVICE).strip().splitlines()[-1]


def loaded(found: Environment, operators: Sequence[str], device: str) -> Loaded:
    """What FlagGems took on this host's device, torch's name of which is `device`.

    Imports it and launches a kernel; raises PreflightError where one of them fails: then every operator would.
    """
    program = _LOADED.format(names=list(operators), device=device)
    try:
        told = _run(found.python, program, _IMPORTING)
    except PreflightError as error:
        raise PreflightError(
            f"FlagGems cannot be used on this host's {device}: {error.message}",
            remedy="it needs free memory on the device, a C compiler and Python's header files (Python.h), and a "
            f"Triton that it knows; found is {found.triton}",
        ) from error
    # Importing prints lines of its own.
    answer = json.loads(told.strip().splitlines()[-1])
    return Loaded(answer["vendor"], tuple(answer["vendors"]), answer["modules"], answer["name"])


def _run(python: Path, program: str, timeout: float = 120.0) -> str:
    command = shutil.which(python)
    if command is None:
        raise PreflightError(f"{python} cannot be run", remedy=INSTALL)
    try:
        done = subprocess.run(
            [command, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise PreflightError(f"{python} does not answer within {timeout:.0f} s", remedy=INSTALL) from error
    except subprocess.CalledProcessError as error:
        how = signal.Signals(-error.returncode).name if error.returncode < 0 else f"exit code {error.returncode}"
        said = [*([how] if error.returncode < 0 else []), *error.stderr.strip().splitlines()[-1:]]
        raise PreflightError(f"{python} does not answer: {': '.join(said) or how}", remedy=INSTALL) from error
    except OSError as error:
        raise PreflightError(f"{python} does not answer: {error}", remedy=INSTALL) from error
    return done.stdout
