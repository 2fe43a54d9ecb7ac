"""The Python that has torch, Triton and FlagGems: which one, and what is in it; none of them is imported here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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


def _run(python: Path, program: str) -> str:
    command = shutil.which(python)
    if command is None:
        raise PreflightError(f"{python} cannot be run", remedy=INSTALL)
    try:
        done = subprocess.run(
            [command, "-c", program], capture_output=True, text=True, check=True, timeout=120, env=child_environment()
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise PreflightError(f"{python} does not answer: {' '.join(said)}", remedy=INSTALL) from error
    return done.stdout
