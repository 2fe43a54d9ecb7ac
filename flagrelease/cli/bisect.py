"""`flagrelease bisect`: which operators make a release differ from its baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flagrelease.cli.inspect import AsJson, ReleaseName


def bisect(
    name: ReleaseName,
    operators: Annotated[
        Path | None,
        typer.Option(help="a list that a server wrote, or one name a line; by default those that the release listed"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the operators of FlagGems whose removal brings a release back to its baseline.

    Starts the release's server again and again on this host, without some operators, and reads the canary each time, or
    asks the items that the release lost although no canary failed. What was measured is kept: the same command
    goes on where it was interrupted.
    """
    from flagrelease.settings import settings
    from flows.bisect import bisect_release, listed_in

    def log(line: str) -> None:
        typer.echo(line, err=as_json)

    found = bisect_release(name, settings(), log, None if operators is None else listed_in(operators))
    if as_json:
        typer.echo(found.result.model_dump_json(indent=1))
        return
    result = found.result
    typer.echo(f"\n{result.status.upper()}: {result.reason}")
    typer.echo(
        f"{len(result.steps)} server starts, {result.seconds / 60:.0f} minutes, {len(result.operators)} operators"
    )
    if found.deny_list:
        typer.echo(f"\nfor the cell in matrix.yaml:\n\n{found.deny_list}")
    for path in found.files:
        typer.echo(f"{path.name + ':':<28}{path}")
