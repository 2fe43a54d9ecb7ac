"""`flagrelease plan CELL --power`: what the gate can decide of a cell, before anything runs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from evaluation.catalogue import Benchmark
    from evaluation.planner import BenchmarkPlan, PowerPlan
    from flagrelease.matrix import ResolvedCell
    from flagrelease.records import Evaluation, ImportedBaseline
    from flagrelease.store import Store

CANNOT_DECIDE = 2
# Wide enough for the table where there is no terminal, as in a log.
NARROWEST = 150
MINUTE, HOUR = 60, 3600


def plan_power(cell: str, engine: str | None, *, as_json: bool) -> int:
    """Plan a cell and show it; returns the exit code."""
    from contextlib import closing

    from evaluation import planner
    from flagrelease.loading import load_chips, load_matrix, resolve
    from flagrelease.settings import settings
    from flagrelease.store.plans import open_for_reading

    host = settings()
    resolved = resolve(load_matrix(host.matrix_path), load_chips(), cell)
    name = engine or resolved.cell.engine
    benchmarks, not_run = _asked(resolved, name)
    with closing(open_for_reading(host.store_url)) as store:
        baseline, earlier = _baseline(store, resolved), _earlier(store, resolved, name)
    found = planner.plan_power(resolved, name, benchmarks, baseline=baseline, not_run=not_run, earlier=earlier)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        _print(found)
    return CANNOT_DECIDE if found.decides is False else 0


def _asked(cell: ResolvedCell, engine: str) -> tuple[list[Benchmark], dict[str, str]]:
    """The benchmarks of the cell's suite that the engine can be asked, and why the others cannot."""
    from evaluation.availability import ALL_CAPABILITIES
    from evaluation.catalogue import load_benchmarks, missing, select
    from runtime.engines import ENGINES
    from runtime.engines import engine as engine_named

    if engine == cell.cell.engine and engine not in ENGINES:
        # It runs in a container only, and what it cannot do is not known here.
        served, display = frozenset[str](ALL_CAPABILITIES), str(engine)
    else:
        served, display = frozenset[str](engine_named(engine).capabilities), engine_named(engine).display
    asked, not_run = [], {}
    for benchmark in select(load_benchmarks(), cell.suite):
        why = missing(benchmark, served, display)
        if why is None:
            asked.append(benchmark)
        else:
            not_run[benchmark.display] = why
    return asked, not_run


def _baseline(store: Store, cell: ResolvedCell) -> Evaluation | ImportedBaseline | None:
    """The cell's baseline, from the store or from its files; nothing is written."""
    from evaluation import baseline as baselines

    identifier = cell.model.reference.baseline
    if identifier is None:
        return None
    stored = store.evaluation_summary(baseline_id=identifier)
    if stored is not None:
        return store.evaluation(stored)
    if baselines.is_imported(identifier):
        return baselines.load_imported(identifier)
    return baselines.load(identifier)


def _earlier(store: Store, cell: ResolvedCell, engine: str) -> Evaluation | None:
    """The newest evaluation of the cell through the engine that has answers."""
    from sqlalchemy import select

    from flagrelease.store.models import EvaluationRow

    with store.session() as session:
        found = session.execute(
            select(EvaluationRow.id, EvaluationRow.provenance, EvaluationRow.benchmarks)
            .where(EvaluationRow.model == cell.cell.model, EvaluationRow.role == "candidate")
            .order_by(EvaluationRow.id.desc())
        ).all()
    wanted = (cell.cell.chip, cell.cell.stack, engine)
    for identifier, about, benchmarks in found:
        if benchmarks and (about["chip"], about["stack"], about["engine"]) == wanted:
            return store.evaluation(store.known_evaluation(evaluation=identifier))
    return None


HEADER = (
    ("Benchmark", "left"),
    ("Role", "left"),
    ("n", "right"),
    ("Repeats", "left"),
    ("Margin", "right"),
    ("ψ", "right"),
    ("from", "left"),
    ("Detectable", "right"),
    ("q", "right"),
    ("Repeats for q ≥ 1", "left"),
    ("Chance", "right"),
    ("Time", "right"),
)


def _print(found: PowerPlan) -> None:
    """The plan for people: a row a benchmark, the whole, and what to do."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=max(NARROWEST, shutil.get_terminal_size().columns), soft_wrap=True, highlight=False)

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style))

    baseline = {
        "measured": f"against baseline {found.baseline_id}",
        "published scores": f"against the published scores {found.baseline_id}, planned as if they were measured",
        "none": "without a baseline yet, planned as if one was measured with as many repeats",
    }
    say(f"{found.cell} through {found.engine}, {baseline[found.baseline]}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title, side in HEADER:
        table.add_column(title, justify="right" if side == "right" else "left")
    for row in found.benchmarks:
        table.add_row(*map(Text, _cells(row)))
    console.print(table)
    for words, names in _notes(found).items():
        say(f"  {', '.join(names)}: {words}")
    for display, why in found.not_run.items():
        say(f"  {display} is not run: {why}")
    if found.pooled_standard_error is not None:
        least = "at least " if found.unknown else ""
        error = f"expected standard error {least}{100 * found.pooled_standard_error:.2f} points"
        say(f"pooled: {error}, margin {found.pooled_margin_points:g}")
    say(f"time: {_wholetime_words(found)}")
    say(found.conclusion, "bold")
    for way in found.ways_out:
        say(f"  -> {way}")


def _notes(found: PowerPlan) -> dict[str, list[str]]:
    """What to know of the table's rows: each remark once, with the benchmarks that it is about."""
    notes: dict[str, list[str]] = {}
    for row in found.benchmarks:
        if row.origin == "published":
            notes.setdefault("ψ is from published pairs of systems, a lower bound (sources: --json)", []).append(
                row.display
            )
        elif row.origin == "unknown":
            notes.setdefault(f"ψ is not known: {row.source}", []).append(row.display)
        if row.note:
            notes.setdefault(row.note, []).append(row.display)
    return notes


def _cells(row: BenchmarkPlan) -> tuple[str, ...]:
    """One benchmark as table cells; shares in percent, differences in points."""
    repeats = (
        f"{row.repeats}" if row.repeats == row.baseline_repeats else f"{row.repeats} (base {row.baseline_repeats})"
    )
    needed = "?" if row.discordance is None or row.items is None else "no number"
    if row.repeats_needed is not None:
        needed = (
            f"{row.repeats_needed}{' on both sides' if row.repeats_of == 'both' and row.repeats_needed > 1 else ''}"
        )
    return (
        row.display,
        row.role,
        "not fixed" if row.items is None else str(row.items),
        repeats,
        _number(row.margin_points, "g"),
        "?" if row.discordance is None else f"{100 * row.discordance:.2g} %",
        row.origin,
        _number(row.detectable_points, ".2f"),
        _number(row.resolution, ".2f"),
        needed,
        "?" if row.chance is None else f"{100 * row.chance:.0f} %",
        "?" if row.seconds is None else time_words(row.seconds),
    )


def _number(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)


def _wholetime_words(found: PowerPlan) -> str:
    """How long the questions take, and whose times that is estimated from."""
    if found.seconds is None:
        return "not known, no evaluation with times is in the store"
    lacking = [row.display for row in found.benchmarks if row.seconds is None]
    whose = sorted(
        {
            f"the {row.seconds_from}" if row.seconds_from == "baseline" else "an earlier evaluation"
            for row in found.benchmarks
            if row.seconds_from
        }
    )
    said = f"about {time_words(found.seconds)} for the questions, by the times of {' and '.join(whose)}"
    if found.repeats and found.seconds_added is not None:
        said += f"; {time_words(found.seconds_added)} more where escalation asks again"
    return said + (f"; not known for {', '.join(lacking)}" if lacking else "")


def time_words(seconds: float) -> str:
    """A time as people say it: 12 s, 35 min, 2.5 h."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < HOUR else f"{seconds / HOUR:.1f} h"
