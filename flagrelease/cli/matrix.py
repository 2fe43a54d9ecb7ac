"""`flagrelease matrix`: what is released, and whether the file is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flagrelease.matrix import Matrix
    from flagrelease.yaml_file import Positions, Problem

app = typer.Typer(no_args_is_help=True, help="The matrix of models and chips.")


@app.command()
def check() -> None:
    """Check matrix.yaml with its engine settings, the chip files and the benchmark files."""
    from evaluation.catalogue import load_benchmarks
    from flagrelease.loading import load_chips, load_matrix, load_yaml, resolve_all
    from flagrelease.settings import settings
    from flagrelease.yaml_file import invalid

    path = settings().matrix_path
    matrix, benchmarks = load_matrix(path), load_benchmarks()
    cells = resolve_all(matrix, load_chips())
    if problems := list(_engine_faults(matrix, load_yaml(path)[1])):
        raise invalid(path, problems)
    typer.echo(
        f"{path} is valid: {len(matrix.models)} models, {len(cells)} cells, "
        f"{len(matrix.suites)} suites, {len(benchmarks)} benchmarks"
    )


def _engine_faults(matrix: Matrix, positions: Positions) -> Iterator[Problem]:
    """Settings that the engine of a cell does not take."""
    from pydantic import ValidationError

    from flagrelease.yaml_file import problems_of
    from runtime.engines import ENGINES

    for index, cell in enumerate(matrix.cells):
        for name, raw in cell.engines.items():
            if name in ENGINES:
                try:
                    ENGINES[name].settings(raw)
                except ValidationError as error:
                    kind = type(ENGINES[name].settings({}))
                    yield from problems_of(error, kind, raw, positions, ("cells", index, "engines", name))


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
