"""Sends chat requests of a harness that brings questions and scoring but leaves the asking to us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import httpx

from evaluation.concurrency import Concurrency, TransientError, ask_all
from evaluation.harness.interface import Endpoint
from evaluation.journal import Answer
from flagrelease.errors import FlagReleaseError, HarnessError, NoAnswerError, ServerError

ROUTE = "/v1/chat/completions"
REQUEST_TIMEOUT_S = 600


class ChatRequest(NamedTuple):
    """One request to the server."""

    key: str
    """Its name in the journal."""
    body: Callable[[], dict[str, Any]]
    """The fields besides `model`, made when it is sent: pictures are large."""


def ask(
    requests: Sequence[ChatRequest],
    endpoint: Endpoint,
    keep: Callable[[str, Answer], None],
    concurrency: Concurrency,
) -> None:
    """Send the requests and give each answer with its key to `keep` as it comes; an answer's value is its text.

    Raises HarnessError where the server refuses one, TransientError where one still fails after several attempts.
    """
    asyncio.run(_ask(requests, endpoint, keep, concurrency))


def explained(display: str, endpoint: Endpoint, error: HarnessError | TransientError) -> FlagReleaseError:
    """Why asking the benchmark `display` ended, in the user's words."""
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


async def _ask(
    requests: Sequence[ChatRequest],
    endpoint: Endpoint,
    keep: Callable[[str, Answer], None],
    concurrency: Concurrency,
) -> None:
    # A proxy of the environment is for the world outside, not for the server; and `concurrency` is the only limit.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=endpoint.base_url, timeout=REQUEST_TIMEOUT_S, trust_env=False, limits=limits
    ) as client:

        async def ask_one(request: ChatRequest) -> None:
            body = {"model": endpoint.served_name, **request.body()}
            sent = time.monotonic()
            answer = _read(await _post(client, body))
            keep(request.key, answer._replace(latency_s=round(time.monotonic() - sent, 4)))

        await ask_all(requests, ask_one, concurrency, endpoint.failure)


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
    raise HarnessError(
        f"the server refused a question with {said}",
        remedy="correct what it names; often the context is too short, or the model does not take pictures",
    )


def _read(response: httpx.Response) -> Answer:
    try:
        output = response.json()
        choice, usage = output["choices"][0], output.get("usage") or {}
        # A server that sends no text, as one that sets the reasoning apart and was cut in it, has not answered.
        text = choice["message"].get("content") or ""
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise HarnessError(
            f"the server answered with what is no chat completion: {response.text[:300]}",
            remedy="see what serves at this address; answers so far are kept",
        ) from error
    return Answer(text, choice.get("finish_reason"), usage.get("prompt_tokens"), usage.get("completion_tokens"))
