"""Asking more repeats of an evaluation that is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.catalogue import Benchmark, prepare
from evaluation.harness.interface import Endpoint, Progress, Selection
from evaluation.run import HARNESSES, journal_path
from flagrelease.records import Evaluation


def add_repeats(
    evaluation: Evaluation,
    benchmarks: Sequence[Benchmark],
    repeats: Mapping[str, int],
    endpoint: Endpoint,
    *,
    tasks: Path,
    journals: Path,
    progress: Progress,
) -> Evaluation:
    """The evaluation with so many repeats in all of each of `benchmarks`; only what is missing is asked.

    Of a benchmark that was stopped early the same items are asked again. Errors as in `run.evaluate`.
    """
    runs = {run.benchmark: run for run in evaluation.benchmarks}
    items = list(evaluation.items)
    for benchmark in benchmarks:
        run, wanted = runs[benchmark.key], repeats[benchmark.key]
        asked = {item.item for item in evaluation.items if item.benchmark == benchmark.key}
        prepared = prepare(benchmark, tasks)
        measured = HARNESSES[benchmark.harness or ""].measure(
            prepared,
            endpoint,
            journal_path(journals, prepared),
            progress,
            Selection(range(run.repeats, wanted), asked if run.stopped_of else None),
        )
        items += measured.items
        runs[benchmark.key] = run.model_copy(update={"repeats": wanted})
    return evaluation.model_copy(update={"benchmarks": list(runs.values()), "items": items})
