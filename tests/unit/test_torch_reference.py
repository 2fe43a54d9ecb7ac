"""The reference engine on torch: how its server is started, and what it refuses."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from flagrelease.errors import MatrixError, PreflightError, ServerSettingsError
from flagrelease.records import Stack
from flagrelease.settings import settings
from runtime.engines import engine, torch_reference
from runtime.engines.interface import ServerCommand, ServeRequest
from runtime.engines.torch_reference_server import Body, Model, listening, parsed
from runtime.launch.interface import ServerSpec
from runtime.launch.readiness import wait_ready
from runtime.operators import WRITTEN, parse

REQUEST = ServeRequest(Path("/models/m"), "m", "127.0.0.1", 8000)
ENGINE = engine("torch_reference")


@pytest.fixture(autouse=True)
def _python(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert home.exists()
    monkeypatch.setenv("FLAGRELEASE_TORCH", sys.executable)
    settings.cache_clear()
    torch_reference._version.cache_clear()


def test_its_name_says_that_it_is_not_for_production() -> None:
    assert "not for production" in ENGINE.display


def test_the_server_reads_the_command_that_is_made_for_it() -> None:
    command = ENGINE.command(REQUEST, {"dtype": "bfloat16", "threads": 2})
    assert command.argv[0] == sys.executable
    assert Path(command.argv[1]).is_file()
    told = parsed(command.argv[2:])
    assert (told.model, told.served_name, told.host, told.port) == ("/models/m", "m", "127.0.0.1", 8000)
    assert (told.dtype, told.threads, told.attention, told.device) == ("bfloat16", 2, "eager", "")
    assert not told.gems
    assert "FLAGGEMS_ENABLE_OPLIST_PATH" not in command.environment


def test_on_flagos_it_is_told_which_operators_run_and_where_to_list_them() -> None:
    request = REQUEST._replace(stack=Stack.FLAGOS)
    command = ENGINE.command(request, {"without_operators": ["mm", "softmax"]})
    told = parsed(command.argv[2:])
    assert (told.gems, told.operators, told.without_operators) == (True, "", "mm,softmax")
    assert command.environment["FLAGGEMS_ENABLE_OPLIST_PATH"] == WRITTEN
    told = parsed(ENGINE.command(request, {"operators": ["mm"]}).argv[2:])
    assert (told.operators, told.without_operators) == ("mm", "")


def test_both_lists_at_once_and_a_container_are_refused() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        ENGINE.settings({"operators": ["mm"], "without_operators": ["add"]})
    with pytest.raises(MatrixError, match="process of the host"):
        ENGINE.command(REQUEST._replace(inside=True), {})


def test_a_host_without_torch_hears_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLAGRELEASE_TORCH", str(tmp_path / "python"))
    settings.cache_clear()
    with pytest.raises(PreflightError, match="there is no Python at") as caught:
        ENGINE.version()
    assert "FLAGRELEASE_TORCH" in caught.value.remedy
    liar = tmp_path / "python"
    liar.write_text("#!/bin/sh\nexit 1\n")
    liar.chmod(0o755)
    with pytest.raises(PreflightError, match="has no torch"):
        ENGINE.version()
    liar.write_text("#!/bin/sh\necho 2.13.0, transformers 5.19.0\n")
    torch_reference._version.cache_clear()
    assert ENGINE.version() == "2.13.0, transformers 5.19.0"


STAND_IN_FLAG_GEMS = """
import importlib, logging, os, sys

class use_gems:
    def __init__(self, include, exclude, record, once, path):
        self.path = path

    def __enter__(self):
        logger = logging.getLogger("flag_gems")
        handler = logging.FileHandler(self.path, mode="w")
        handler.setFormatter(logging.Formatter("[%(levelname)s] %(name)s.%(funcName)s: %(message)s"))
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
        logger.propagate = False

sys.path.append(os.path.dirname(__file__))
vendor = importlib.import_module("_standin.ops")
"""
OPERATORS_OF_A_VENDOR = """
import logging

logger = logging.getLogger(__name__)

def add():
    logger.debug("GEMS ADD")
"""


@pytest.fixture
def stand_in_flag_gems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for FlagGems that imports a vendor's operators, and records, as FlagGems does; the list."""
    package = tmp_path / "flag_gems"
    (package / "_standin").mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN_FLAG_GEMS)
    (package / "_standin/__init__.py").touch()
    (package / "_standin/ops.py").write_text(OPERATORS_OF_A_VENDOR)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path / "list.txt"
    logger = logging.getLogger("flag_gems")
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)
    for name in ("flag_gems", "_standin", "_standin.ops"):
        sys.modules.pop(name, None)


def test_what_a_vendors_module_logs_under_a_name_of_its_own_is_listed(stand_in_flag_gems: Path) -> None:
    model = Model.__new__(Model)
    model._thread = ThreadPoolExecutor(1)
    flag_gems = import_module("flag_gems")
    # It has asked for its level before anything is recorded.
    flag_gems.vendor.add()
    model.use_operators(include=[], exclude=[], path=str(stand_in_flag_gems))
    flag_gems.vendor.add()
    assert parse(stand_in_flag_gems.read_text()) == ["add"]


# The server

END = 2
"""The token that ends a text."""
PROMPT = [5, 6, 7, 8]
LOGPROBS = [-0.5, -1.5, -0.25]
"""Of the prompt's tokens behind the first."""


class ModelStandIn(Model):
    """Writes the tokens that it is told to, and finds prompts as likely as `LOGPROBS` says; needs no torch."""

    def __init__(
        self, *written: int, logprobs: list[float | None] | None = None, run: Callable[[], Any] = list
    ) -> None:
        self._torch = SimpleNamespace(Generator=lambda: SimpleNamespace(manual_seed=lambda _: None))
        self._thread = SimpleNamespace(submit=lambda *_: SimpleNamespace(result=run))  # type: ignore[assignment]
        self._ends = {END}
        self._written = written
        self._logprobs = logprobs or LOGPROBS
        self.most_tokens = 100
        self.tokenizer = TokenizerStandIn()

    def _forward(self, ids: list[int], cache: Any) -> tuple[Any, Any]:
        super()._forward(ids, cache)
        at = 0 if cache is None else cache
        return [self._written[at]], at + 1

    def _choose(self, logits: Any, temperature: float, generator: Any) -> int:  # noqa: ARG002 - as it is called
        return int(logits)

    def _listed(self, ids: list[int], logits: Any, count: int) -> list[dict[int, dict[str, Any]] | None]:  # noqa: ARG002
        rows = zip(ids[1:], self._logprobs, strict=True)
        return [None, *({token: {"logprob": it, "rank": 1, "decoded_token": f"<{token}>"}} for token, it in rows)]


class TokenizerStandIn:
    """A token is a word."""

    def decode(self, tokens: int | list[int], *, skip_special_tokens: bool = False) -> str:
        every = [tokens] if isinstance(tokens, int) else tokens
        return "".join(f"<{token}>" for token in every if token != END or not skip_special_tokens)


@contextmanager
def served(model: Model) -> Iterator[str]:
    """Its address."""
    server = listening(model, "m", "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(model: Model, **body: Any) -> httpx.Response:
    sent: Body = {"model": "m", "prompt": PROMPT, "temperature": 0, **body}
    with served(model) as url:
        return httpx.post(f"{url}/v1/completions", json=sent, trust_env=False)


@pytest.mark.parametrize("following", [9, END])
def test_a_choice_is_as_likely_whatever_the_model_would_write_next(following: int) -> None:
    answer = asked(ModelStandIn(following), max_tokens=1, echo=True, logprobs=1).raise_for_status().json()
    told = answer["choices"][0]["logprobs"]
    context = 2
    # As lm-eval reads the choice's tokens: all behind the context, without the one that was written.
    assert told["token_logprobs"][context:-1] == LOGPROBS[context - 1 :]
    assert told["top_logprobs"][context:-1] == [{"<7>": -1.5}, {"<8>": -0.25}]
    assert len(told["tokens"]) == len(told["token_logprobs"]) == len(PROMPT) + 1


def test_the_end_is_a_token_and_no_text() -> None:
    answer = asked(ModelStandIn(9, END), max_tokens=5, return_token_ids=True).raise_for_status().json()
    choice = answer["choices"][0]
    assert (choice["token_ids"], choice["text"], choice["finish_reason"]) == ([9, END], "<9>", "stop")
    assert answer["usage"]["completion_tokens"] == 2
    more = asked(ModelStandIn(9, END), max_tokens=2, ignore_eos=True).raise_for_status().json()
    assert more["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("kind", [RuntimeError, IndexError, TypeError, ValueError, KeyError, AssertionError])
def test_an_operator_that_raises_is_the_servers_fault_and_is_told(
    kind: type[Exception], capfd: pytest.CaptureFixture[str]
) -> None:
    def out_of_range() -> None:
        raise kind("softmax_kernel is out of resources")

    answer = asked(ModelStandIn(9, run=out_of_range), max_tokens=1)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].startswith(f"{kind.__name__}: ")
    assert "softmax_kernel is out of resources" in answer.json()["error"]["message"]
    logged = capfd.readouterr().err
    assert "Traceback" in logged
    assert "out_of_range" in logged


def test_what_cannot_be_answered_is_the_clients_fault() -> None:
    assert asked(ModelStandIn(9), prompt=[], max_tokens=1).status_code == 400
    assert asked(ModelStandIn(9), max_tokens=1000).status_code == 400
    assert asked(ModelStandIn(9), max_tokens="many").status_code == 400


def test_a_choice_without_a_number_is_an_error_and_the_canary_is_told() -> None:
    unread = ModelStandIn(9, logprobs=[-0.5, None, -0.25])
    answer = asked(unread, max_tokens=1, echo=True, logprobs=1)
    assert answer.status_code == 500
    assert "1 of 3 log-probabilities of the prompt are not finite" in answer.json()["error"]["message"]
    listed = asked(unread, max_tokens=1, prompt_logprobs=1).raise_for_status().json()["choices"][0]["prompt_logprobs"]
    assert [row and row[str(token)]["logprob"] for token, row in zip(PROMPT, listed, strict=True)] == [
        *(None, -0.5, None, -0.25)
    ]


class StartingStandIn:
    """A server that lives."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def alive(self) -> bool:
        return True

    def exit_reason(self) -> str:
        return "it still runs"

    def death(self, waited_s: float) -> ServerSettingsError:
        raise AssertionError(waited_s)


def test_waiting_ends_with_the_words_of_an_operator_that_raises(tmp_path: Path) -> None:
    def raises() -> None:
        raise RuntimeError("softmax_kernel is out of resources")

    model = ModelStandIn(9, run=raises)
    model.tokenizer = lambda _text: {"input_ids": PROMPT}
    with served(model) as url:
        spec = ServerSpec("m-c", ServerCommand([], {}), "m", "127.0.0.1", 0, tmp_path / "server.log", 20)
        with pytest.raises(ServerSettingsError, match=r"HTTP 500.*RuntimeError: softmax_kernel is out of resources"):
            wait_ready(StartingStandIn(url), spec, print)
