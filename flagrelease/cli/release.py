"""`flagrelease release` and `serve`."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Annotated

import typer

Cell = Annotated[str, typer.Argument(help="the cell's id, for example smollm2-cpu (flagrelease matrix show)")]
EngineName = Annotated[str | None, typer.Option("--engine", help="serve with this engine, not the cell's own")]

# A release in this process says what happens in one line each; flows on workers log as Prefect is set up there.
LOCAL_PREFECT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(task_name)s: %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%H:%M:%S",
    "PREFECT_LOGGING_LEVEL": "INFO",
}
Revision = Annotated[
    str | None, typer.Option(help="commit, tag or branch of the weights' repository, not the matrix's own")
]
EXIT_CODES = {"REGRESSED": 1, "INVALID": 3}


def release(
    cell: Cell,
    *,
    engine: EngineName = None,
    revision: Revision = None,
    suite: Annotated[str | None, typer.Option(help="ask this suite of the matrix, not the model's own")] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="ask each question so often, not as each benchmark says")
    ] = None,
    publish: Annotated[bool, typer.Option("--publish/--no-publish", help="publish what the gate lets out")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="run every stage again, also where its result is there")
    ] = False,
) -> None:
    """Release a cell: build, serve, evaluate, compare with the baseline, decide, render the card, publish.

    What is finished is reused: a run that was interrupted goes on, and a second run does nothing.
    Exit code: 0 released, 1 REGRESSED, 3 INVALID, 10 and above an error.
    """
    from flagrelease.settings import settings
    from flows.job import make_job, preflight
    from flows.own_baseline import require_own_baseline
    from flows.session import finished_release

    host = settings()
    job = make_job(cell, engine, host, revision=revision, suite=suite, repeats=repeats, publish=publish)
    preflight(job, host)
    require_own_baseline(job, host)
    done = None if force else finished_release(job, host)
    if done is not None:
        typer.echo(f"release {done} of {cell} is complete and nothing it was made from has changed: no stage was run\n")
    else:
        for name, value in LOCAL_PREFECT.items():
            os.environ.setdefault(name, value)
        typer.echo("starting Prefect …")
        from flows.local_server import prefect_server
        from flows.release import release as flow

        with prefect_server(host.home_path / "prefect", typer.echo):
            done = flow(
                cell,
                engine=engine,
                revision=revision,
                suite=suite,
                repeats=repeats,
                publish=publish,
                force=force,
            )
        typer.echo()
    raise typer.Exit(_summary(done))


def _summary(release_id: int) -> int:
    from rich.console import Console
    from rich.table import Table

    from flagrelease.settings import settings
    from flagrelease.store import Store
    from flagrelease.store.queries import latest_releases, release_view
    from flows.report import HEADER, places, said, verdict_cells

    host = settings()
    store = Store.open(host.store_url)
    view = release_view(store, release_id)
    newest = latest_releases(store, [view.cell])[view.cell]
    store.close()
    # Wide enough for the table where there is no terminal, as in a log.
    console = Console(width=max(110, shutil.get_terminal_size().columns), soft_wrap=True)
    if view.gate is None:
        return 0
    console.print(f"[bold]{view.gate.verdict}[/bold]  release {view.id} of {view.cell} through {view.engine}")
    table = Table(*HEADER, box=None, padding=(0, 2, 0, 0))
    for row in view.gate.benchmarks:
        table.add_row(*verdict_cells(row))
    console.print(table)
    for reason in said(view.gate):
        console.print(f"  {reason}", markup=False, highlight=False)
    for name, place in places(view, host).items():
        console.print(f"{name + ':':<28}{place}", markup=False, highlight=False)
    if newest.id != view.id:
        console.print(
            f"note: release {newest.id} through {newest.engine} is newer; where it was published, card and publication "
            f"are its own (those of release {view.id} are in its evidence)",
            markup=False,
        )
    return EXIT_CODES.get(view.gate.verdict, 0)


def serve(
    cell: Cell,
    engine: EngineName = None,
    revision: Revision = None,
    port: Annotated[int | None, typer.Option(help="by default the port that the card prints")] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
) -> None:
    """Serve a cell's model with the settings it was released with, until Ctrl-C."""
    from flagrelease.errors import ServerError
    from flagrelease.settings import settings
    from flows.job import make_job
    from flows.serving import start_server

    job = make_job(cell, engine, settings(), revision=revision)
    chosen = port or job.cell.cell.port
    # Ended by a service manager is ended as by Ctrl-C: the server stops with this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with start_server(job, settings(), typer.echo, address=host, port=chosen) as server:
        typer.echo(f"{job.cell.served_name} is served at {server.base_url}/v1/ (Ctrl-C ends it)")
        try:
            server.wait()
        except KeyboardInterrupt:
            typer.echo("stopping")
            return
        raise ServerError(f"the server ended: {server.exit_reason()}", remedy=f"see {server.log_path}")
