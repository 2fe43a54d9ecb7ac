"""`flagrelease weights`: a model's weights as its engine reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flagrelease.cli.release import Cell, EngineName


def weights(
    cell: Cell,
    output: Annotated[Path, typer.Option(help="folder to write to, as the card's container mounts it")],
    engine: EngineName = None,
) -> None:
    """Write the cell's weights in the form that its engine reads: checked by hash, converted where need be."""
    from flagrelease.settings import settings
    from flows.job import make_job
    from flows.serving import model_path, path_inside
    from runtime.weights import check, put

    host = settings()
    job = make_job(cell, engine, host)
    path = model_path(job, check(job.cell.model), host.work_path)
    target = output if path.is_dir() else output / path_inside(job).name
    said = "written" if put(path, target) else "was there already, unchanged"
    typer.echo(f"{target}: {said}")
