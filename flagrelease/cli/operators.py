"""`flagrelease operators`: what FlagGems holds, and whether each operator computes what it should."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flagrelease.cli.inspect import AsJson

if TYPE_CHECKING:
    from rich.table import Table

    from flagrelease.operators.catalogue import Operator
    from flagrelease.operators.results import OperatorResult
    from flagrelease.operators.shapes import Shapes

app = typer.Typer(no_args_is_help=True, help="FlagGems' operators: list them, and check them against a reference.")
WIDTH = 300
DIFFERENT, UNKNOWN = 1, 2


@app.command(name="list")
def list_(
    vendor: Annotated[str | None, typer.Option(help="what is used on this vendor's chips, such as metax")] = None,
    as_json: AsJson = False,
) -> None:
    """List the operators of the installed FlagGems: function, aten keys, vendors with an own one. No device is needed.

    FlagGems' files are read, not imported.
    """
    import json
    from dataclasses import asdict

    from flagrelease.operators.catalogue import read_catalogue
    from flagrelease.operators.environment import environment, with_flag_gems

    catalogue = read_catalogue(*with_flag_gems(environment()))
    if vendor:
        catalogue = catalogue.of_vendor(vendor)
    if as_json:
        typer.echo(json.dumps(asdict(catalogue), indent=1, default=str))
        return
    from rich.table import Table

    table = Table("Operator", "Aten keys", "Own ones" if vendor else "Vendors with an own one", box=None)
    for each in catalogue.operators:
        table.add_row(each.name, ", ".join(each.keys) or "(called by name)", _overrides(each, vendor))
    _print(table)
    keys = sum(len(each.keys) for each in catalogue.operators)
    typer.echo(f"\nFlagGems {catalogue.version}: {len(catalogue.operators)} operators, {keys} aten keys")
    for note in catalogue.notes:
        typer.echo(f"note: {note}")


@app.command()
def check(
    model: Annotated[
        str | None, typer.Option(help="sizes of this model: a model of the matrix, a folder or a config.json")
    ] = None,
    operator: Annotated[list[str] | None, typer.Option(help="only this one; may be repeated")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu (Triton's interpreter), or torch's name of the accelerator, such as cuda")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask each operator the sizes of a model and edge cases, and compare with a reference in float64.

    Without --device the accelerator is taken, or the CPU where there is none: there the kernels' arithmetic runs in
    Triton's interpreter, which says nothing of a compiler, a device or speed. What was asked already is not asked
    again. Ends with 1 where an operator differs or crashed, with 2 where none could be asked.
    """
    import json

    from flagrelease.operators.check import make_plan, run
    from flagrelease.operators.environment import environment
    from flagrelease.operators.shapes import SMALL_MODEL
    from flagrelease.settings import settings

    shapes = _shapes(model) if model else SMALL_MODEL
    plan = make_plan(environment(), shapes, operator or (), device)
    folder = settings().work_path / "operators"
    results = run(plan, folder, (lambda _: None) if as_json else typer.echo)
    if as_json:
        found = [each.as_json() for each in results]
        about = {"device": plan.device, "interpreter": plan.device == "cpu", **plan.environment.versions()}
        typer.echo(json.dumps({**about, "shapes": shapes.as_json(), "operators": found}, indent=1))
    else:
        typer.echo()
        _print(_table(results))
        how = "in Triton's interpreter: arithmetic only, no compiler, no device" if plan.device == "cpu" else ""
        typer.echo(f"\nsizes of {shapes.model}, {shapes.dtype} and float32, on {plan.device} {how}".rstrip())
        versions = plan.environment.versions().items()
        typer.echo(", ".join(f"{name} {version}" for name, version in versions))
        typer.echo(f"every case: {folder / plan.key()}")
    if any(each.verdict in ("differs", "crashed") for each in results):
        raise typer.Exit(DIFFERENT)
    if not any(each.verdict == "matches" for each in results):
        raise typer.Exit(UNKNOWN)


def _shapes(model: str) -> Shapes:
    from flagrelease.errors import WeightsError
    from flagrelease.loading import load_matrix
    from flagrelease.operators.shapes import read_shapes
    from flagrelease.settings import settings

    if Path(model).exists():
        return read_shapes(Path(model), model)
    known = load_matrix(settings().matrix_path).models
    if model not in known:
        # Raises with what is wrong.
        return read_shapes(Path(model), model)
    place = known[model].source.local_dir
    if place is None:
        raise WeightsError(
            f"the matrix names no folder of the model {model}, so its config.json is not here",
            remedy="--model <path of its config.json>, or models.<model>.source.local_dir in matrix.yaml",
        )
    return read_shapes(Path(place), model)


def _overrides(each: Operator, vendor: str | None) -> str:
    if vendor:
        return "; ".join(own.module + (f" ({own.condition})" if own.condition else "") for own in each.overrides)
    own = ", ".join(dict.fromkeys(own.vendor for own in each.overrides))
    return own + (f" (not used by {', '.join(each.unused_by)})" if each.unused_by else "")


def _table(results: list[OperatorResult]) -> Table:
    from rich.table import Table

    numbered = ("Worst error", "Tolerance", "Error/tolerance", "Speed (native/FlagGems)")
    table = Table("Operator", "Cases", *numbered, "Verdict", "Why", box=None)
    for each in results:
        numbers = (each.worst_error, each.worst_tolerance, each.worst, each.speed_ratio)
        shown = ["" if number is None else f"{number:.2g}" for number in numbers]
        table.add_row(each.operator, f"{each.matching}/{each.cases}", *shown, each.verdict, each.reason)
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    Console(width=WIDTH, soft_wrap=True, markup=False).print(table)
