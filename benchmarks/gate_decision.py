"""How long a verdict takes: `python benchmarks/gate_decision.py [ITEMS]`.

Five benchmarks of so many right-or-wrong items each (by default 14,042, those of MMLU), of which 6 % change. Taken are
the median of several rounds and, beside it in the same rounds, the least that the machine has to do for it: of the
statistics, the plain numpy mean and standard error; of the whole gate, one look at each answer.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

from evaluation import accuracy
from evaluation.gate import decide
from evaluation.statistics import Floats
from flagrelease.loading import load_matrix
from flagrelease.records import BenchmarkRun, Evaluation, Item, Provenance, Stack
from flagrelease.settings import data_path
from flagrelease.verdicts import Verdict

ITEMS = 14_042
BENCHMARKS = 5
CHANGED = 0.06
AIM_MS = 50.0
ROUNDS = 15

Scores = Mapping[str, Floats]


def evaluation(scores: Scores) -> Evaluation:
    """As a harness gives it."""
    items = [
        Item(
            benchmark=benchmark,
            item=hashlib.sha256(f"{benchmark}/{number}".encode()).hexdigest(),
            score=float(score),
            prompt=hashlib.sha256(f"prompt {benchmark}/{number}".encode()).hexdigest(),
            answer="The answer is (B).",
            extracted="B",
            finish_reason="stop",
            prompt_tokens=300,
            output_tokens=7 + number % 90,
            latency_s=0.25,
        )
        for benchmark, column in scores.items()
        for number, score in enumerate(column)
    ]
    runs = [
        BenchmarkRun(
            benchmark=name,
            dataset_sha256="0" * 64,
            task_sha256="0" * 64,
            few_shot=5,
            generation={"temperature": 0.0},
            api="chat",
            harness="h",
            items=len(column),
        )
        for name, column in scores.items()
    ]
    about = Provenance(
        model="m",
        chip="c",
        stack=Stack.NATIVE,
        engine="e",
        engine_version="1",
        engine_settings={},
        weights_sha256="0" * 64,
        chat_template_sha256="0" * 64,
        tokenizer_sha256="0" * 64,
        harnesses={"h": "1"},
        platform="p",
        code_version="0",
        created="2026-01-01T00:00:00+00:00",
    )
    return Evaluation(provenance=about, benchmarks=runs, items=items)


def medians(*calls: Callable[[], object]) -> list[float]:
    """Median milliseconds of each call; they are made in turn, so that all meet the same machine."""
    spent: list[list[float]] = [[] for _ in calls]
    for number in range(ROUNDS + 1):
        for call, times in zip(calls, spent, strict=True):
            start = time.perf_counter()
            call()
            # The first round loads what the calls import.
            if number:
                times.append(1000 * (time.perf_counter() - start))
    return [statistics.median(times) for times in spent]


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ITEMS
    policy = load_matrix(data_path("matrix.yaml")).policy
    rng = np.random.default_rng(0)
    theirs = {f"benchmark_{number}": (rng.random(count) < 0.5).astype(np.float64) for number in range(BENCHMARKS)}
    ours = {name: np.where(rng.random(count) < CHANGED, 1 - column, column) for name, column in theirs.items()}

    def plain() -> None:
        for name, column in theirs.items():
            d = ours[name] - column
            assert d.mean() - 1.645 * d.std(ddof=1) / math.sqrt(count) > -1

    def arrays() -> accuracy.Cell:
        rows = [
            accuracy.from_scores(name, ours[name][:, np.newaxis], column[:, np.newaxis], policy)
            for name, column in theirs.items()
        ]
        return accuracy.judge(rows, policy)

    candidate, baseline = evaluation(ours), evaluation(theirs)

    def look() -> None:
        for side in (candidate, baseline):
            assert len([(item.item, item.score) for item in side.items]) == BENCHMARKS * count

    def whole() -> Verdict:
        return decide(candidate, baseline, baseline_id="b", policy=policy, benchmarks={}).verdict

    assert arrays().verdict is whole() is Verdict.CONSISTENT, "the gate decides otherwise than it should"
    numpy_ms, arrays_ms, look_ms, whole_ms = medians(plain, arrays, look, whole)
    print(f"{BENCHMARKS} benchmarks × {count:,} items, median of {ROUNDS}")
    print(f"{'plain numpy mean and standard error':<44}{numpy_ms:>8.1f} ms")
    print(
        f"{'paired decision from scores':<44}{arrays_ms:>8.1f} ms{arrays_ms / numpy_ms:>8.1f} ×   (aim: {AIM_MS:g} ms)"
    )
    print(f"{'one look at each answer of both sides':<44}{look_ms:>8.1f} ms")
    print(f"{'whole gate from answers, hygiene included':<44}{whole_ms:>8.1f} ms{whole_ms / look_ms:>8.1f} ×")


if __name__ == "__main__":
    main()
