"""Serves a checkpoint through transformers, one request after the other: `python torch_reference_server.py --model=…`.

Not for production. It needs torch and transformers only, and FlagGems for `--gems`. It answers what the canary and
small evaluations ask: /v1/completions with token ids, `prompt_logprobs`, `echo` and `logprobs`; /v1/chat/completions;
/tokenize; /tokenizer_info; /v1/models; /health.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

Body = Mapping[str, Any]


SAID = 300
"""Characters of an error that the client is told."""


class BadRequestError(Exception):
    """What was asked cannot be answered; told to the client."""


class BrokeDownError(Exception):
    """An operator raised, or computed what is no number: not the request's fault, and told to the client."""


class Written(NamedTuple):
    """What the model wrote, or read."""

    prompt: list[int]
    tokens: list[int]
    """With the token that ended the text, as vLLM lists it."""
    text: str
    finish_reason: str
    listed: list[dict[int, dict[str, Any]] | None]
    """Of each token of the prompt the likeliest and itself: log-probability and rank. Empty where nobody asked."""


class Model:
    """A causal language model. Its operators run in one thread of their own, so that what is hooked there holds."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        torch.set_num_threads(arguments.threads)
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self._device = torch.device(arguments.device) if arguments.device else accelerator or torch.device("cpu")
        self.most_tokens = arguments.max_model_len
        self.tokenizer = AutoTokenizer.from_pretrained(arguments.model, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(
            arguments.model,
            dtype=getattr(torch, arguments.dtype),
            attn_implementation=arguments.attention,
            local_files_only=True,
        )
        self._model.to(self._device).eval()
        ends = self._model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        self._thread = ThreadPoolExecutor(1)

    def use_operators(self, *, include: Sequence[str], exclude: Sequence[str], path: str) -> None:
        """From now on FlagGems' operators run, listed in `path`: those to `include`, or all but those to `exclude`."""
        import flag_gems

        # The context is never left: it ends with the process.
        gems = flag_gems.use_gems(include=list(include), exclude=list(exclude), record=True, once=True, path=path)
        # FlagGems imports modules of vendors under names of their own (`_hygon.ops.mm`): what they log is none of its.
        within = f"{Path(flag_gems.__file__).parent}{os.sep}"
        files = [(name, getattr(module, "__dict__", {}).get("__file__")) for name, module in sys.modules.items()]
        for root in {name.partition(".")[0] for name, file in files if str(file).startswith(within)} - {"flag_gems"}:
            logging.getLogger(root).parent = logging.getLogger("flag_gems")
        self._thread.submit(gems.__enter__).result()

    def write(self, ids: list[int], body: Body, most: int) -> Written:
        """Read `ids` and write at most `most` tokens; greedily, or with the body's `temperature` and `seed`."""
        if not ids:
            raise BadRequestError("the prompt has no token")
        if len(ids) + most > self.most_tokens:
            raise BadRequestError(f"{len(ids)} tokens and {most} to write are more than {self.most_tokens}")
        torch, listed = self._torch, int(body.get("prompt_logprobs") or 0)
        if body.get("echo") and body.get("logprobs") is not None:
            listed = max(1, int(body["logprobs"]))
        generator = torch.Generator().manual_seed(int(body.get("seed") or 0))
        stops = [body["stop"]] if isinstance(body.get("stop"), str) else list(body.get("stop") or [])
        logits, cache = self._forward(ids, None)
        told = self._listed(ids, logits, listed) if listed else []
        tokens: list[int] = []
        text, reason = "", "length"
        while len(tokens) < most:
            following = self._choose(logits[-1], float(body.get("temperature") or 0), generator)
            tokens.append(following)
            if following in self._ends and not body.get("ignore_eos"):
                reason = "stop"
                break
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            if ends := [text.find(stop) for stop in stops if stop and stop in text]:
                text, reason = text[: min(ends)], "stop"
                break
            if len(tokens) < most:
                logits, cache = self._forward([following], cache)
        return Written(ids, tokens, text, reason, told)

    def _forward(self, ids: list[int], cache: Any) -> tuple[Any, Any]:
        """Logits of each of `ids`, on the host in float32, and what is kept for those that follow."""
        try:
            return self._thread.submit(self._run, ids, cache).result()
        except Exception as error:
            # Of whatever type: what an operator raises is not the client's mistake.
            raise BrokeDownError(_said(error)) from error

    def _run(self, ids: list[int], cache: Any) -> tuple[Any, Any]:
        with self._torch.no_grad():
            tokens = self._torch.tensor([ids], device=self._device)
            output = self._model(tokens, past_key_values=cache, use_cache=True)
            return output.logits[0].cpu().float(), output.past_key_values

    # What follows runs in the request's own thread, by torch's own operators: the measure is not what is measured.

    def _choose(self, logits: Any, temperature: float, generator: Any) -> int:
        if temperature <= 0:
            return int(logits.argmax())
        shares = (logits / temperature).softmax(-1)
        return int(self._torch.multinomial(shares, 1, generator=generator))

    def _listed(self, ids: list[int], logits: Any, count: int) -> list[dict[int, dict[str, Any]] | None]:
        told: list[dict[int, dict[str, Any]] | None] = [None]
        logprobs = logits[:-1].log_softmax(-1)
        top = logprobs.topk(count)
        for at, own in enumerate(ids[1:]):
            row = logprobs[at]
            ranks = {token: rank for rank, token in enumerate(top.indices[at].tolist(), 1)}
            if own not in ranks:
                ranks[own] = int((row > row[own]).sum()) + 1
            told.append(
                {
                    token: {"logprob": _number(row[token]), "rank": rank, "decoded_token": self.tokenizer.decode(token)}
                    for token, rank in ranks.items()
                }
            )
        return told


def _number(value: Any) -> float | None:
    found = float(value)
    return found if math.isfinite(found) else None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:SAID]


def completions(model: Model, name: str, body: Body) -> dict[str, Any]:
    """/v1/completions: a text, token ids, or a list of either."""
    prompt = body.get("prompt") or ""
    prompts = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    given = [each if isinstance(each, list) else model.tokenizer(each)["input_ids"] for each in prompts]
    most = 16 if body.get("max_tokens") is None else int(body["max_tokens"])
    written = [model.write(list(ids), body, most) for ids in given]
    choices = []
    for number, one in enumerate(written):
        beginning = model.tokenizer.decode(one.prompt) if body.get("echo") else ""
        choice: dict[str, Any] = {"index": number, "text": beginning + one.text, "finish_reason": one.finish_reason}
        if body.get("prompt_logprobs"):
            # JSON makes strings of the tokens.
            choice["prompt_logprobs"] = one.listed
        if body.get("return_token_ids"):
            choice |= {"prompt_token_ids": one.prompt, "token_ids": one.tokens}
        if body.get("echo") and body.get("logprobs") is not None:
            choice["logprobs"] = _echoed(model, one)
        choices.append(choice)
    return _answer("text_completion", name, choices, written)


def _echoed(model: Model, one: Written) -> dict[str, Any]:
    """The prompt's log-probabilities as OpenAI's API tells them; what was written has none here.

    Raises BrokeDownError where one is no finite number: clients add them up.
    """
    told = [each["logprob"] for row in one.listed if row for each in row.values()]
    if unread := told.count(None):
        raise BrokeDownError(f"{unread} of {len(told)} log-probabilities of the prompt are not finite")
    behind: list[None] = [None] * len(one.tokens)
    rows = list(zip(one.prompt, one.listed, strict=True))
    return {
        "tokens": [model.tokenizer.decode(token) for token in [*one.prompt, *one.tokens]],
        "token_logprobs": [*(row and row[token]["logprob"] for token, row in rows), *behind],
        "top_logprobs": [
            *(row and {each["decoded_token"]: each["logprob"] for each in row.values()} for _, row in rows),
            *behind,
        ],
    }


def chat(model: Model, name: str, body: Body) -> dict[str, Any]:
    """/v1/chat/completions, without tools."""
    ids = model.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=False)
    most = body.get("max_completion_tokens") or body.get("max_tokens") or model.most_tokens - len(ids)
    one = model.write(list(ids), body, int(most))
    message = {"role": "assistant", "content": one.text}
    choices = [{"index": 0, "message": message, "finish_reason": one.finish_reason}]
    return _answer("chat.completion", name, choices, [one])


def _answer(kind: str, name: str, choices: list[dict[str, Any]], written: list[Written]) -> dict[str, Any]:
    read, wrote = (sum(map(len, sides)) for sides in zip(*((one.prompt, one.tokens) for one in written), strict=True))
    usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    return {"object": kind, "model": name, "created": int(time.time()), "choices": choices, "usage": usage}


def tokenize(model: Model, _name: str, body: Body) -> dict[str, Any]:
    """/tokenize, as vLLM has it."""
    special = bool(body.get("add_special_tokens", True))
    ids = model.tokenizer(body.get("prompt") or "", add_special_tokens=special)["input_ids"]
    return {"tokens": ids, "count": len(ids), "max_model_len": model.most_tokens}


def tokenizer_info(model: Model, _name: str, _body: Body) -> dict[str, Any]:
    """/tokenizer_info, as vLLM has it: what harnesses read of it."""
    tokens = {"eos_token": model.tokenizer.eos_token, "bos_token": model.tokenizer.bos_token}
    return {**tokens, "pad_token": model.tokenizer.pad_token, "chat_template": model.tokenizer.chat_template}


def models(model: Model, name: str, _body: Body) -> dict[str, Any]:
    """/v1/models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "max_model_len": model.most_tokens}]}


def health(_model: Model, _name: str, _body: Body) -> dict[str, Any]:
    """/health."""
    return {}


ROUTES: dict[tuple[str, str], Callable[[Model, str, Body], dict[str, Any]]] = {
    ("POST", "/v1/completions"): completions,
    ("POST", "/v1/chat/completions"): chat,
    ("POST", "/tokenize"): tokenize,
    ("GET", "/tokenizer_info"): tokenizer_info,
    ("GET", "/v1/models"): models,
    ("GET", "/health"): health,
}


def listening(model: Model, name: str, address: str, port: int) -> ThreadingHTTPServer:
    """What answers at the address once it is told to serve."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply("GET", b"{}")

        def do_POST(self) -> None:
            self._reply("POST", self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def _reply(self, method: str, data: bytes) -> None:
            route = ROUTES.get((method, self.path))
            try:
                code, answer = (200, route(model, name, json.loads(data))) if route else (404, {"error": self.path})
            except (BadRequestError, ValueError, KeyError, TypeError) as error:
                code, answer = 400, {"error": {"message": _said(error)}}
            except Exception as error:
                traceback.print_exc()
                said = str(error) if isinstance(error, BrokeDownError) else _said(error)
                code, answer = 500, {"error": {"message": said}}
            sent = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            return

    return ThreadingHTTPServer((address, port), Handler)


def serve(model: Model, name: str, address: str, port: int) -> None:
    """Answer until the process ends."""
    server = listening(model, name, address, port)
    print(f"listening on {address}:{port}", flush=True)
    server.serve_forever()


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    for option in ("model", "served-name", "host", "dtype", "attention"):
        parser.add_argument(f"--{option}", required=True)
    for option in ("port", "threads", "max-model-len"):
        parser.add_argument(f"--{option}", type=int, required=True)
    parser.add_argument("--device", default="")
    parser.add_argument("--gems", action="store_true")
    for option in ("operators", "without-operators"):
        parser.add_argument(f"--{option}", default="")
    return parser.parse_args(argv)


def main() -> None:
    """Load the model, hook the operators, serve."""
    arguments = parsed(sys.argv[1:])
    model = Model(arguments)
    if arguments.gems:
        include, exclude = (
            [name for name in text.split(",") if name] for text in (arguments.operators, arguments.without_operators)
        )
        model.use_operators(include=include, exclude=exclude, path=os.environ["FLAGGEMS_ENABLE_OPLIST_PATH"])
    serve(model, arguments.served_name, arguments.host, arguments.port)


if __name__ == "__main__":
    main()
