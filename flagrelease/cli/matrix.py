"""`flagrelease matrix`: what is released, and whether the file is right."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The matrix of models and chips.")


@app.command()
def check() -> None:
    """Check matrix.yaml, the chip files and the benchmark files."""
    from evaluation.catalogue import load_benchmarks, select
    from flagrelease.loading import load_chips, load_matrix, resolve_all
    from flagrelease.settings import settings

    path = settings().matrix_path
    matrix, benchmarks = load_matrix(path), load_benchmarks()
    cells = resolve_all(matrix, load_chips())
    for suite in matrix.suites.values():
        select(benchmarks, suite)
    typer.echo(
        f"{path} is valid: {len(matrix.models)} models, {len(cells)} cells, "
        f"{len(matrix.suites)} suites, {len(benchmarks)} benchmarks"
    )


@app.command()
def show(
    cell: Annotated[str | None, typer.Argument(help="one cell, whole")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """List the cells, or show one with everything it refers to."""
    from rich.console import Console
    from rich.table import Table

    from flagrelease.loading import load_chips, load_matrix, resolve, resolve_all
    from flagrelease.settings import settings

    matrix, chips = load_matrix(settings().matrix_path), load_chips()
    if cell is not None:
        typer.echo(json.dumps(resolve(matrix, chips, cell).model_dump(mode="json"), indent=1, ensure_ascii=False))
        return
    cells = resolve_all(matrix, chips)
    if as_json:
        typer.echo(json.dumps([entry.model_dump(mode="json") for entry in cells], indent=1, ensure_ascii=False))
        return
    table = Table("Cell", "Model", "Chip", "Stack", "Engine", "Suite", "Baseline", box=None)
    for entry in cells:
        table.add_row(
            entry.id,
            entry.model.display,
            entry.chip.display,
            entry.cell.stack,
            entry.cell.engine,
            entry.model.suite,
            entry.model.reference.baseline or "none yet",
        )
    Console(width=160).print(table)


@app.command()
def schema() -> None:
    """Print the JSON Schema of matrix.yaml, for editors."""
    from flagrelease.loading import json_schema

    typer.echo(json.dumps(json_schema(), indent=1))
