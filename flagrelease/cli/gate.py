"""`flagrelease gate`, `flips` and `compare`: why the gate decided as it did, and the same gate on two files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flagrelease.cli.inspect import AsJson, ReleaseName

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from evaluation.compare import Answers
    from flagrelease.verdicts import GateResult

EXIT_CODES = {"CONSISTENT": 0, "REGRESSED": 1, "INCONCLUSIVE": 2, "INVALID": 3}
ANSWER_SHOWN = 40
ITEM_SHOWN = 12
# Wide enough for the tables where there is no terminal, as in a log.
NARROWEST = 120


def gate(name: ReleaseName, as_json: AsJson = False) -> None:
    """Show the gate's verdict on a release with its derivation.

    Of a cell: its newest release that has a verdict.
    Exit code: 0 CONSISTENT, 1 REGRESSED, 2 INCONCLUSIVE, 3 INVALID, 10 and above an error.
    """
    import json

    from flagrelease.settings import settings
    from flagrelease.store import Store
    from flagrelease.store.queries import judged_release

    store = Store.open(settings().store_url)
    try:
        view, result, _ = judged_release(store, name)
    finally:
        store.close()
    if as_json:
        about = {"release": view.id, "cell": view.cell, **result.model_dump(mode="json")}
        typer.echo(json.dumps(about, indent=1))
    else:
        what = f"release {view.id} of {view.cell} through {view.engine} against baseline {result.baseline_id}"
        _print_verdict(_console(), result, what)
    raise typer.Exit(EXIT_CODES[result.verdict])


def flips(
    name: ReleaseName,
    benchmark: Annotated[str | None, typer.Option(help="only this benchmark")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the items whose score changed against the baseline, lost ones first.

    Of a cell: those of its newest release that has a verdict.
    """
    import json

    from rich.table import Table

    from evaluation.compare import flips as changed_items
    from flagrelease.errors import BaselineError, UnknownNameError
    from flagrelease.settings import settings
    from flagrelease.store import Store
    from flagrelease.store.queries import judged_release
    from flagrelease.yaml_file import suggest

    store = Store.open(settings().store_url)
    try:
        view, result, candidate_id = judged_release(store, name)
        if not result.paired:
            raise BaselineError(
                f"release {view.id} was compared with published scores, whose answers nobody has: {result.baseline_id}",
                remedy="measure a baseline: flagrelease baseline run <model>; then release the cell against it",
            )
        candidate = store.known_evaluation(evaluation=candidate_id)
        baseline = store.known_evaluation(baseline_id=result.baseline_id)
        here = {run.benchmark for run in candidate.benchmarks}
        shared = [run.benchmark for run in baseline.benchmarks if run.benchmark in here]
        if benchmark is not None and benchmark not in shared:
            raise UnknownNameError(
                f"release {view.id} has no benchmark `{benchmark}`", remedy=suggest(benchmark, shared)
            )
        found = changed_items(
            store.evaluation(candidate), store.evaluation(baseline), [benchmark] if benchmark else shared
        )
    finally:
        store.close()
    lost = sum(flip.lost for flip in found.flips)
    won = len(found.flips) - lost
    if as_json:
        about = {"release": view.id, "cell": view.cell, "baseline_id": result.baseline_id, "compared": found.compared}
        rows = [flip.model_dump(mode="json") for flip in found.flips]
        typer.echo(json.dumps({**about, "lost": lost, "won": won, "flips": rows}, indent=1, ensure_ascii=False))
        return
    console = _console()
    table = Table("Benchmark", "Item", "Score", "Extracted", "Answer", "Finish", box=None, padding=(0, 2, 0, 0))
    for flip in found.flips:
        sides = (flip.baseline, flip.candidate)
        table.add_row(
            _text(flip.benchmark),
            _text(flip.item[:ITEM_SHOWN]),
            _text(" → ".join(f"{side.score:.3g}" for side in sides)),
            _text(" → ".join(_answers(side, side.extracted) for side in sides)),
            _text(" → ".join(_answers(side, side.answers) for side in sides)),
            _text(" → ".join(_answers(side, [reason or "?" for reason in side.finish_reasons]) for side in sides)),
        )
    if found.flips:
        console.print(table)
    console.print(
        _text(
            f"{lost} lost and {won} won of {found.compared} items: release {view.id} of {view.cell} "
            f"against baseline {result.baseline_id}"
        )
    )


def compare(
    baseline: Annotated[Path, typer.Argument(help="item file, lm-eval sample log, or a folder of such logs")],
    candidate: Annotated[Path, typer.Argument(help="the same kind, of the system that is judged")],
    *,
    policy: Annotated[Path | None, typer.Option(help="thresholds as YAML; by default those of the matrix")] = None,
    filters: Annotated[list[str] | None, typer.Option("--filter", help="of lm-eval's logs; can be repeated")] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", help="of lm-eval's logs; can be repeated")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge two files of scored answers by the gate, without a store.

    Exit code: 0 CONSISTENT, 1 REGRESSED, 2 INCONCLUSIVE, 3 INVALID, 10 and above an error.
    """
    import json

    from evaluation.compare import compare as compare_files
    from evaluation.item_files import read
    from flagrelease.loading import load_matrix, load_yaml, validate
    from flagrelease.policy import Policy
    from flagrelease.settings import settings

    thresholds = (
        load_matrix(settings().matrix_path).policy if policy is None else validate(Policy, policy, *load_yaml(policy))
    )
    theirs, ours = (read(path, filters=filters or (), metrics=metrics or ()) for path in (baseline, candidate))
    comparison = compare_files(ours, theirs, thresholds)
    result = comparison.gate
    if as_json:
        about = {"baseline": str(baseline), "candidate": str(candidate), **result.model_dump(mode="json")}
        typer.echo(json.dumps({**about, "not_checked": comparison.not_checked}, indent=1))
    else:
        console = _console()
        _print_verdict(console, result, f"{candidate} against baseline {baseline}", thresholds.alpha)
        console.print(_text(f"not checked, as the files do not tell: {'; '.join(comparison.not_checked)}"))
    raise typer.Exit(EXIT_CODES[result.verdict])


def _console() -> Console:
    from rich.console import Console

    return Console(width=max(NARROWEST, shutil.get_terminal_size().columns), soft_wrap=True, highlight=False)


def _text(words: str, style: str = "") -> Text:
    """Words from outside as they are: neither markup nor control characters of a terminal take effect."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else "·" for c in words), style)


def _answers(side: Answers, words: list[str]) -> str:
    """What a side said in all its repeats, on one short line."""
    if not side.answers:
        return "(no answer)"
    short = [" ".join(each.split()) or "(empty)" for each in words]
    return " | ".join(each if len(each) <= ANSWER_SHOWN else f"{each[:ANSWER_SHOWN]}…" for each in short)


def _print_verdict(console: Console, result: GateResult, what: str, alpha: float = 0.05) -> None:
    """The verdict with its table, the pooled difference, the reasons and the failed checks."""
    from rich.table import Table

    from flows.report import HEADER, said, verdict_cells

    level = f"{100 * (1 - 2 * alpha):g} % interval"
    header = [level if column.endswith("interval") else column for column in HEADER]
    console.print(_text(result.verdict, "bold") + _text(f"  {what}"))
    table = Table(*header[:-1], "Margin", header[-1], box=None, padding=(0, 2, 0, 0))
    for row in result.benchmarks:
        cells = verdict_cells(row)
        table.add_row(*map(_text, (*cells[:-1], f"{row.margin_points:g}", cells[-1])))
    console.print(table)
    if result.pooled:
        pooled = result.pooled
        found = f"{100 * pooled.difference:+.2f} points, lower bound {100 * pooled.lower:+.2f}"
        console.print(_text(f"pooled: {found}, margin {pooled.margin_points:g}"))
    failed = {f"{check.name}: {check.detail}" for check in result.hygiene if not check.passed}
    for reason in said(result):
        if reason not in failed:
            console.print(_text(f"  {reason}"))
    for check in sorted(failed):
        console.print(_text(f"failed check: {check}"))
