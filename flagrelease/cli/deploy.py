"""`flagrelease deploy`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.deployments.changes import Changes


def deploy(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would change, and change nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="remove deployments without asking")] = False,
) -> None:
    """Bring Prefect to what the matrix says: work pools, deployments of cells and sweeps, automations for dead runs.

    First shows what it adds (+), changes (~), removes (-). Before it removes a deployment it asks; without a terminal
    it then changes nothing and fails, unless --yes is given. A second run changes nothing.
    """
    # Prefect reports its first use to its makers otherwise.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from flows.deployments.deploy import deploy as deploy_all

    def agree(changes: Changes) -> bool:
        if dry_run:
            return False
        if changes.remove and not yes:
            _ask(len(changes.remove))
        return True

    deploy_all(typer.echo, agree)


def _ask(removals: int) -> None:
    """Go on only with the user's word."""
    from flagrelease.errors import DeployError

    what = f"{removals} deployment{'s' if removals > 1 else ''}"
    if not sys.stdin.isatty():
        raise DeployError(
            f"nothing was changed: {what} would be removed, with the runs that wait for a worker",
            remedy="if the matrix is the right one: flagrelease deploy --yes",
        )
    typer.confirm(f"Remove {what}, with the runs that wait for a worker?", abort=True)
