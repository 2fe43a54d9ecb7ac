"""`flagrelease status` and `show`: what the store knows."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from flagrelease.operators.known_issues import KnownIssue
    from flagrelease.store import Store
    from flagrelease.store.queries import ReleaseView
    from flagrelease.sweep import SweepView

AsJson = Annotated[bool, typer.Option("--json", help="for programs")]
ReleaseName = Annotated[str, typer.Argument(help="a release's number, or a cell (its newest release)")]


def status(as_json: AsJson = False) -> None:
    """Show every cell of the matrix with its newest release, and what became of the newest sweep.

    "Lost" names the benchmarks whose loss stands when all cells are looked at together: of those named, one in twenty
    is expected to be chance (Benjamini-Hochberg).
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from evaluation.accuracy import losses_over_matrix
    from flagrelease.loading import load_matrix
    from flagrelease.settings import settings
    from flagrelease.store import Store, sweeps
    from flagrelease.store.queries import latest_releases

    host = settings()
    cells = load_matrix(host.matrix_path).cell_ids()
    store = Store.open(host.store_url)
    newest, sweep = latest_releases(store, cells), sweeps.newest(store)
    store.close()
    if as_json:
        views = {cell: newest[cell].model_dump(mode="json") if cell in newest else None for cell in cells}
        typer.echo(json.dumps({"cells": views, "sweep": sweep.model_dump(mode="json") if sweep else None}, indent=1))
        return
    losses = losses_over_matrix({cell: view.gate for cell, view in newest.items() if view.gate})
    table = Table("Cell", "Release", "State", "Engine", "Verdict", "Lost", "When", box=None, padding=(0, 2, 0, 0))
    for cell in cells:
        view = newest.get(cell)
        if view is None:
            table.add_row(cell, "none", "", "", "", "", "")
            continue
        when = (view.finished_at or view.started_at).strftime("%Y-%m-%d %H:%M")
        table.add_row(
            cell,
            str(view.id),
            view.state,
            view.engine,
            view.gate.verdict if view.gate else "",
            ", ".join(losses.get(cell, [])),
            when,
        )
    console = Console(soft_wrap=True)
    console.print(table)
    if sweep:
        _show_sweep(console, sweep)


def _show_sweep(console: Console, sweep: SweepView) -> None:
    """The sweep in a few lines: when, how many cells of each state, why some were not released."""
    from flagrelease.sweep import causes, line_of

    begun = f"{sweep.started_at:%Y-%m-%d %H:%M}"
    until = "" if sweep.finished_at is None else f" to {sweep.finished_at:%Y-%m-%d %H:%M}"
    console.print(f"\nSweep {sweep.id}, {begun}{until}, {sweep.state}: {sweep.summary}", markup=False, highlight=False)
    for cause in causes(sweep.outcomes, _known_issues()):
        console.print(f"  {line_of(cause)}", markup=False, highlight=False)
        if cause.remedy:
            console.print(f"    -> {cause.remedy}", markup=False, highlight=False)


def show(name: ReleaseName, as_json: AsJson = False) -> None:
    """Show a release: stages, verdict, results, card, evidence, publications."""
    from rich.console import Console
    from rich.markdown import Markdown

    from flagrelease.settings import settings
    from flagrelease.store import Store
    from flagrelease.store.approvals import WAITING
    from flagrelease.store.queries import find_release, release_view
    from flows.report import places, release_report, verdict_table

    host = settings()
    store = Store.open(host.store_url)
    view = release_view(store, find_release(store, name))
    issue = _known_issue(store, view)
    store.close()
    if as_json:
        import json

        typer.echo(json.dumps({**view.model_dump(mode="json"), "places": places(view, host)}, indent=1))
        return
    console = Console(width=max(100, shutil.get_terminal_size().columns))
    console.print(Markdown(release_report(view.id, host)))
    if view.error:
        console.print(f"\n{'waits' if view.state == WAITING else 'error'}: {view.error}", markup=False)
    if issue:
        console.print(f"known issue {issue.id}: {issue.symptom}\n  -> {issue.next_step}", markup=False, highlight=False)
    if view.gate:
        console.print(Markdown("\n" + verdict_table(view.gate)))


def _known_issue(store: Store, view: ReleaseView) -> KnownIssue | None:
    """The known issue of FlagGems that a release failed of."""
    from flagrelease.operators.known_issues import recognised
    from flagrelease.records import Stack
    from flagrelease.store.plans import cell_snapshots

    if view.state != "failed" or view.error is None:
        return None
    cell = cell_snapshots(store, [view.id]).get(view.id, {}).get("cell", {})
    if cell.get("stack") != Stack.FLAGOS:
        return None
    return recognised(_known_issues(), cell["chip"], view.error)


def _known_issues() -> list[KnownIssue]:
    """Known issues, or none, which is said, where the file of further ones cannot be read: the rest can be shown."""
    from flagrelease.errors import FlagReleaseError
    from flagrelease.loading import load_known_issues

    try:
        return load_known_issues()
    except FlagReleaseError as error:
        typer.echo(f"known issues are left out: {error.message}", err=True)
        return []
