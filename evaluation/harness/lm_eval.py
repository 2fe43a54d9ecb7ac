"""The adapter of lm-eval. Nothing of its own strings leaves this file and lm_eval_models.py."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.catalogue import Hub, Prepared
from evaluation.harness.interface import Endpoint, Measured, Progress
from flagrelease.errors import FlagReleaseError, HarnessError, ServerError
from flagrelease.records import BenchmarkRun, Item

if TYPE_CHECKING:
    from evaluation.harness.lm_eval_models import Journal

REQUEST_TIMEOUT_S = 600
# Questions are read from local files, so nothing may go out to a hub; and our progress replaces its bars.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
QUIET = {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
# A proxy of the environment is for the world outside, not for the server on this host.
DIRECT = {name: "127.0.0.1,localhost" for name in ("NO_PROXY", "no_proxy") if name not in os.environ}


class LmEval:
    """EleutherAI's Language Model Evaluation Harness, generative and by log-likelihood."""

    name = "lm_eval"

    def version(self) -> str:
        """Version of the package lm_eval."""
        return version("lm_eval")

    def measure(self, prepared: Prepared, endpoint: Endpoint, journal: Path, progress: Progress) -> Measured:
        """Ask the benchmark's questions; answers that `journal` has are not asked for again."""
        benchmark = prepared.benchmark
        local = not isinstance(benchmark.dataset, Hub)
        os.environ.update(QUIET | DIRECT | (OFFLINE if local else {}))
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.tasks import TaskManager

        from evaluation.harness.lm_eval_models import Journal, JournaledChat, JournaledCompletions

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        total = (benchmark.items or 0) * (1 if benchmark.needs == "generate" else 0)
        answers = Journal(journal, lambda: progress(benchmark.key, len(answers.answers), total))
        if answers.answers:
            progress(benchmark.key, len(answers.answers), total)
        kind, route = (JournaledChat, "chat/") if benchmark.api == "chat" else (JournaledCompletions, "")
        try:
            model = kind(
                base_url=f"{endpoint.base_url}/v1/{route}completions",
                model=endpoint.served_name,
                num_concurrent=endpoint.concurrency,
                max_retries=3,
                timeout=REQUEST_TIMEOUT_S,
                tokenizer_backend="remote" if benchmark.needs == "prompt_logprobs" else None,
            )
            model.set_cache_hook(answers)
            output = simple_evaluate(
                model=model,
                tasks=[benchmark.key] if isinstance(benchmark.task, dict) else list(benchmark.task or []),
                task_manager=TaskManager(
                    include_path=str(prepared.folder) if local else None, include_defaults=not local
                ),
                num_fewshot=None if local else benchmark.few_shot or None,
                apply_chat_template=benchmark.api == "chat",
                bootstrap_iters=0,
                log_samples=True,
            )
            items = _items(prepared, output["samples"], answers)
        except HarnessError:
            raise
        except Exception as error:
            raise _explained(prepared, endpoint, error) from error
        finally:
            answers.close()
        run = BenchmarkRun(
            benchmark=benchmark.key,
            dataset_sha256=prepared.dataset_sha256,
            task_sha256=prepared.task_sha256,
            few_shot=benchmark.few_shot,
            generation=_generation(output["configs"]),
            api=benchmark.api,
            items=len({item.item for item in items}),
        )
        return Measured(run, items)


def _explained(prepared: Prepared, endpoint: Endpoint, error: Exception) -> FlagReleaseError:
    """What went wrong, in the user's words."""
    benchmark = prepared.benchmark
    gone = endpoint.failure()
    if gone:
        return ServerError(
            f"the server died while it was asked {benchmark.display}: {gone}",
            remedy="run the same command again: answers so far are kept; if it dies again, see its log",
        )
    cause = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    if isinstance(benchmark.dataset, Hub):
        gated = (
            "; the data set is gated: accept its terms on the hub and set HF_TOKEN" if benchmark.dataset.gated else ""
        )
        return HarnessError(
            f"lm-eval could not run {benchmark.display} (questions: {benchmark.dataset.repository}): {cause}",
            remedy=f"this host must reach the hub, or have the data set in its cache (HF_HOME){gated}",
        )
    return HarnessError(
        f"lm-eval could not run {benchmark.display} from {prepared.folder}: {cause}",
        remedy="answers so far are kept; correct the cause and run the same command again",
    )


def _items(prepared: Prepared, samples: Mapping[str, list[dict[str, Any]]], answers: Journal) -> list[Item]:
    from evaluation.harness.lm_eval_models import GENERATE

    benchmark = prepared.benchmark
    items = []
    for sample in (sample for task in samples.values() for sample in task):
        if sample["filter"] != benchmark.filter:
            continue
        first = list(sample["arguments"][0])
        known = answers.find(GENERATE, first) if benchmark.needs == "generate" else None
        responses = [response[0] for response in sample["resps"]]
        items.append(
            Item(
                benchmark=benchmark.key,
                item=sample["doc_hash"],
                score=float(sample[benchmark.metric]),
                prompt=sample["prompt_hash"],
                answer=str(responses[0]) if benchmark.needs == "generate" else json.dumps(responses),
                extracted=str(sample["filtered_resps"][0]) if benchmark.needs == "generate" else "",
                finish_reason=known.finish_reason if known else None,
                prompt_tokens=known.prompt_tokens if known else None,
                output_tokens=known.output_tokens if known else None,
            )
        )
    if len({item.item for item in items}) < len(items):
        raise HarnessError(
            f"the questions of {benchmark.display} hold some more than once, so answers cannot be told apart",
            remedy="remove the duplicates, or name tasks that do not overlap",
        )
    if not items:
        raise HarnessError(
            f"lm-eval returned no answers of {benchmark.display} with filter {benchmark.filter}",
            remedy=f"correct `filter` in evaluation/benchmarks/{benchmark.key}.yaml",
        )
    return sorted(items, key=lambda item: item.item)


def _generation(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    settings = [dict(config.get("generation_kwargs") or {}) for config in configs.values()]
    return settings[0] if settings else {}
