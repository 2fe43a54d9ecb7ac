"""A stand-in for a served model: `stand_in_model.py PORT LOG [--wrong SHARE] [--seed N] [--delay S] [--fail N]`.

It answers the benchmark `last_word` through /v1/completions by rule: the last of the words, except on a share of the
questions, drawn by their text and N (by the request's seed too where it samples). So two of it are two systems whose
differences are known. Each question's prompt and seed become a line of LOG. With `--fail` the first N questions get
HTTP 503. Log-probabilities of the prompt are given by rule too, with vLLM's tokenizer routes beside them: a token is
a character.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

from aiohttp import web


def share(*parts: object) -> float:
    """A number in [0, 1) that the parts decide."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4]) / 2**32


def echo(tokens: list[int]) -> dict[str, Any]:
    """The prompt's log-probabilities, and those of the token that is always generated."""
    values = [-share("token", *tokens[max(0, i - 3) : i + 1]) for i in range(len(tokens) + 1)]
    return {"token_logprobs": [None, *values[1:]], "top_logprobs": [None, *({"x": value} for value in values[1:])]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("log", type=Path)
    parser.add_argument("--wrong", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--fail", type=int, default=0)
    options = parser.parse_args()
    failures = iter(range(options.fail))
    log = options.log.open("a")

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        if "seed" not in body:
            # Who only asks whether it is ready is no part of an evaluation.
            return web.json_response({"choices": [{"text": " Paris"}]})
        log.write(json.dumps([body["prompt"], body["seed"]]) + "\n")
        log.flush()
        if next(failures, None) is not None:
            return web.Response(status=503, text="busy")
        await asyncio.sleep(options.delay)
        if body.get("echo"):
            return web.json_response({"choices": [{"index": 0, "text": "x", "logprobs": echo(body["prompt"][0])}]})
        words = body["prompt"].splitlines()[-1].removesuffix(" ->").split()
        drawn = share(body["prompt"], options.seed, body["seed"] if body["temperature"] else None)
        choice = {"index": 0, "text": f" {words[0 if drawn < options.wrong else -1]}", "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 2}})

    async def tokenize(request: web.Request) -> web.Response:
        return web.json_response({"tokens": [ord(letter) for letter in (await request.json())["prompt"]]})

    async def about(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}], "eos_token": "\0", "bos_token": "\0"})

    server = web.Application()
    server.add_routes([web.post("/v1/completions", complete), web.post("/tokenize", tokenize)])
    server.add_routes([web.get("/v1/models", about), web.get("/tokenizer_info", about)])
    web.run_app(server, host="127.0.0.1", port=options.port, print=None)


if __name__ == "__main__":
    main()
