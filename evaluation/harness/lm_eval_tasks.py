"""lm-eval's tasks: a benchmark's questions with their prompts, and the scores of answers.

lm-eval's own `evaluate` can ask some of the questions only (`samples`), but then it draws other examples for a prompt,
as its generator has been used less often; and it would read tasks and data again for each part. So the prompts of all
questions are made once, by lm-eval and in its order, and lm-eval's filter and metric score what was answered.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager
from lm_eval.utils import env, handle_non_serializable, hash_string

from evaluation.catalogue import Benchmark, Hub
from evaluation.harness.lm_eval_models import GENERATE, LOGLIKELIHOOD, Chat
from flagrelease.errors import HarnessError
from flagrelease.records import digest

# lm-eval compiles its templates anew for every question, which takes longer than sending it.
env.from_string = cache(env.from_string)


class Entry(NamedTuple):
    """One question as lm-eval asks it."""

    item: str
    stratum: str
    cluster: str | None
    task: Task
    instances: list[Instance]
    """Its requests: one to generate, or one for each choice."""
    content: str
    """Hash of all that they say."""


class Scored(NamedTuple):
    """What lm-eval made of the answers to a question."""

    score: float
    extracted: Any


def load(benchmark: Benchmark, folder: Path) -> list[Entry]:
    """The questions of a benchmark in lm-eval's order, as its `simple_evaluate` would ask them.

    An item is known by lm-eval's `doc_hash`. Where a question is there several times, the later ones get names of
    their own, and all of them are one cluster. Raises HarnessError, and whatever lm-eval raises.
    """
    local = not isinstance(benchmark.dataset, Hub)
    # Some tasks shuffle choices by the generator of the process.
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    manager = TaskManager(include_path=str(folder), include_defaults=False) if local else _official_tasks()
    names = [benchmark.key] if isinstance(benchmark.task, dict) else list(benchmark.task or [])
    tasks: Mapping[str, Task] = manager.load(names)["tasks"]
    for name, task in tasks.items():
        _prepare(benchmark, name, task)
    found = [(task, instances) for task in tasks.values() for instances in _by_question(task)]
    hashes = [_doc_hash(instances[0].doc) for _, instances in found]
    count = Counter(hashes)
    seen: Counter[str] = Counter()
    entries = []
    for (task, instances), doc_hash in zip(found, hashes, strict=True):
        copy = seen[doc_hash]
        seen[doc_hash] += 1
        doc = instances[0].doc
        shared = _field(benchmark, doc, benchmark.cluster)
        entries.append(
            Entry(
                item=digest([doc_hash, copy]) if copy else doc_hash,
                stratum=_field(benchmark, doc, benchmark.stratum) or (task.task_name if len(tasks) > 1 else ""),
                # By its hash: a passage is long, and some data sets may not be shown.
                cluster=hash_string(shared) if shared else doc_hash if count[doc_hash] > 1 else None,
                task=task,
                instances=instances,
                content=digest([[instance.request_type, *map(_json, instance.args)] for instance in instances]),
            )
        )
    return entries


def score(benchmark: Benchmark, entries: Sequence[Entry], answers: Callable[[Entry], list[list[Any]]]) -> list[Scored]:
    """Score each question from its answers: for each of its requests as many as its task asks for.

    Raises HarnessError where the task has neither the filter nor the metric that the benchmark names.
    """
    answered = [
        [
            replace(instance, resps=given, filtered_resps={})
            for instance, given in zip(entry.instances, answers(entry), strict=True)
        ]
        for entry in entries
    ]
    by_task: dict[str, list[Instance]] = defaultdict(list)
    for entry, instances in zip(entries, answered, strict=True):
        by_task[entry.task.task_name].extend(instances)
    tasks = {entry.task.task_name: entry.task for entry in entries}
    for name, instances in by_task.items():
        # A filter may look at all questions of a task, so each task's are filtered together.
        _filter(benchmark, tasks[name]).apply(instances)
    found = []
    for entry, instances in zip(entries, answered, strict=True):
        filtered = [instance.filtered_resps[benchmark.filter] for instance in instances]
        metrics = entry.task.process_results(instances[0].doc, filtered)
        if benchmark.metric not in metrics:
            raise _unknown(benchmark, "metric", benchmark.metric, metrics)
        found.append(Scored(float(metrics[benchmark.metric]), filtered[0]))
    return found


def generation(entries: Sequence[Entry]) -> dict[str, Any]:
    """Sampling and limits of the benchmark; empty where nothing is generated."""
    return dict(entries[0].task.config.generation_kwargs or {})


def prompt_hash(entry: Entry) -> str:
    """SHA-256 of what is sent to the model."""
    return str(hash_string(entry.instances[0].arguments[0]))


@cache
def _official_tasks() -> TaskManager:
    """lm-eval's own tasks; finding them all takes ten seconds."""
    return TaskManager()


def _prepare(benchmark: Benchmark, name: str, task: Task) -> None:
    """Make the prompts of a task's questions, with what `simple_evaluate` sets before."""
    if getattr(task, "UNSAFE_CODE", False):
        raise HarnessError(
            f"{name} runs code that the model wrote", remedy=f"take {benchmark.display} out of the suite"
        )
    shots = benchmark.few_shot if isinstance(benchmark.dataset, Hub) else 0
    default = task.get_config("num_fewshot")
    # 0 in a task is meant: its prompt has examples of its own, or must have none.
    if default is None or (shots and default != 0):
        task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    chat = benchmark.api == "chat"
    task.build_all_requests(
        apply_chat_template=chat,
        fewshot_as_multiturn=True,
        # The server applies the template, so a prompt is its messages; no server is asked for that.
        chat_template=Chat(base_url="", model="").apply_chat_template if chat else None,
    )
    for instance in task.instances:
        if instance.request_type not in (GENERATE, LOGLIKELIHOOD) or len(instance.args) > len(("prompt", "settings")):
            raise HarnessError(
                f"{name} asks by {instance.request_type}, or with pictures or sound, which is not supported",
                remedy=f"take {benchmark.display} out of the suite",
            )


def _by_question(task: Task) -> list[list[Instance]]:
    questions: dict[int, list[Instance]] = defaultdict(list)
    for instance in task.instances:
        questions[instance.doc_id].append(instance)
    return [sorted(instances, key=lambda instance: int(instance.idx)) for instances in questions.values()]


def _doc_hash(doc: Any) -> str:
    """As lm-eval's `evaluate` computes it."""
    return str(hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)))


def _json(argument: Any) -> Any:
    """An argument of a request: its settings, or a text, which for a chat is of a class of lm-eval's own."""
    return argument if isinstance(argument, dict) else str(argument)


def _field(benchmark: Benchmark, doc: Mapping[str, Any], name: str | None) -> str | None:
    if name is None:
        return None
    if name not in doc:
        raise _unknown(benchmark, "field of a question", name, doc)
    return None if doc[name] is None else str(doc[name])


def _filter(benchmark: Benchmark, task: Task) -> Any:
    filters = {each.name: each for each in task._filters}
    if benchmark.filter not in filters:
        raise _unknown(benchmark, "filter", benchmark.filter, filters)
    return filters[benchmark.filter]


def _unknown(benchmark: Benchmark, what: str, name: str, known: Mapping[str, Any]) -> HarnessError:
    return HarnessError(
        f"{benchmark.display} has no {what} {name}; it has {', '.join(known)}",
        remedy=f"correct it in evaluation/benchmarks/{benchmark.key}.yaml",
    )
