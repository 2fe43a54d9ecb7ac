"""`flagrelease plan`: what a sweep or a release would do and why, or what the gate can decide, before anything runs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from flagrelease.cli.inspect import AsJson

Chips = Annotated[list[str] | None, typer.Option("--chip", help="cells of this chip; may be given again")]
Models = Annotated[list[str] | None, typer.Option("--model", help="cells of this model, for example 'qwen3*'")]
Suites = Annotated[list[str] | None, typer.Option("--suite", help="cells whose model is asked this suite")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="cells with this tag")]
Since = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="cells whose newest release ended (or began) on this day or later, UTC"),
]


def plan(
    cell: Annotated[str | None, typer.Argument(help="one cell; by default the whole matrix")] = None,
    *,
    chip: Chips = None,
    model: Models = None,
    suite: Suites = None,
    tag: Tags = None,
    stale: Annotated[bool, typer.Option("--stale", help="cells for which a stage would run")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="cells whose newest release failed")] = False,
    changed_since: Since = None,
    power: Annotated[
        bool, typer.Option("--power", help="of one cell, what the gate can decide: items, repeats, time")
    ] = False,
    engine: Annotated[str | None, typer.Option(help="with --power, by default the cell's own")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a sweep over the matrix would do, and why, and how long it takes. Nothing is started or written.

    Works on every host, also for cells that cannot be run on it. With --power: what a release of the cell can decide.
    Exit code: 0; with --power 2 where it cannot decide (INCONCLUSIVE is known beforehand); 10 and above an error.
    """
    selectors = [chip, model, suite, tag, stale, failed, changed_since]
    if cell is not None and any(selectors):
        raise typer.BadParameter("give one cell, or options that select cells")
    if power and cell is None:
        raise typer.BadParameter("flagrelease plan CELL --power: of which cell?")
    if engine is not None and not power:
        raise typer.BadParameter("--engine goes with --power")
    if power and cell is not None:
        from flagrelease.cli.plan_power import plan_power

        raise typer.Exit(plan_power(cell, engine, as_json=as_json))
    from datetime import UTC

    from flagrelease.cli.plan_sweep import show_cell, show_sweep
    from flagrelease.selection import Selection
    from flagrelease.settings import settings
    from flows.plan import plan_matrix

    selection = Selection(
        chips=chip or [],
        models=model or [],
        suites=suite or [],
        tags=tag or [],
        stale=stale,
        failed=failed,
        changed_since=changed_since.replace(tzinfo=UTC) if changed_since else None,
    )
    found = plan_matrix(settings(), selection, cell)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    elif cell is not None:
        show_cell(found)
    else:
        show_sweep(found)
