"""lm-eval's API models with a journal: every answer is on disk before the next question counts as open.

lm-eval's own request cache keeps answers only; the finish reason and the token counts, which the gate
checks, are lost with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from flagrelease.records import digest

GENERATE = "generate_until"
LOGLIKELIHOOD = "loglikelihood"


class Answer(NamedTuple):
    """What the server said to one request."""

    value: Any
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


class Journal:
    """Append-only file of answers, one JSON line each, by the hash of the request."""

    def __init__(self, path: Path, on_answer: Callable[[], None]) -> None:
        self._on_answer = on_answer
        self._usage = Answer(None)
        self.answers: dict[str, Answer] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().split("\n") if path.exists() else []
        for line in lines[:-1]:
            key, *answer = json.loads(line)
            self.answers[key] = Answer(*answer)
        # What follows the last line end was being written when the process was killed.
        whole = "".join(f"{line}\n" for line in lines[:-1])
        if lines and lines[-1]:
            path.write_text(whole)
        self._file = path.open("a")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def find(self, kind: str, arguments: Sequence[Any]) -> Answer | None:
        """The answer to a request, if there is one."""
        return self.answers.get(self.key(kind, arguments))

    @staticmethod
    def key(kind: str, arguments: Sequence[Any]) -> str:
        """Hash of a request."""
        return digest([kind, *(argument if isinstance(argument, dict) else str(argument) for argument in arguments)])

    def usage(self, outputs: Any) -> None:
        """Remember finish reason and token counts of the response whose answer comes next."""
        output = outputs[0] if isinstance(outputs, list) else outputs
        usage = output.get("usage") or {}
        self._usage = Answer(
            None, output["choices"][0].get("finish_reason"), usage.get("prompt_tokens"), usage.get("completion_tokens")
        )

    def add_partial(self, kind: str, arguments: Sequence[Any], value: Any) -> None:
        """Keep an answer; lm-eval calls this for its cache, right after each response."""
        answer = self._usage._replace(value=value) if kind == GENERATE else Answer(value)
        key = self.key(kind, arguments)
        self._file.write(json.dumps([key, *answer]) + "\n")
        self._file.flush()
        self.answers[key] = answer
        self._on_answer()


class _Journaled:
    """Asks only what the journal does not answer."""

    cache_hook: Journal

    def parse_generations(self, outputs: Any, **kwargs: Any) -> list[str]:
        self.cache_hook.usage(outputs)
        parsed: list[str] = super().parse_generations(outputs, **kwargs)  # type: ignore[misc]
        return parsed

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        return self._ask(GENERATE, requests, disable_tqdm)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        return self._ask(LOGLIKELIHOOD, requests, disable_tqdm)

    def _ask(self, kind: str, requests: list[Instance], disable_tqdm: bool) -> list[Any]:
        journal = self.cache_hook
        missing = [request for request in requests if journal.find(kind, request.args) is None]
        if missing:
            getattr(super(), kind)(missing, disable_tqdm=disable_tqdm)
        answers = [journal.find(kind, request.args) for request in requests]
        return [
            (tuple(answer.value) if kind == LOGLIKELIHOOD else answer.value) if answer else "" for answer in answers
        ]


class JournaledChat(_Journaled, LocalChatCompletion):  # type: ignore[misc]
    """/v1/chat/completions."""


class JournaledCompletions(_Journaled, LocalCompletionsAPI):  # type: ignore[misc]
    """/v1/completions."""
