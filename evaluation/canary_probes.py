"""How likely a served model finds the tokens of a given text: one probe for each thing that engines can tell.

Texts travel as token ids, so both sides read the same tokens; hygiene holds their tokenizers to be the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import httpx

from evaluation.concurrency import WAITS_S
from evaluation.harness.interface import Endpoint
from flagrelease.errors import ServerError, ServerSettingsError
from flagrelease.records import TopToken

REQUEST_TIMEOUT_S = 300.0
DYING_S = 3.0
"""How long a server that broke off may take to be seen dead."""
BROKE_DOWN = 500
"""HTTP: the server could not finish this request, for a reason of its own or of the request's."""
BUSY = {429, 502, 503, 504}
"""HTTP: the server had no time for this request."""
PROMPT_LISTED = 20
"""Likeliest tokens asked for with prompt log-probabilities: as many as vLLM gives unless told otherwise."""
NEXT_LISTED = 100
"""Likeliest tokens asked for with next-token probabilities: they cost nothing."""


class Answer(NamedTuple):
    """What a model says of one position of a text."""

    top: list[TopToken]
    """Likeliest tokens, likeliest first; empty where the answer holds no number."""
    own: float | None
    """Log-probability of the text's own token; none where it is not among the tokens that were told."""


class Text(NamedTuple):
    """A text in token ids: what was given, and what the model wrote."""

    prompt: list[int]
    continuation: list[int]


class Probe(Protocol):
    """One way of asking. Adding one is a class here and a line in `PROBES`."""

    every: bool
    """Whether all positions of a text cost one request; otherwise each costs one."""

    def write(self, text: str, tokens: int) -> Text:
        """Let the model write on greedily, at most `tokens` tokens."""
        ...

    def read(self, text: Text, positions: Sequence[int]) -> list[Answer]:
        """What the model says at `positions` of the continuation, given everything before each."""
        ...


class Connection:
    """Requests to a served model; what goes wrong becomes a ServerError that says whether the server died."""

    def __init__(self, endpoint: Endpoint, transport: httpx.BaseTransport | None = None) -> None:
        self.endpoint = endpoint
        # A proxy of the environment is for the world outside, not for this host.
        self._client = httpx.Client(
            base_url=endpoint.base_url, timeout=REQUEST_TIMEOUT_S, trust_env=False, transport=transport
        )
        self._breaks_down = False

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer; none where a living server breaks down over this request again and again (HTTP 500).

        vLLM does so where a log-probability is not a number, which is for the canary to judge. What a request fails of
        by the way (a busy server, a broken connection) says nothing of the model: it is sent again a few times, and
        then it is a ServerError.
        """
        answer = self._patiently(path, body)
        if answer.status_code == BROKE_DOWN:
            self._require_health()
            self._breaks_down = True
            return None
        try:
            found: dict[str, Any] = answer.raise_for_status().json()
        except (httpx.HTTPStatusError, ValueError) as error:
            raise self._failed(
                f"the server does not understand the canary ({path}, HTTP {answer.status_code}): {answer.text[:300]!r}"
            ) from error
        return found

    def _patiently(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        for pause in (*WAITS_S, None):
            try:
                answer = self._client.post(path, json=body)
            except httpx.TimeoutException as error:
                raise self._failed(f"the server did not answer the canary within {REQUEST_TIMEOUT_S:.0f} s") from error
            except httpx.TransportError as error:
                self._raise_if_gone(error)
                said = f"the server broke off the canary: {error}"
            else:
                # Once a request has broken down to the last, the others that do so are believed at once.
                believed = pause is None or self._breaks_down
                if answer.status_code not in BUSY and (believed or answer.status_code != BROKE_DOWN):
                    return answer
                said = f"the server has no time for the canary ({path}, HTTP {answer.status_code})"
            if pause is None:
                raise self._failed(said)
            time.sleep(pause)
        raise AssertionError

    def _require_health(self) -> None:
        """ServerError where the whole server is ill, so that a request that broke down says nothing of the model."""
        self._raise_if_gone(None)
        try:
            health = self._client.get("/health")
        except httpx.TransportError as error:
            raise self._failed(f"the server broke off the canary: {error}") from error
        if health.is_server_error:
            raise self._failed(f"the server says that it is not well (/health, HTTP {health.status_code})")

    def write(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, where there must be one."""
        answer = self.ask(path, body)
        if answer is None:
            raise self._failed(f"the server fails when the canary asks it to write ({path})")
        return answer

    def _raise_if_gone(self, error: Exception | None) -> None:
        # The connection breaks before the process is seen to be gone.
        until = time.monotonic() + DYING_S
        while (gone := self.endpoint.failure()) is None and time.monotonic() < until:
            time.sleep(0.1)
        if gone is not None:
            raise ServerError(
                f"the server died during the canary: {gone}",
                remedy="run the same command again; if it dies again, see its log",
            ) from error

    def _failed(self, message: str) -> ServerError:
        return ServerError(
            message,
            remedy="see the server's log, then run the same command again; "
            "the canary can be left out in the gate's policy",
        )


class PromptLogprobs:
    """All positions of a text at once: vLLM's `prompt_logprobs` on /v1/completions.

    The text goes through the prefill kernels only.
    """

    every = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, text: str, tokens: int) -> Text:
        """Let the model write on greedily."""
        answer = self._connection.write(
            "/v1/completions", self._body(text) | {"max_tokens": tokens, "return_token_ids": True}
        )
        choice = answer["choices"][0]
        return Text(choice["prompt_token_ids"], choice["token_ids"])

    def read(self, text: Text, positions: Sequence[int]) -> list[Answer]:
        """What the model says at `positions` of the continuation."""
        ids = [*text.prompt, *text.continuation]
        answer = self._connection.ask(
            "/v1/completions", self._body(ids) | {"max_tokens": 1, "prompt_logprobs": PROMPT_LISTED}
        )
        if answer is None:
            return [Answer([], None)] * len(positions)
        listed = answer["choices"][0]["prompt_logprobs"]
        _require_same_length(len(ids), len(listed))
        first = len(text.prompt)
        return [self._answer(listed[first + position], ids[first + position]) for position in positions]

    def _body(self, prompt: str | list[int]) -> dict[str, Any]:
        return {"model": self._connection.endpoint.served_name, "prompt": prompt, "temperature": 0}

    @staticmethod
    def _answer(listed: Mapping[str, Mapping[str, Any]], own: int) -> Answer:
        # The text's own token is listed besides the likeliest, however unlikely it is.
        told = {int(token): about["logprob"] for token, about in listed.items() if about["rank"] <= PROMPT_LISTED}
        return _checked(told, listed[str(own)]["logprob"])


class NextTokenLogprobs:
    """One position a request: `n_probs` of llama.cpp's own /completion.

    What the server keeps of a text's beginning is used, so that a position costs one step; it goes through the kernels
    that write answers rather than those that read prompts.
    """

    every = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, text: str, tokens: int) -> Text:
        """Let the model write on greedily."""
        prompt = self._connection.write("/tokenize", {"content": text, "add_special": True})["tokens"]
        answer = self._connection.write(
            "/completion", self._body(prompt) | {"n_predict": tokens, "return_tokens": True}
        )
        return Text(prompt, answer["tokens"])

    def read(self, text: Text, positions: Sequence[int]) -> list[Answer]:
        """What the model says at `positions` of the continuation."""
        # The first begins anew, so that nothing depends on what the server was asked before.
        return [
            self._next([*text.prompt, *text.continuation[:at]], text.continuation[at], cached=number > 0)
            for number, at in enumerate(positions)
        ]

    @cached_property
    def _whole(self) -> int:
        """A token that ends a character."""
        found: int = self._connection.write("/tokenize", {"content": " a"})["tokens"][-1]
        return found

    def _next(self, ids: list[int], own: int, *, cached: bool) -> Answer:
        # The probabilities are those before sampling, but llama.cpp tells them with a whole character only and not at
        # the end of a text; so it is made to sample what is neither.
        told_always = {"n_predict": 1, "n_probs": NEXT_LISTED, "logit_bias": [[self._whole, 1e6]]}
        answer = self._connection.ask("/completion", self._body(ids) | told_always | {"cache_prompt": cached})
        if answer is None:
            return Answer([], None)
        _require_same_length(len(ids), answer["tokens_evaluated"])
        listed = answer["completion_probabilities"][0]["top_logprobs"]
        told = {entry["id"]: entry["logprob"] for entry in listed}
        return _checked(told, told.get(own))

    @staticmethod
    def _body(prompt: list[int]) -> dict[str, Any]:
        return {"prompt": prompt, "temperature": 0}


def _checked(told: Mapping[int, float | None], own: float | None) -> Answer:
    """Tokens by their log-probability; nothing where one is not a number."""
    top = [TopToken(token=token, logprob=value) for token, value in told.items() if value is not None]
    if len(top) < len(told) or not all(math.isfinite(entry.logprob) for entry in top):
        return Answer([], None)
    return Answer(sorted(top, key=lambda entry: -entry.logprob), own)


def _require_same_length(sent: int, read: int) -> None:
    if sent != read:
        raise ServerSettingsError(
            f"the canary sent {sent} tokens and the server read {read}: it adds or drops tokens",
            remedy="switch off what adds tokens (a beginning-of-text token, a template) for prompts of token ids",
        )


PROBES: Mapping[str, Callable[[Connection], Probe]] = {
    "prompt_logprobs": PromptLogprobs,
    "next_token_logprobs": NextTokenLogprobs,
}
"""By the engine's capability, the cheapest first."""


def possible(capabilities: Collection[str]) -> bool:
    """Whether an engine that can do this tells the log-probabilities that the canary needs."""
    return any(needed in capabilities for needed in PROBES)


@contextmanager
def probing(endpoint: Endpoint, capabilities: Collection[str]) -> Iterator[Probe]:
    """The probe for an engine that can do this; ValueError where it is not `possible`."""
    found = next((kind for needed, kind in PROBES.items() if needed in capabilities), None)
    if found is None:
        msg = f"the canary needs one of {', '.join(PROBES)}, not only {', '.join(sorted(capabilities))}"
        raise ValueError(msg)
    connection = Connection(endpoint)
    try:
        yield found(connection)
    finally:
        connection.close()
