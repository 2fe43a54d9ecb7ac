"""`flagrelease benchmarks`: what can be asked, and whether it can be asked here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(help="List the benchmarks, and check which can be run on this host.")
WIDTH = 300
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the benchmarks, and what harness has each."""
    if context.invoked_subcommand is not None:
        return
    import json

    from evaluation.catalogue import load_benchmarks

    benchmarks = load_benchmarks().values()
    if as_json:
        fields = {"key", "display", "description", "items", "metric", "scale", "role", "harness", "other_harnesses"}
        typer.echo(json.dumps([benchmark.model_dump(include=fields) for benchmark in benchmarks], indent=1))
        return
    table = _table("Benchmark", "Name", "Items", "Score of an item", "Role", "Harness here", "Other harnesses")
    for benchmark in benchmarks:
        scale = benchmark.scale.replace("_", " ")
        table.add_row(
            benchmark.key,
            benchmark.display,
            "?" if benchmark.items is None else str(benchmark.items),
            f"{benchmark.metric}, {scale}" if benchmark.harness else scale,
            benchmark.role,
            benchmark.harness or "none yet",
            ", ".join(benchmark.other_harnesses),
        )
    _print(table)


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="BENCHMARK", help="by default all")] = None,
    as_json: AsJson = False,
) -> None:
    """Check which benchmarks can be run on this host, and say what the others lack.

    Ends with 13 where a named benchmark cannot be run.
    """
    import json

    from evaluation.availability import obstacle
    from evaluation.catalogue import load_benchmarks, select
    from flagrelease.errors import PreflightError

    benchmarks = load_benchmarks()
    lacking = {benchmark.key: obstacle(benchmark) for benchmark in select(benchmarks, names or list(benchmarks))}
    if as_json:
        found = [{"benchmark": key, "can_run": lack is None, "missing": lack} for key, lack in lacking.items()]
        typer.echo(json.dumps(found, indent=1))
    else:
        table = _table("Benchmark", "Harness", "Can run", "What is missing")
        for key, lack in lacking.items():
            table.add_row(key, benchmarks[key].harness or "none yet", "no" if lack else "yes", lack or "")
        _print(table)
    if names and any(lacking.values()):
        raise typer.Exit(PreflightError.exit_code)


def _table(*columns: str) -> Table:
    from rich.table import Table

    return Table(*columns, box=None, padding=(0, 2, 0, 0))


def _print(table: Table) -> None:
    from rich.console import Console

    # A row is a line, however wide the terminal: so `grep` finds it.
    Console(width=WIDTH, soft_wrap=True).print(table)
