"""Evaluating a suite: every benchmark that the engine can serve, through its harness, into one evaluation."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.accuracy import margin_points
from evaluation.catalogue import Benchmark, Prepared, prepare
from evaluation.harness.evalscope import Evalscope
from evaluation.harness.interface import Endpoint, Harness, Measured, Progress, Selection
from evaluation.harness.lm_eval import LmEval
from evaluation.harness.tool_calls import ToolCalls
from evaluation.sequential import looks, pooled_standard_error_limit, stop_at_look, stopping_order
from evaluation.statistics import score_interval
from flagrelease.policy import EarlyStop, Policy
from flagrelease.records import Evaluation, Item, Provenance, Result, digest

HARNESSES: dict[str, Harness] = {"lm_eval": LmEval(), "evalscope": Evalscope(), "tool_calls": ToolCalls()}
ORDER_SEED = 20261121
"""Of the order in which a benchmark that may be stopped is asked: any number, and always the same."""

Log = Callable[[str], None]


class EarlyStopping(NamedTuple):
    """What it takes to stop a candidate's benchmarks early. A baseline is never stopped."""

    policy: Policy
    baseline: Sequence[Item]
    """The baseline's answers."""


def evaluate(
    benchmarks: Sequence[Benchmark],
    endpoint: Endpoint,
    provenance: Provenance,
    *,
    tasks: Path,
    journals: Path,
    progress: Progress,
    log: Log,
    repeats: Mapping[str, int] | None = None,
    stop: EarlyStopping | None = None,
) -> Evaluation:
    """Ask all `benchmarks` of the served model; `journals` keeps answers until the evaluation is stored.

    `repeats`: how often each question of a benchmark is asked, where not as often as the benchmark says; with the same
    `journals` a higher number asks the new repeats only. `stop`: large benchmarks are asked part by part, and no
    further than it takes to decide against the baseline (`evaluation.sequential`).
    """
    rule = stop and stop.policy.early_stop and _StopRule(stop.policy, stop.policy.early_stop, stop.baseline, benchmarks)
    runs, items = [], []
    for number, benchmark in enumerate(benchmarks, start=1):
        log(f"evaluate: {benchmark.display} ({number} of {len(benchmarks)})")
        prepared = prepare(benchmark, tasks)
        asking = _Asking(
            HARNESSES[benchmark.harness or ""],
            prepared,
            endpoint,
            journal_path(journals, prepared),
            range((repeats or {}).get(benchmark.key, benchmark.repeats)),
        )
        measured = _in_looks(asking, rule, progress, log) if rule else None
        measured = measured or asking.ask(None, progress)
        found = measured.run.concurrency
        if found and endpoint.concurrency > 1:
            log(
                f"evaluate: {benchmark.display}: up to {found} requests at once were found to be best "
                f"(the cell allows {endpoint.concurrency})"
            )
        runs.append(measured.run)
        items.extend(measured.items)
    return Evaluation(provenance=provenance, benchmarks=runs, items=items)


def journal_path(journals: Path, prepared: Prepared) -> Path:
    """File of the answers so far of a benchmark; another definition or question file has another."""
    content = digest([prepared.task_sha256, prepared.dataset_sha256])[:12]
    return journals / f"{prepared.benchmark.key}-{content}.jsonl"


class _Asking(NamedTuple):
    """A benchmark and everything it takes to ask parts of it."""

    harness: Harness
    prepared: Prepared
    endpoint: Endpoint
    journal: Path
    repeats: Sequence[int]

    def ask(self, items: Sequence[str] | None, progress: Progress) -> Measured:
        selection = Selection(self.repeats, items)
        return self.harness.measure(self.prepared, self.endpoint, self.journal, progress, selection)


class _StopRule:
    """When a benchmark of an evaluation is decided against the baseline."""

    def __init__(
        self, policy: Policy, rule: EarlyStop, baseline: Iterable[Item], benchmarks: Sequence[Benchmark]
    ) -> None:
        self.policy = policy
        self.rule = rule
        self.baseline: dict[str, dict[str, list[Item]]] = defaultdict(dict)
        for item in baseline:
            self.baseline[item.benchmark].setdefault(item.item, []).append(item)
        gated = [
            benchmark
            for benchmark in benchmarks
            if benchmark.role == "gated"
            and len({answers[0].cluster or item for item, answers in self.baseline[benchmark.key].items()})
            >= policy.min_items
        ]
        self._gated = max(1, len(gated))
        # The pooled mean has to be resolved as well, and benchmarks that stop at a look are the lucky ones.
        self._largest_error = 0.5 * pooled_standard_error_limit(
            policy.pooled_margin_points / 100, self._gated, policy.alpha, policy.power
        )

    def decided(self, benchmark: Benchmark, of: int, answers: Iterable[Item]) -> str | None:
        """What the answers so far say of a benchmark of `of` items, in words; none: nothing yet."""
        theirs = self.baseline[benchmark.key]
        ours: dict[str, list[Item]] = defaultdict(list)
        for answer in answers:
            ours[answer.item].append(answer)
        clusters = [theirs[item][0].cluster or item for item in ours]
        if len(set(clusters)) < self.policy.min_items:
            # Stopped here the benchmark would be advisory, and its loss decide nothing.
            return None
        # Rounded, so that the same graded scores in another order are no difference.
        d = np.round([_mean(given) - _mean(theirs[item]) for item, given in ours.items()], 12)
        points = margin_points(of, self.policy, benchmark)
        found = stop_at_look(
            d,
            margin=points / 100,
            interim_z=self.rule.z,
            max_standard_error=self._largest_error,
            alpha=self.policy.alpha,
            benchmarks=self._gated,
            clusters=clusters,
        )
        if found is None:
            return None
        return (
            f"a loss of {points:g} points is excluded"
            if found == "cleared"
            else f"a loss is shown, of {-100 * d.mean():.1f} points so far"
        )


def _mean(repeats: Sequence[Item]) -> float:
    return sum(item.score for item in repeats) / len(repeats)


def _in_looks(asking: _Asking, stop: _StopRule, progress: Progress, log: Log) -> Measured | None:
    """The benchmark, asked look by look until it is decided; none where it has to be asked whole."""
    benchmark = asking.prepared.benchmark
    known = stop.baseline[benchmark.key]
    if len(known) < stop.rule.from_items:
        return None
    questions = asking.harness.questions(asking.prepared)
    if not known.keys() >= {question.item for question in questions}:
        # The baseline was asked something else, which the gate is to say of all items.
        return None
    order = stopping_order(questions, ORDER_SEED)
    whole = _WholeProgress(progress, len(order))
    items: list[Item] = []
    asked = 0
    for look in looks(len(order), stop.rule.looks):
        part = asking.ask(order[asked:look], whole.part(look - asked))
        items.extend(part.items)
        asked = look
        found = stop.decided(benchmark, len(order), items) if asked < len(order) else None
        if found:
            log(f"evaluate: {benchmark.display}: stopped after {asked:,} of {len(order):,} items: {found}")
            break
    run = part.run.model_copy(update={"items": asked, "stopped_of": len(order) if asked < len(order) else None})
    return Measured(run, sorted(items, key=lambda item: (item.item, item.repeat)))


class _WholeProgress:
    """Progress of a benchmark that is asked part by part; requests of later parts are estimated from the present."""

    def __init__(self, progress: Progress, items: int) -> None:
        self._progress = progress
        self._of_items = items
        self._items = self._requests = 0

    def part(self, items: int) -> Progress:
        """The progress of the next part, which has so many items."""
        items_before, requests_before = self._items, self._requests
        self._items += items

        def said(benchmark: str, answered: int, of: int) -> None:
            self._requests = requests_before + of
            whole = requests_before + round(of * (self._of_items - items_before) / items)
            self._progress(benchmark, requests_before + answered, whole)

        return said


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
