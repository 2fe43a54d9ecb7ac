"""lm-eval's API models, with our own way of sending requests: each answer is on disk before it counts.

lm-eval's own request cache keeps answers only; the finish reason, the token counts and the latency are lost with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import aiohttp
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from evaluation.concurrency import Concurrency, TransientError, ask_all
from evaluation.journal import Answer
from flagrelease.errors import HarnessError

GENERATE = "generate_until"
LOGLIKELIHOOD = "loglikelihood"
TOO_MANY_REQUESTS = 429
BAD_REQUEST = 400
SERVER_FAULT = 500

Body = dict[str, Any]
Read = Callable[[Any], Any]


class Request(NamedTuple):
    """One request to the server."""

    key: str
    """Its name in the journal."""
    instance: Instance
    seed: int


class Completions(LocalCompletionsAPI):  # type: ignore[misc]
    """/v1/completions: sends what lm-eval makes of a request, and reads the response as it does."""

    def ask(
        self,
        requests: Sequence[Request],
        keep: Callable[[str, Answer], None],
        concurrency: Concurrency,
        failure: Callable[[], str | None],
    ) -> None:
        """Send the requests and give each answer with its key to `keep` as it comes.

        Raises HarnessError where the server refuses one, TransientError where one still fails after several attempts.
        """
        asyncio.run(self._ask(requests, keep, concurrency, failure))

    async def _ask(
        self,
        requests: Sequence[Request],
        keep: Callable[[str, Answer], None],
        concurrency: Concurrency,
        failure: Callable[[], str | None],
    ) -> None:
        loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        # lm-eval asks the server for the tokens of a text, in a call that blocks; hence the thread.
        with ThreadPoolExecutor(max_workers=1) as encoding:
            # No limit of its own: `concurrency` is the only one.
            connections = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connections, timeout=timeout, headers=self.header) as session:

                async def ask(request: Request) -> None:
                    if request.instance.request_type == GENERATE:
                        body, read = self._generation(request)
                    else:
                        body, read = await loop.run_in_executor(encoding, self._loglikelihood, request)
                    sent = time.monotonic()
                    output = await _post(session, self.base_url, body)
                    seconds = round(time.monotonic() - sent, 4)
                    usage = output.get("usage") or {}
                    answer = Answer(
                        read(output),
                        output["choices"][0].get("finish_reason"),
                        usage.get("prompt_tokens"),
                        usage.get("completion_tokens"),
                        seconds,
                    )
                    keep(request.key, answer)

                await ask_all(requests, ask, concurrency, failure)

    def _generation(self, request: Request) -> tuple[Body, Read]:
        context, settings = request.instance.args
        body = self._create_payload(
            self.create_message([context]), generate=True, gen_kwargs=dict(settings), seed=request.seed
        )
        # A server that sends no text, as one that sets the reasoning apart and was cut in it, has not answered.
        return body, lambda output: self.parse_generations(outputs=output)[0] or ""

    def _loglikelihood(self, request: Request) -> tuple[Body, Read]:
        encoded = self.loglikelihood([request.instance], disable_tqdm=True)
        tokens, lengths, _ = self.batch_loglikelihood_requests([encoded])
        body = self._create_payload(self.create_message(tokens), generate=False, seed=request.seed)
        return body, lambda output: list(self.parse_logprobs(outputs=output, tokens=tokens, ctxlens=lengths)[0])

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[Any]:
        """The tokens, where lm-eval would send them: sending is ours."""
        return requests


class Chat(Completions, LocalChatCompletion):  # type: ignore[misc]
    """/v1/chat/completions."""


async def _post(session: aiohttp.ClientSession, url: str, body: Body) -> Any:
    """The server's response; TransientError where asking again may help, HarnessError where it does not."""
    try:
        async with session.post(url, json=body) as response:
            if response.status < BAD_REQUEST:
                return await response.json()
            said = f"HTTP {response.status}: {(await response.text())[:300]}"
    except (aiohttp.ClientError, TimeoutError) as error:
        raise TransientError(f"{type(error).__name__}: {error}") from error
    if response.status == TOO_MANY_REQUESTS or response.status >= SERVER_FAULT:
        raise TransientError(said)
    raise HarnessError(
        f"the server refused a question with {said}",
        remedy="correct what it names; often the context is too short for the prompt and its answer",
    )
