"""The project's own harness for tool calls: offers tools through /v1/chat/completions and scores what is called.

Chat completions with `tools` and `tool_choice: auto` are what agents use, so a wrong chat template, tool parser or
kernel shows here as it would to them. The questions are in evaluation/tool_call_questions.py, what is judged of the
answers in evaluation/fidelity.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from evaluation.catalogue import Prepared
from evaluation.concurrency import Concurrency, TransientError, ask_all
from evaluation.fidelity import Decision
from evaluation.harness.interface import Endpoint, Measured, Progress, Question, Selection
from evaluation.journal import Answer, Journal
from flagrelease.errors import FlagReleaseError, HarnessError, NoAnswerError, ServerError
from flagrelease.records import BenchmarkRun, Item, digest

VERSION = "1"
"""Rises when the same question would be asked or scored otherwise."""
REQUEST_TIMEOUT_S = 600
SEED = 1234
"""Of the first repeat; each further one has the next."""
ROUTE = "/v1/chat/completions"

Asked = dict[str, Any]
"""A line of the question file (see `evaluation.tool_call_questions.tool_calls`)."""


class _Request(NamedTuple):
    key: str
    """Its name in the journal."""
    item: str
    question: Asked
    repeat: int


class ToolCalls:
    """Requests to a model that is offered tools. `Benchmark.task` holds further fields of a request: its sampling."""

    name = "tool_calls"

    def version(self) -> str:
        """Version of the asking and the scoring."""
        return VERSION

    def questions(self, prepared: Prepared) -> list[Question]:
        """The benchmark's questions; the stratum is its field of that name."""
        stratum = prepared.benchmark.stratum
        return [Question(item, asked[stratum] if stratum else "") for item, asked in _load(prepared).items()]

    def measure(
        self, prepared: Prepared, endpoint: Endpoint, journal: Path, progress: Progress, selection: Selection
    ) -> Measured:
        """Ask the selected questions; answers that `journal` has are not asked for again.

        An item scores 1 where `Decision.right`, otherwise 0. `Item.answer` is the text, or, where tools were called,
        JSON with text and calls; `Item.extracted` is the Decision as JSON; `Item.prompt` covers messages and tools.
        """
        benchmark = prepared.benchmark
        questions, settings = _chosen(prepared, selection), _settings(prepared)
        requests = [
            _Request(digest([item, repeat, settings]), item, question, repeat)
            for repeat in selection.repeats
            for item, question in questions.items()
        ]
        concurrency = Concurrency(endpoint.concurrency)
        with Journal(journal) as kept:
            missing = [request for request in requests if request.key not in kept.answers]
            answered = len(requests) - len(missing)
            progress(benchmark.key, answered, len(requests))

            def keep(key: str, answer: Answer) -> None:
                nonlocal answered
                kept.add(key, answer)
                answered += 1
                progress(benchmark.key, answered, len(requests))

            if missing:
                try:
                    asyncio.run(_ask(missing, settings, endpoint, keep, concurrency))
                except (HarnessError, TransientError) as error:
                    raise _explained(prepared, endpoint, error) from error
            items = [_item(benchmark.key, request, kept.answers[request.key]) for request in requests]
        run = BenchmarkRun(
            benchmark=benchmark.key,
            dataset_sha256=prepared.dataset_sha256,
            task_sha256=prepared.task_sha256,
            few_shot=0,
            generation=settings,
            api="chat",
            harness=self.name,
            items=len(questions),
            repeats=len(selection.repeats),
            concurrency=concurrency.level if missing else None,
        )
        return Measured(run, sorted(items, key=lambda item: (item.item, item.repeat)))


def _load(prepared: Prepared) -> dict[str, Asked]:
    """The questions by the hash of their content."""
    lines = (prepared.folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return {digest(question): question for question in map(json.loads, lines)}


def _chosen(prepared: Prepared, selection: Selection) -> dict[str, Asked]:
    questions = _load(prepared)
    if selection.items is None:
        return questions
    wanted = set(selection.items)
    if unknown := wanted - questions.keys():
        raise HarnessError(
            f"{len(unknown)} of the {len(wanted)} questions that {prepared.benchmark.display} was to be asked are not "
            "among its questions",
            remedy="the questions have changed: measure the baseline anew",
        )
    return {item: question for item, question in questions.items() if item in wanted}


def _settings(prepared: Prepared) -> dict[str, Any]:
    benchmark = prepared.benchmark
    if not isinstance(benchmark.task, dict):
        raise HarnessError(
            f"{benchmark.display} does not say how answers are sampled",
            remedy=f"add `task: {{temperature: 0, max_tokens: 512}}` to evaluation/benchmarks/{benchmark.key}.yaml",
        )
    return benchmark.task


async def _ask(
    requests: Sequence[_Request],
    settings: Mapping[str, Any],
    endpoint: Endpoint,
    keep: Callable[[str, Answer], None],
    concurrency: Concurrency,
) -> None:
    """Send the requests and give each answer with its key to `keep` as it comes."""
    # A proxy of the environment is for the world outside, not for the server; and `concurrency` is the only limit.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=endpoint.base_url, timeout=REQUEST_TIMEOUT_S, trust_env=False, limits=limits
    ) as client:

        async def check(request: _Request) -> None:
            await _require_tools(client, _body(endpoint, request, settings) | {"max_tokens": 1})

        async def ask(request: _Request) -> None:
            body = _body(endpoint, request, settings)
            sent = time.monotonic()
            answer = _read(await _post(client, body))
            keep(request.key, answer._replace(latency_s=round(time.monotonic() - sent, 4)))

        await ask_all(requests[:1], check, Concurrency(1), endpoint.failure)
        await ask_all(requests, ask, concurrency, endpoint.failure)


def _body(endpoint: Endpoint, request: _Request, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": endpoint.served_name,
        "messages": request.question["messages"],
        "tools": request.question["tools"],
        "tool_choice": "auto",
        "seed": SEED + request.repeat,
        **settings,
    }


async def _require_tools(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Raise HarnessError where a prompt is as long with tools as without: the model is not shown them.

    A chat template that does not mention tools drops them without a word, and then no answer calls one. A server that
    does not count tokens is believed.
    """
    without = {name: value for name, value in body.items() if name not in {"tools", "tool_choice"}}
    offered, bare = [_read(await _post(client, each)).prompt_tokens for each in (body, without)]
    if offered is not None and offered == bare:
        raise HarnessError(
            f"the server does not show the model its tools: a question has {offered} tokens with them and without",
            remedy="serve the model with a chat template that has tools, or leave the benchmark out of the suite",
        )


async def _post(client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    """The server's response; TransientError where asking again may help, HarnessError where it does not."""
    try:
        response = await client.post(ROUTE, json=body)
    except httpx.TransportError as error:
        raise TransientError(f"{type(error).__name__}: {error}") from error
    if response.is_success:
        return response
    said = f"HTTP {response.status_code}: {response.text[:300]}"
    if response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise TransientError(said)
    if "tool" in response.text.lower():
        raise HarnessError(
            f"the server does not take tool calls: it refused a question with {said}",
            remedy="serve the model with tool calls on (vLLM: --enable-auto-tool-choice --tool-call-parser PARSER, the "
            "parser being that of the model's family), or leave the benchmark out of the suite",
        )
    raise HarnessError(
        f"the server refused a question with {said}",
        remedy="correct what it names; often the context is too short for the prompt and its answer",
    )


def _read(response: httpx.Response) -> Answer:
    """Text and tool calls of a response; ids of calls, which are random, are left out."""
    try:
        output = response.json()
        choice, usage = output["choices"][0], output.get("usage") or {}
        functions = [call["function"] for call in choice["message"].get("tool_calls") or []]
        said = {
            "content": choice["message"].get("content") or "",
            "tool_calls": [{"name": function["name"], "arguments": function["arguments"]} for function in functions],
        }
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise HarnessError(
            f"the server answered with what is no chat completion: {response.text[:300]}",
            remedy="see what serves at this address; answers so far are kept",
        ) from error
    return Answer(said, choice.get("finish_reason"), usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _explained(prepared: Prepared, endpoint: Endpoint, error: HarnessError | TransientError) -> FlagReleaseError:
    """What went wrong, in the user's words."""
    display = prepared.benchmark.display
    if gone := endpoint.failure():
        return ServerError(
            f"the server died while it was asked {display}: {gone}",
            remedy="run the same command again: answers so far are kept; if it dies again, see its log",
        )
    if isinstance(error, HarnessError):
        return error
    return NoAnswerError(
        f"the server stopped answering while it was asked {display}: {error}",
        remedy="see its log, then run the same command again: answers so far are kept",
    )


def _item(benchmark: str, request: _Request, answer: Answer) -> Item:
    said, question = answer.value, request.question
    decision = decide(question, said["tool_calls"])
    return Item(
        benchmark=benchmark,
        item=request.item,
        repeat=request.repeat,
        score=float(decision.right),
        prompt=digest([question["messages"], question["tools"]]),
        answer=json.dumps(said, sort_keys=True, ensure_ascii=False) if said["tool_calls"] else said["content"],
        extracted=decision.model_dump_json(),
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        latency_s=answer.latency_s,
    )


def decide(question: Asked, calls: Sequence[Mapping[str, Any]]) -> Decision:
    """What calls ({name, arguments as JSON text}) amount to, given the tools that the question offers.

    Whether the arguments say what was asked is not judged, only whether they fit the schema (JSON Schema 2020-12).
    """
    functions = [tool["function"] for tool in question["tools"]]
    schemas = {function["name"]: function["parameters"] for function in functions}
    return Decision(
        expected=question["expected"],
        called=[str(call["name"]) for call in calls],
        valid=all(_fits(call["arguments"], schemas.get(call["name"])) for call in calls) if calls else None,
    )


def _fits(arguments: Any, schema: Mapping[str, Any] | None) -> bool:
    from jsonschema import Draft202012Validator

    try:
        value = json.loads(arguments)
    except (TypeError, ValueError):
        # A client takes arguments as JSON text; an object there breaks it as broken text does.
        return False
    return schema is not None and Draft202012Validator(schema).is_valid(value)
