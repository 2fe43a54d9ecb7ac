"""Evaluating a suite: every benchmark that the engine can serve, through its harness, into one evaluation."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from evaluation.catalogue import Benchmark, prepare
from evaluation.harness.interface import Endpoint, Harness, Progress
from evaluation.harness.lm_eval import LmEval
from evaluation.statistics import score_interval
from flagrelease.records import Evaluation, Item, Provenance, Result

HARNESSES: dict[str, Harness] = {"lm_eval": LmEval()}


def evaluate(
    benchmarks: Sequence[Benchmark],
    endpoint: Endpoint,
    provenance: Provenance,
    *,
    tasks: Path,
    journals: Path,
    progress: Progress,
    log: Callable[[str], None],
) -> Evaluation:
    """Ask all `benchmarks` of the served model; `journals` keeps answers until the evaluation is stored."""
    runs, items = [], []
    for number, benchmark in enumerate(benchmarks, start=1):
        log(f"evaluate: {benchmark.display} ({number} of {len(benchmarks)})")
        prepared = prepare(benchmark, tasks)
        journal = journals / f"{prepared.folder.name}.jsonl"
        measured = HARNESSES[benchmark.harness or ""].measure(prepared, endpoint, journal, progress)
        runs.append(measured.run)
        items.extend(measured.items)
    return Evaluation(provenance=provenance, benchmarks=runs, items=items)


def aggregate(evaluation: Evaluation) -> list[Result]:
    """Score of each benchmark with its 95 % interval over items (repeats of an item are averaged first)."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for item in evaluation.items:
        scores[item.benchmark][item.item].append(item.score)
    results = []
    for run in evaluation.benchmarks:
        means = [sum(repeats) / len(repeats) for repeats in scores[run.benchmark].values()]
        low, high = score_interval(means, alpha=0.05)
        results.append(
            Result(
                benchmark=run.benchmark,
                n=len(means),
                repeats=run.repeats,
                score=sum(means) / len(means),
                lower=low,
                upper=high,
            )
        )
    return results


def items_to_jsonl(items: Iterable[Item]) -> bytes:
    """Items as JSON lines, in their order: the format of baselines and of item evidence."""
    return "".join(item.model_dump_json(exclude_none=True) + "\n" for item in items).encode()


def items_from_jsonl(data: bytes) -> list[Item]:
    """Items back from JSON lines."""
    return [Item.model_validate(json.loads(line)) for line in data.splitlines() if line.strip()]
