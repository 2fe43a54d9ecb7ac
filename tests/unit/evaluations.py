"""Small evaluations for tests."""

from __future__ import annotations

from collections.abc import Sequence

from flagrelease.records import Evaluation, Item, Provenance, Result, Stack


def provenance() -> Provenance:
    return Provenance(
        model="m",
        chip="c",
        stack=Stack.NATIVE,
        engine="e",
        engine_version="1",
        engine_settings={"threads": 1},
        weights_sha256="0" * 64,
        chat_template_sha256="1" * 64,
        tokenizer_sha256="2" * 64,
        harnesses={"lm_eval": "1"},
        platform="p",
        code_version="0",
        created="2026-01-01T00:00:00+00:00",
    )


def evaluation(items: Sequence[Item]) -> Evaluation:
    return Evaluation(provenance=provenance(), benchmarks=[], items=list(items))


def result(benchmark: str, n: int) -> Result:
    return Result(benchmark=benchmark, n=n, repeats=1, score=0.5, lower=0.4, upper=0.6)
