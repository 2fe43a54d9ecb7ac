"""`flagrelease baseline`: measuring on the reference, and seeing what was measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Baselines: evaluation runs on the reference.")


@app.command()
def run(
    cell: Annotated[str, typer.Argument(help="a cell of the model, served on the reference")],
    engine: Annotated[str | None, typer.Option(help="the reference's engine")] = None,
    output: Annotated[Path, typer.Option(help="folder that the baseline is written to")] = Path("evaluation/baselines"),
) -> None:
    """Measure a baseline: serve the model, ask its suite, write items and provenance as files."""
    from evaluation.baseline import save
    from flagrelease.records import digest
    from flagrelease.settings import settings
    from flows.session import make_job, measured_inputs, preflight
    from flows.stages import SaidProgress, measure, start_server

    host = settings()
    job = make_job(cell, engine, host)
    preflight(job, host)
    # Answers so far belong to exactly these weights, this engine and these questions.
    journals = host.work_path / "answers" / f"baseline-{digest(measured_inputs(job))[:16]}"
    with start_server(job, host.work_path, typer.echo) as server:
        evaluation = measure(
            job,
            server,
            work=host.work_path,
            journals=journals,
            progress=SaidProgress(typer.echo),
            log=typer.echo,
        )
    folder = save(evaluation, output)
    shutil.rmtree(journals, ignore_errors=True)
    typer.echo(f"baseline {folder.name} in {folder}")
    typer.echo(f"to use it: reference: {{baseline: {folder.name}}} of the model {job.cell.cell.model} in matrix.yaml")


@app.command(name="list")
def list_() -> None:
    """List the stored baselines."""
    from evaluation.baseline import SHIPPED, load

    for folder in sorted(path for path in SHIPPED.iterdir() if path.is_dir()):
        about = load(folder.name).provenance
        typer.echo(f"{folder.name}  {about.engine} {about.engine_version}, {about.platform}, {about.created}")


@app.command()
def show(baseline: Annotated[str, typer.Argument(help="its id (flagrelease baseline list)")]) -> None:
    """Show a baseline's provenance and scores as JSON."""
    import json

    from evaluation.baseline import load
    from evaluation.run import aggregate

    evaluation = load(baseline)
    about = evaluation.model_dump(mode="json", exclude={"items"})
    about["results"] = [result.model_dump() for result in aggregate(evaluation)]
    typer.echo(json.dumps(about, indent=1, ensure_ascii=False))
