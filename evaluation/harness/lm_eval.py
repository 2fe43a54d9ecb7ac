"""The adapter of lm-eval. Nothing of its own strings leaves this file, lm_eval_models.py and lm_eval_tasks.py."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.catalogue import Hub, Prepared
from evaluation.concurrency import Concurrency, TransientError
from evaluation.harness.interface import Endpoint, Measured, Progress, Question, Selection
from evaluation.harness.offline import offline
from evaluation.journal import Answer, Journal
from flagrelease.errors import FlagReleaseError, HarnessError, NoAnswerError, ServerError
from flagrelease.records import BenchmarkRun, Item

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from evaluation.harness.lm_eval_models import Completions, Request
    from evaluation.harness.lm_eval_tasks import Entry, Scored

REQUEST_TIMEOUT_S = 600
SEED = 1234
"""Of the first repeat, and of every greedy request: lm-eval's own."""
# What lm-eval's filters put where they find nothing to score.
NOTHING_FOUND = "[invalid]"
# Our progress replaces its bars.
QUIET = {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
# A proxy of the environment is for the world outside, not for the server on this host.
DIRECT = {name: "127.0.0.1,localhost" for name in ("NO_PROXY", "no_proxy") if name not in os.environ}


class LmEval:
    """EleutherAI's Language Model Evaluation Harness, generative and by log-likelihood."""

    name = "lm_eval"

    def __init__(self) -> None:
        # A benchmark that is measured in parts is read once.
        self._loaded: tuple[Prepared, list[Entry]] | None = None
        # What was found for one benchmark is where the search begins for the next one on the same server.
        self._concurrency: tuple[str, Concurrency] | None = None

    def version(self) -> str:
        """Version of the package lm_eval."""
        return version("lm_eval")

    def questions(self, prepared: Prepared) -> list[Question]:
        """The benchmark's questions; the stratum is its field of that name, or the task where several are pooled."""
        return [Question(entry.item, entry.stratum) for entry in self._entries(prepared)]

    def measure(
        self, prepared: Prepared, endpoint: Endpoint, journal: Path, progress: Progress, selection: Selection
    ) -> Measured:
        """Ask the selected questions; answers that `journal` has are not asked for again.

        Where answers are sampled, each repeat has its own seed; greedy ones are asked the same again. `latency_s` of
        an item with several requests is their sum.
        """
        benchmark = prepared.benchmark
        entries = _chosen(prepared, self._entries(prepared), selection)
        asked = {(entry.item, repeat): _requests(entry, repeat) for entry in entries for repeat in selection.repeats}
        requests = [request for by_instance in asked.values() for each in by_instance for request in each]
        concurrency = self._concurrency_of(endpoint)
        with Journal(journal) as kept:
            missing = [request for request in requests if request.key not in kept.answers]
            answered = len(requests) - len(missing)
            progress(benchmark.key, answered, len(requests))

            def keep(key: str, answer: Answer) -> None:
                nonlocal answered
                kept.add(key, answer)
                answered += 1
                progress(benchmark.key, answered, len(requests))

            try:
                if missing:
                    _model(prepared, endpoint).ask(missing, keep, concurrency, endpoint.failure)
                items = [
                    item
                    for repeat in selection.repeats
                    for item in _items(prepared, entries, repeat, asked, kept.answers)
                ]
            except Exception as error:
                raise _explained(prepared, endpoint, error) from error
        from evaluation.harness.lm_eval_tasks import generation

        run = BenchmarkRun(
            benchmark=benchmark.key,
            dataset_sha256=prepared.dataset_sha256,
            task_sha256=prepared.task_sha256,
            few_shot=benchmark.few_shot,
            generation=generation(entries),
            api=benchmark.api,
            harness=self.name,
            items=len(entries),
            repeats=len(selection.repeats),
            concurrency=concurrency.level if missing else None,
        )
        return Measured(run, sorted(items, key=lambda item: (item.item, item.repeat)))

    def _entries(self, prepared: Prepared) -> list[Entry]:
        if self._loaded is None or self._loaded[0] != prepared:
            self._loaded = None
            os.environ.update(QUIET | DIRECT)
            logging.getLogger("lm_eval").setLevel(logging.ERROR)
            from evaluation.harness.lm_eval_tasks import load

            try:
                # Local questions are read from files, so nothing may go out to a hub.
                with nullcontext() if isinstance(prepared.benchmark.dataset, Hub) else offline():
                    self._loaded = (prepared, load(prepared.benchmark, prepared.folder))
            except Exception as error:
                raise _explained(prepared, None, error) from error
        return self._loaded[1]

    def _concurrency_of(self, endpoint: Endpoint) -> Concurrency:
        known = self._concurrency
        if known is None or known[0] != endpoint.base_url or known[1].bound != endpoint.concurrency:
            known = self._concurrency = (endpoint.base_url, Concurrency(endpoint.concurrency))
        return known[1]


def _chosen(prepared: Prepared, entries: list[Entry], selection: Selection) -> list[Entry]:
    if selection.items is None:
        return entries
    wanted = set(selection.items)
    chosen = [entry for entry in entries if entry.item in wanted]
    if len(chosen) < len(wanted):
        raise HarnessError(
            f"{len(wanted) - len(chosen)} of the {len(wanted)} questions that {prepared.benchmark.display} was to be "
            "asked are not among its questions",
            remedy="the questions have changed: measure the baseline anew",
        )
    return chosen


def _requests(entry: Entry, repeat: int) -> list[list[Request]]:
    """The requests of a question in one repeat: for each of lm-eval's requests as many as its task asks for."""
    from evaluation.harness.lm_eval_models import GENERATE, Request

    def request(instance: Instance, number: int) -> Request:
        sampled = instance.request_type == GENERATE and float(instance.args[1].get("temperature") or 0) > 0
        draw = repeat * instance.repeats + number
        key = f"{entry.item}-{entry.content}-{instance.idx}-{draw}"
        return Request(key, instance, SEED + draw if sampled else SEED)

    return [[request(instance, number) for number in range(instance.repeats)] for instance in entry.instances]


def _model(prepared: Prepared, endpoint: Endpoint) -> Completions:
    from evaluation.harness.lm_eval_models import Chat, Completions

    benchmark = prepared.benchmark
    kind, route = (Chat, "chat/") if benchmark.api == "chat" else (Completions, "")
    return kind(
        base_url=f"{endpoint.base_url}/v1/{route}completions",
        model=endpoint.served_name,
        timeout=REQUEST_TIMEOUT_S,
        tokenizer_backend="remote" if benchmark.needs == "prompt_logprobs" else None,
    )


def _items(
    prepared: Prepared,
    entries: Sequence[Entry],
    repeat: int,
    asked: Mapping[tuple[str, int], list[list[Request]]],
    answers: Mapping[str, Answer],
) -> list[Item]:
    """The answers of one repeat, scored."""
    from evaluation.harness.lm_eval_models import GENERATE
    from evaluation.harness.lm_eval_tasks import prompt_hash, score

    benchmark = prepared.benchmark
    given = {
        entry.item: [[answers[request.key] for request in each] for each in asked[entry.item, repeat]]
        for entry in entries
    }

    def values(entry: Entry) -> list[list[Any]]:
        # JSON knows no tuples, and lm-eval's log-likelihoods are some.
        return [
            [tuple(answer.value) if isinstance(answer.value, list) else answer.value for answer in each]
            for each in given[entry.item]
        ]

    def item(entry: Entry, scored: Scored) -> Item:
        first = [each[0] for each in given[entry.item]]
        generated = entry.instances[0].request_type == GENERATE
        latencies = [answer.latency_s for each in given[entry.item] for answer in each]
        return Item(
            benchmark=benchmark.key,
            item=entry.item,
            repeat=repeat,
            score=scored.score,
            prompt=prompt_hash(entry),
            answer=str(first[0].value) if generated else json.dumps([answer.value for answer in first]),
            extracted=str(scored.extracted) if generated and scored.extracted != NOTHING_FOUND else "",
            finish_reason=first[0].finish_reason if generated else None,
            prompt_tokens=first[0].prompt_tokens if generated else None,
            output_tokens=first[0].output_tokens if generated else None,
            latency_s=round(sum(seconds for seconds in latencies if seconds is not None), 4),
            cluster=entry.cluster,
        )

    return [item(entry, scored) for entry, scored in zip(entries, score(benchmark, entries, values), strict=True)]


def _explained(prepared: Prepared, endpoint: Endpoint | None, error: Exception) -> FlagReleaseError:
    """What went wrong, in the user's words."""
    benchmark = prepared.benchmark
    gone = endpoint.failure() if endpoint else None
    if gone:
        return ServerError(
            f"the server died while it was asked {benchmark.display}: {gone}",
            remedy="run the same command again: answers so far are kept; if it dies again, see its log",
        )
    if isinstance(error, FlagReleaseError):
        return error
    if isinstance(error, TransientError):
        return NoAnswerError(
            f"the server stopped answering while it was asked {benchmark.display}: {error}",
            remedy="see its log, then run the same command again: answers so far are kept",
        )
    cause = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    if isinstance(benchmark.dataset, Hub) and endpoint is None:
        gated = (
            "; the data set is gated: accept its terms on the hub and set HF_TOKEN" if benchmark.dataset.gated else ""
        )
        return HarnessError(
            f"lm-eval could not run {benchmark.display} (questions: {benchmark.dataset.repository}): {cause}",
            remedy=f"this host must reach the hub, or have the data set in its cache (HF_HOME){gated}",
        )
    return HarnessError(
        f"lm-eval could not run {benchmark.display}: {cause}",
        remedy="run the same command again: answers so far are kept; if it fails again, see the server's log",
    )
