"""Runs inside the environment that has evalscope: gives a benchmark's questions, and scores answers to them.

`python -I evalscope_worker.py JOB`, with JOB a JSON object: `task` (fields of `Benchmark.task`), `hub`, and `local`,
the path of a question file, or null. It imports nothing of FlagRelease, which that environment does not have. First it
writes one JSON line, {"questions": [...]}; then it answers each line that it reads, until its input ends:

    {"messages": number}              -> {"messages": [...]}
    {"score": number, "answer": text} -> {"value": {metric: number}, "extracted": text}

A line {"error": text} says what went wrong instead.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, TextIO

Message = dict[str, Any]


def digest(value: Any) -> str:
    """As flagrelease.records.digest."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Worker:
    """One benchmark of evalscope, loaded."""

    def __init__(self, job: dict[str, Any]) -> None:
        from evalscope.api.registry import get_benchmark
        from evalscope.config import TaskConfig

        task, name = job["task"], job["task"]["dataset"]
        # For a name that it does not have evalscope would load everything it has, with libraries that are not here.
        if name not in json.loads(files("evalscope.benchmarks").joinpath("_index.json").read_text()):
            msg = f"evalscope has no benchmark {name}"
            raise LookupError(msg)
        chosen = {key: value for key, value in task.items() if key in {"subset_list", "extra_params"}}
        if job["local"]:
            chosen["local_path"] = job["local"]
        config = TaskConfig(
            model="served", datasets=[name], dataset_args={name: chosen}, dataset_hub=job["hub"], eval_type="openai_api"
        )
        self._benchmark = get_benchmark(name, config)
        self._samples = [
            (subset, sample) for subset, samples in self._benchmark.load_dataset().items() for sample in samples
        ]

    def questions(self) -> Iterator[dict[str, Any]]:
        """Of each question its hashes, and the fields that may tell its picture or subject."""
        seen: Counter[str] = Counter()
        for number, (subset, sample) in enumerate(self._samples):
            messages = self.messages(number)
            parts = [part for message in messages for part in _parts(message)]
            item = digest([parts, sample.choices, sample.target])
            seen[item] += 1
            if seen[item] > 1:
                # A question that is there twice is asked twice; the copies can only be told apart by their number.
                item = digest([item, seen[item]])
            pictures = [content for kind, content in parts if kind == "picture"]
            told = {key: value for key, value in sample.metadata.items() if isinstance(value, str | int)}
            yield {
                "item": item,
                "prompt": digest(messages),
                "fields": {**told, "subset": subset, "pictures": digest(pictures) if pictures else item},
            }

    def messages(self, number: int) -> list[Message]:
        """What evalscope would send."""
        from evalscope.models.utils.openai import openai_chat_messages

        sent: list[Message] = json.loads(json.dumps(openai_chat_messages(self._samples[number][1].input)))
        return sent

    def score(self, number: int, answer: str) -> dict[str, Any]:
        """What evalscope makes of an answer."""
        from evalscope.api.evaluator import TaskState
        from evalscope.api.model import ModelOutput

        sample = self._samples[number][1]
        # CMMMU's scorer guesses where it finds no answer; the same answer must score the same wherever it is scored.
        random.seed(f"{number} {answer}")
        output = ModelOutput.from_content(model="served", content=answer)
        state = TaskState(
            model="served", sample=sample, messages=[*sample.input, output.message], output=output, completed=True
        )
        score = self._benchmark.calculate_metrics(state).score
        if not score.status.is_usable:
            return {"error": f"not scored: {score.explanation or score.metadata}"}
        return {"value": score.value, "extracted": score.extracted_prediction or ""}


def _parts(message: Message) -> Iterator[tuple[str, str]]:
    content = message["content"]
    several: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in several:
        if part["type"] == "text":
            yield "text", part["text"]
        else:
            url = part["image_url"]["url"]
            data = base64.b64decode(url.partition(",")[2]) if url.startswith("data:") else url.encode()
            yield "picture", hashlib.sha256(data).hexdigest()


def _answer(worker: Worker, line: str) -> dict[str, Any]:
    request = json.loads(line)
    try:
        if "score" in request:
            return worker.score(request["score"], request["answer"])
        return {"messages": worker.messages(request["messages"])}
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"}


def _write(file: TextIO, value: Any) -> None:
    file.write(json.dumps(value) + "\n")
    file.flush()


def main() -> None:
    """Load, then answer until the input ends."""
    # evalscope and what it loads print; the pipe is for answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        worker = Worker(json.loads(sys.argv[1]))
        questions = list(worker.questions())
    except Exception as error:
        _write(answers, _failed(error))
        sys.exit(1)
    _write(answers, {"questions": questions})
    for line in sys.stdin:
        _write(answers, _answer(worker, line))


if __name__ == "__main__":
    main()
