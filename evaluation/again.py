"""Asking again what an evaluation asked already: more repeats, or some of its items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.catalogue import Benchmark, prepare
from evaluation.concurrency import requests_in_flight
from evaluation.harness.interface import Endpoint, Progress, Selection
from evaluation.run import HARNESSES, journal_path
from flagrelease.records import Evaluation, Item


def seconds_of_a_repeat(evaluation: Evaluation) -> dict[str, float]:
    """What one repeat of each benchmark takes, from the times of its answers and how many were asked for at once."""
    in_flight = requests_in_flight(evaluation)
    spent = dict.fromkeys(in_flight, 0.0)
    for item in evaluation.items:
        if item.repeat == 0:
            spent[item.benchmark] += item.latency_s or 0.0
    return {name: seconds / in_flight[name] for name, seconds in spent.items()}


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


def ask_items(
    benchmarks: Sequence[Benchmark],
    items: Mapping[str, Sequence[str]],
    endpoint: Endpoint,
    *,
    tasks: Path,
    journals: Path,
) -> list[Item]:
    """Answers to these `items` of each of `benchmarks`, asked once, as an evaluation asks them first.

    Errors as in `run.evaluate`; HarnessError where the benchmark has no such item.
    """
    found: list[Item] = []
    for benchmark in benchmarks:
        prepared = prepare(benchmark, tasks)
        found += (
            HARNESSES[benchmark.harness or ""]
            .measure(
                prepared,
                endpoint,
                journal_path(journals, prepared),
                lambda *_: None,
                Selection(items=items[benchmark.key]),
            )
            .items
        )
    return found
