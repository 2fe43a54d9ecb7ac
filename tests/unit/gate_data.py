"""Evaluations for tests of the gate, built from scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from flagrelease.records import BenchmarkRun, Evaluation, Item, Provenance, Stack


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "model": "qwen3",
        "chip": "metax",
        "stack": Stack.FLAGOS,
        "engine": "vllm",
        "engine_version": "1",
        "engine_settings": {},
        "weights_sha256": sha("weights"),
        "chat_template_sha256": sha("template"),
        "tokenizer_sha256": sha("tokenizer"),
        "harnesses": {"lm_eval": "0.4.13"},
        "platform": "test",
        "code_version": "1",
        "created": "2026-01-01T00:00:00Z",
    }
    return Provenance(**(values | changes))


def item(benchmark: str, number: int, score: float, repeat: int = 0, **changes: Any) -> Item:
    name = f"{benchmark}/{number}"
    values: dict[str, Any] = {"prompt": sha(f"prompt {name}"), "answer": "A", "extracted": "A", "finish_reason": "stop"}
    return Item(benchmark=benchmark, item=sha(name), repeat=repeat, score=score, **(values | changes))


def run(benchmark: str, items: int, **changes: Any) -> BenchmarkRun:
    values: dict[str, Any] = {
        "harness": "lm_eval",
        "dataset_sha256": sha(f"data {benchmark}"),
        "task_sha256": sha(f"task {benchmark}"),
        "few_shot": 5,
        "generation": {"temperature": 0.0, "max_gen_toks": 256},
        "api": "chat",
    }
    return BenchmarkRun(benchmark=benchmark, items=items, **(values | changes))


def evaluation(**scores: Sequence[float]) -> Evaluation:
    """An evaluation with the given score of each item of each benchmark."""
    return Evaluation(
        provenance=provenance(),
        benchmarks=[run(benchmark, len(values)) for benchmark, values in scores.items()],
        items=[item(benchmark, i, score) for benchmark, values in scores.items() for i, score in enumerate(values)],
    )


def changed(n: int, lost: int, won: int) -> list[float]:
    """Scores of n items that `half_right(n)` gets right by turns, with so many lost and won."""
    scores = half_right(n)
    scores[: 2 * lost : 2] = [0.0] * lost
    scores[1 : 2 * won + 1 : 2] = [1.0] * won
    return scores


def half_right(n: int) -> list[float]:
    return [1.0, 0.0] * (n // 2)


def repeated(scores: Sequence[Sequence[float]]) -> Evaluation:
    """An evaluation of one benchmark with several scores an item."""
    items = [item("live", n, s, k) for n, row in enumerate(scores) for k, s in enumerate(row)]
    live = run("live", len(scores), repeats=len(scores[0]))
    return Evaluation(provenance=provenance(), benchmarks=[live], items=items)


def replaced(whole: Evaluation, index: int, **changes: Any) -> Evaluation:
    items = list(whole.items)
    items[index] = items[index].model_copy(update=changes)
    return whole.model_copy(update={"items": items})


def with_run(whole: Evaluation, **changes: Any) -> Evaluation:
    return whole.model_copy(update={"benchmarks": [b.model_copy(update=changes) for b in whole.benchmarks]})


def with_items(whole: Evaluation, **changes: Any) -> Evaluation:
    return whole.model_copy(update={"items": [i.model_copy(update=changes) for i in whole.items]})


def with_provenance(whole: Evaluation, **changes: Any) -> Evaluation:
    return whole.model_copy(update={"provenance": whole.provenance.model_copy(update=changes)})
