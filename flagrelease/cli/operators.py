"""`flagrelease operators`: what FlagGems holds, and whether each operator computes what it should."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flagrelease.cli.inspect import AsJson
from flagrelease.cli.operators_issues import issues
from flagrelease.cli.operators_table import print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from flagrelease.matrix import Model
    from flagrelease.operators.catalogue import Operator
    from flagrelease.operators.environment import Loaded
    from flagrelease.operators.results import OperatorResult
    from flagrelease.operators.shapes import Shapes

app = typer.Typer(no_args_is_help=True, help="FlagGems' operators: list them, and check them against a reference.")
app.command()(issues)
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
    print_table(table)
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
    chip: Annotated[
        str | None,
        typer.Option(help="the chip of the matrix that the device is of: the results count for its releases"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask each operator the sizes of a model and edge cases, and compare with a reference in float64.

    Without --device the accelerator is taken, or the CPU where there is none: there the kernels' arithmetic runs in
    Triton's interpreter, which says nothing of a compiler, a device or speed. What was asked already is not asked
    again. The results are stored; with --chip the cards of its FlagOS releases say what was found. Ends with 1 where an
    operator differs or crashed, with 2 where none could be asked.
    """
    import json

    from flagrelease.loading import chip_named
    from flagrelease.operators.check import make_plan, run
    from flagrelease.operators.conformance import as_json as in_json
    from flagrelease.operators.conformance import keep
    from flagrelease.operators.environment import environment
    from flagrelease.operators.shapes import SMALL_MODEL
    from flagrelease.settings import settings

    meant = chip_named(chip) if chip is not None else None
    shapes = _shapes(model) if model else SMALL_MODEL
    plan = make_plan(environment(), shapes, operator or (), device, chip=meant)
    folder = settings().work_path / "operators"
    results = run(plan, folder, (lambda _: None) if as_json else typer.echo)
    if as_json:
        typer.echo(json.dumps(in_json(plan, results), indent=1))
    else:
        typer.echo()
        print_table(_table(results, plan.loaded))
        how = "in Triton's interpreter: arithmetic only, no compiler, no device" if plan.device == "cpu" else ""
        of_chip = f" of {meant.display}" if meant else ""
        typer.echo(f"\nsizes of {shapes.model}, {shapes.dtype} and float32, on {plan.device}{of_chip} {how}".rstrip())
        versions = plan.environment.versions().items()
        typer.echo(", ".join(f"{name} {version}" for name, version in versions))
        for note in plan.notes():
            typer.echo(f"note: {note}")
        typer.echo(f"every case: {folder / plan.key()}")
    # What was found is told first: storing it may fail.
    keep(plan, folder, settings())
    if any(each.verdict in ("differs", "crashed") for each in results):
        raise typer.Exit(DIFFERENT)
    if not any(each.verdict == "matches" for each in results):
        raise typer.Exit(UNKNOWN)


def _shapes(model: str) -> Shapes:
    from flagrelease.errors import WeightsError
    from flagrelease.loading import load_matrix
    from flagrelease.operators.shapes import read_shapes
    from flagrelease.settings import settings

    known = load_matrix(settings().matrix_path).models
    if Path(model).exists():
        return read_shapes(Path(model), _key_of(Path(model), known) or model)
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


def _key_of(path: Path, models: Mapping[str, Model]) -> str | None:
    """The model of the matrix whose folder, or whose config.json, this is: its cards name what was found."""
    folder = path if path.is_dir() else path.parent
    places = {key: model.source.local_dir for key, model in models.items()}
    return next((key for key, place in places.items() if place and Path(place).resolve() == folder.resolve()), None)


def _overrides(each: Operator, vendor: str | None) -> str:
    if vendor:
        return "; ".join(own.module + (f" ({own.condition})" if own.condition else "") for own in each.overrides)
    own = ", ".join(dict.fromkeys(own.vendor for own in each.overrides))
    return own + (f" (not used by {', '.join(each.unused_by)})" if each.unused_by else "")


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.2g}"


def _table(results: list[OperatorResult], loaded: Loaded | None) -> Table:
    """The results; on a device also which operators are not FlagGems' plain ones."""
    from rich.table import Table

    table = Table("Operator", "Cases", "Worst error", "Tolerance", "Error/tolerance", "Verdict", box=None)
    if loaded:
        table.add_column("Speed (native/FlagGems)")
        table.add_column(f"Own one of {loaded.vendor}")
    table.add_column("Why")
    for each in results:
        shown = [_short(number) for number in (each.worst_error, each.worst_tolerance, each.worst)]
        on_device = [_short(each.speed_ratio), loaded.own(each.operator) or ""] if loaded else []
        table.add_row(each.operator, f"{each.matching}/{each.cases}", *shown, each.verdict, *on_device, each.reason)
    return table
