"""The adapter of evalscope, for questions about pictures. Nothing of its own strings leaves evalscope*.py.

evalscope needs other versions of our libraries (infra/evalscope), so it lives in an environment of its own. A
process there brings the questions as they are to be sent and scores the answers; the asking is ours, with the journal,
the search for the best concurrency and the look at the server that every harness here has.

`Benchmark.task` holds: `dataset`, its name in evalscope; `generation`, the fields of a request that set sampling and
limits; where needed `subset_list` and `extra_params`. `Benchmark.cluster` and `stratum` name a field that evalscope
keeps of a question, or `pictures`, the hash of all its pictures, or `subset`, the part of the data set it is from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.catalogue import Benchmark, Prepared
from evaluation.concurrency import Concurrency, TransientError
from evaluation.harness.chat import ChatRequest, ask, explained
from evaluation.harness.evalscope_process import Loaded, Process, installed_version, task_of
from evaluation.harness.interface import Endpoint, Measured, Progress, Question, Selection
from evaluation.journal import Answer, Journal
from flagrelease.errors import HarnessError
from flagrelease.records import BenchmarkRun, Item, digest

SEED = 1234
"""Of the first repeat, and of every greedy request."""


class Evalscope:
    """ModelScope's evalscope."""

    name = "evalscope"

    def __init__(self) -> None:
        # A benchmark that is measured in parts is loaded once.
        self._loaded: tuple[Prepared, Process] | None = None
        # What was found for one benchmark is where the search begins for the next one on the same server.
        self._concurrency: tuple[str, Concurrency] | None = None

    def version(self) -> str:
        """Version of evalscope in its environment; raises PreflightError saying how to install it."""
        return installed_version()

    def questions(self, prepared: Prepared) -> list[Question]:
        """The benchmark's questions."""
        return [Question(each.item, each.stratum) for each in self._process(prepared).questions]

    def measure(
        self, prepared: Prepared, endpoint: Endpoint, journal: Path, progress: Progress, selection: Selection
    ) -> Measured:
        """Ask the selected questions; answers that `journal` has are not asked for again.

        An item is the hash of all texts and pictures that are sent, in their order, of the choices and of the reference
        answer. Where answers are sampled, each repeat has its own seed; greedy ones are asked the same again.
        """
        benchmark, process = prepared.benchmark, self._process(prepared)
        questions, generation = _chosen(benchmark, process.questions, selection), task_of(benchmark).generation
        asked = {
            (each, repeat): _request(process, each, repeat, generation)
            for repeat in selection.repeats
            for each in questions
        }
        concurrency = self._concurrency_of(endpoint)
        with Journal(journal) as kept:
            missing = [request for request in asked.values() if request.key not in kept.answers]
            answered = len(asked) - len(missing)
            progress(benchmark.key, answered, len(asked))

            def keep(key: str, answer: Answer) -> None:
                nonlocal answered
                kept.add(key, answer)
                answered += 1
                progress(benchmark.key, answered, len(asked))

            try:
                if missing:
                    ask(missing, endpoint, keep, concurrency)
            except (HarnessError, TransientError) as error:
                raise explained(benchmark.display, endpoint, error) from error
            items = [
                _item(benchmark, process, each, repeat, kept.answers[request.key])
                for (each, repeat), request in asked.items()
            ]
        run = BenchmarkRun(
            benchmark=benchmark.key,
            dataset_sha256=prepared.dataset_sha256,
            task_sha256=prepared.task_sha256,
            few_shot=benchmark.few_shot,
            generation=generation,
            api="chat",
            harness=self.name,
            items=len(questions),
            repeats=len(selection.repeats),
            concurrency=concurrency.level if missing else None,
        )
        return Measured(run, sorted(items, key=lambda item: (item.item, item.repeat)))

    def _process(self, prepared: Prepared) -> Process:
        if self._loaded is None or self._loaded[0] != prepared:
            if self._loaded is not None:
                self._loaded[1].close()
                self._loaded = None
            self._loaded = (prepared, Process(prepared))
        return self._loaded[1]

    def _concurrency_of(self, endpoint: Endpoint) -> Concurrency:
        found = self._concurrency
        if found is None or found[0] != endpoint.base_url or found[1].bound != endpoint.concurrency:
            found = self._concurrency = (endpoint.base_url, Concurrency(endpoint.concurrency))
        return found[1]


def _chosen(benchmark: Benchmark, questions: list[Loaded], selection: Selection) -> list[Loaded]:
    if selection.items is None:
        return questions
    wanted = set(selection.items)
    chosen = [each for each in questions if each.item in wanted]
    if len(chosen) < len(wanted):
        raise HarnessError(
            f"{len(wanted) - len(chosen)} of the {len(wanted)} questions that {benchmark.display} was to be asked are "
            "not among its questions",
            remedy="the questions have changed: measure the baseline anew",
        )
    return chosen


def _request(process: Process, question: Loaded, repeat: int, generation: dict[str, Any]) -> ChatRequest:
    sampled = float(generation.get("temperature", 1)) > 0
    fields = {**generation, "seed": SEED + repeat if sampled else SEED}
    key = digest([question.item, question.prompt, repeat, fields])
    return ChatRequest(key, lambda: {"messages": process.messages(question), **fields})


def _item(benchmark: Benchmark, process: Process, question: Loaded, repeat: int, answer: Answer) -> Item:
    score, extracted = process.score(question, answer.value)
    return Item(
        benchmark=benchmark.key,
        item=question.item,
        repeat=repeat,
        score=score,
        prompt=question.prompt,
        answer=answer.value,
        extracted=extracted,
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        latency_s=answer.latency_s,
        cluster=question.cluster,
    )
