"""`flagrelease baseline`: measuring on the reference, taking in published scores, and seeing what there is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flagrelease.cli.inspect import AsJson
from flagrelease.cli.release import Revision

app = typer.Typer(no_args_is_help=True, help="Baselines: evaluation runs on the reference, or published scores.")
Output = Annotated[
    Path | None, typer.Option(help="folder for its files; by default evaluation/baselines of a checkout, else none")
]
# Wide enough for the tables where there is no terminal, as in a log.
NARROWEST = 140


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="a model, or the cell that serves its reference")],
    engine: Annotated[str | None, typer.Option(help="the reference's engine, where it is not the cell's own")] = None,
    revision: Revision = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="how often each question is asked, instead of each benchmark's own")
    ] = None,
    output: Output = None,
) -> None:
    """Measure a baseline: serve the model, ask its suite, serve and ask again for its noise, keep every answer.

    It is stored in the database, and as files in a checkout. A run that was interrupted goes on.
    """
    from evaluation.baseline import CHECKOUT
    from flagrelease.settings import settings
    from flows.baselines import check, measure_baseline, reference_job

    host, folder = settings(), output or CHECKOUT
    job = reference_job(name, engine, host, revision=revision)
    check(job, host, folder)
    identifier = measure_baseline(job, host, typer.echo, repeats=repeats, output=folder)
    typer.echo()
    _print(identifier)
    _say_how_to_use(identifier, job.cell.cell.model, folder, job.revision)


@app.command(name="import")
def import_(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="a model, or a cell whose card printed the scores")],
    file: Annotated[
        Path | None, typer.Option("--from", help="scores as YAML or JSON; by default the card's in the matrix")
    ] = None,
    source: Annotated[str | None, typer.Option(help="where the scores were published")] = None,
    output: Output = None,
) -> None:
    """Take in published scores without items. A comparison with them is unpaired, and says so."""
    from contextlib import closing

    from evaluation.baseline import CHECKOUT, keep
    from evaluation.catalogue import load_benchmarks
    from evaluation.published import read_published
    from flagrelease.settings import settings
    from flagrelease.store import Store

    host, folder = settings(), output or CHECKOUT
    baseline = read_published(name, host.matrix_path, load_benchmarks(), file=file, source=source)
    with closing(Store.open(host.store_url)) as store:
        identifier = keep(baseline, store, folder)
    _print(identifier)
    _say_how_to_use(identifier, baseline.model, folder)


@app.command(name="list")
def list_() -> None:
    """List the baselines in the store and in the files that FlagRelease brings."""
    from flagrelease.records import ImportedBaseline
    from flagrelease.settings import settings
    from flows.baseline_report import baseline_list

    rows = []
    for entry in baseline_list(settings()):
        about, places = entry.about, ", ".join(entry.places)
        if isinstance(about, ImportedBaseline):
            rows.append((entry.id, "published", places, f"{about.label}: {about.source}", ""))
        elif isinstance(about, str):
            rows.append((entry.id, "cannot be read", places, about, ""))
        else:
            origin = f"{about.engine} {about.engine_version}, {about.platform}"
            rows.append((entry.id, "measured", places, origin, about.created[:10]))
    _print_table(("Baseline", "Kind", "In", "From", "When"), rows)


@app.command()
def show(
    baseline: Annotated[str, typer.Argument(help="its id (flagrelease baseline list)")], as_json: AsJson = False
) -> None:
    """Show a baseline: where it comes from, scores, how it was asked, its noise."""
    import json

    from flagrelease.settings import settings
    from flows.baseline_report import baseline_view

    if as_json:
        typer.echo(json.dumps(baseline_view(baseline, settings()).as_json(), indent=1, ensure_ascii=False))
    else:
        _print(baseline)


def _print(identifier: str) -> None:
    from flagrelease.settings import settings
    from flows.baseline_report import ASKED, MeasuredView, asked_rows, baseline_view, facts, score_rows

    view = baseline_view(identifier, settings())
    typer.echo(f"baseline {view.id}")
    for name, value in facts(view).items():
        typer.echo(f"  {name + ':':<11}{value}")
    _print_table(*score_rows(view))
    if isinstance(view, MeasuredView):
        _print_table(ASKED, asked_rows(view))


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=max(NARROWEST, shutil.get_terminal_size().columns), soft_wrap=True).print("", table)


def _say_how_to_use(identifier: str, model: str, folder: Path | None, revision: str | None = None) -> None:
    typer.echo()
    if folder is not None:
        typer.echo(f"written to {folder / identifier}")
    entry = f"baseline: {identifier}" if revision is None else f'revisions: {{"{revision}": {identifier}}}'
    typer.echo(f"to use it: reference: {{{entry}}} of the model {model} in matrix.yaml")
