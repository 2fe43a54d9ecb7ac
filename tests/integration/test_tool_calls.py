"""The harness for tool calls, against a stand-in that knows the answers, and against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evaluation import concurrency
from evaluation.catalogue import Prepared, load_benchmarks, prepare
from evaluation.fidelity import Decision, judge
from evaluation.harness.interface import Endpoint, Measured, Progress, Selection
from evaluation.harness.tool_calls import ToolCalls
from flagrelease.errors import HarnessError, ServerError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.policy import FidelityPolicy
from flagrelease.records import digest
from flagrelease.settings import CHECKOUT
from runtime import weights
from runtime.engines import engine
from runtime.engines.interface import ServeRequest
from runtime.launch.interface import ServerSpec
from runtime.launch.process import ProcessLauncher, free_port
from tests.integration.stand_in_tool_caller import Reply, StandInToolCaller, called

ITEMS = 40
EVERYTHING = Selection()
WITH_TOOLS = Path(__file__).with_name("llama_cpp_with_tools.py")
REFUSED_BY_VLLM = {
    "error": {"message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'}
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "WAITS_S", (0.01, 0.01))


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare(load_benchmarks()["tool_calls"].model_copy(update={"items": ITEMS}), tmp_path / "tasks")


def asked(prepared: Prepared) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (prepared.folder / "questions.jsonl").read_text().splitlines()]


@pytest.fixture
def stand_in(prepared: Prepared) -> StandInToolCaller:
    return StandInToolCaller(asked(prepared))


@pytest.fixture
def ask(prepared: Prepared, stand_in: StandInToolCaller, tmp_path: Path) -> Iterator[Callable[..., Measured]]:
    """Measures the stand-in; answers are kept from one call to the next."""
    with stand_in.serving() as url:

        def measure(selection: Selection = EVERYTHING, progress: Progress = lambda *_: None) -> Measured:
            endpoint = Endpoint(url, "m", 4, lambda: None if stand_in.alive else "killed by signal 9 (SIGKILL)")
            return ToolCalls().measure(prepared, endpoint, tmp_path / "journal.jsonl", progress, selection)

        yield measure


def test_every_question_is_asked_with_its_tools_and_what_is_called_is_scored(
    prepared: Prepared, stand_in: StandInToolCaller, ask: Callable[..., Measured]
) -> None:
    told: list[tuple[str, int, int]] = []
    run, items = ask(progress=lambda *said: told.append(said))
    assert (run.items, run.repeats, run.harness, run.generation) == (
        ITEMS, 1, "tool_calls", {"temperature": 0, "max_tokens": 512},
    )  # fmt: skip
    assert [item.score for item in items] == [1] * ITEMS
    assert {question.item for question in ToolCalls().questions(prepared)} == {item.item for item in items}
    assert told == [("tool_calls", answered, ITEMS) for answered in range(ITEMS + 1)]
    for request in stand_in.asked:
        assert request["tool_choice"] == "auto"
        assert 1 <= len(request["tools"]) <= 4
        assert (request["temperature"], request["max_tokens"]) == (0, 512)
    decisions = [Decision.model_validate_json(item.extracted) for item in items]
    for item, decision in zip(items, decisions, strict=True):
        assert item.finish_reason == ("tool_calls" if decision.expected else "stop")
        assert (item.prompt_tokens, item.output_tokens) in {(100 + 100 * tools, 20) for tools in range(1, 5)}
        assert item.latency_s is not None
        said = json.loads(item.answer)["tool_calls"][0]["name"] if decision.expected else item.answer
        assert said == (decision.expected or "No tool is needed.")
    policy = FidelityPolicy(min_drop_points=2, reason="for this test")
    found = judge("Tool calls", items, items, None, policy, 0.05)
    assert found.passed
    assert (found.trigger_f1, found.schema_validity) == ((1, 1), (1, 1))


def test_a_server_that_dies_ends_the_evaluation_and_its_answers_are_kept(
    stand_in: StandInToolCaller, ask: Callable[..., Measured], tmp_path: Path
) -> None:
    def kill(_: str, answered: int, __: int) -> None:
        stand_in.alive = answered < ITEMS // 2

    with pytest.raises(ServerError, match=r"died while it was asked Tool calls: killed by signal 9"):
        ask(progress=kill)
    kept = len((tmp_path / "journal.jsonl").read_text().splitlines())
    assert ITEMS // 2 <= kept < ITEMS
    stand_in.alive = True
    before = len(stand_in.asked)
    resumed = ask()
    # Different ones: a request that was under way when the server died may reach it only now.
    assert len({request["messages"][0]["content"] for request in stand_in.asked[before:]}) == ITEMS - kept
    assert resumed.items == ask().items
    assert len(resumed.items) == ITEMS


def test_repeats_are_asked_each_with_its_seed_and_a_selection_alone(
    prepared: Prepared, stand_in: StandInToolCaller, ask: Callable[..., Measured]
) -> None:
    some = [question.item for question in ToolCalls().questions(prepared)][:5]
    ask(Selection((0,), some))
    run, items = ask(Selection((0, 1, 2), some))
    assert (run.items, run.repeats) == (5, 3)
    assert [(item.item, item.repeat) for item in items] == [(name, n) for name in sorted(some) for n in range(3)]
    assert len(stand_in.asked) == 15
    assert len({request["seed"] for request in stand_in.asked}) == 3
    with pytest.raises(HarnessError, match="1 of the 2 questions"):
        ask(Selection((0,), [some[0], "0" * 64]))


@pytest.mark.parametrize(
    ("reply", "cause", "remedy"),
    [
        ((400, REFUSED_BY_VLLM), "does not take tool calls", "--tool-call-parser"),
        ((400, {"error": "the request exceeds the available context size"}), "context size", "context is too short"),
        ((200, {"object": "error"}), "no chat completion", "what serves at this address"),
        ((503, {"error": "Loading model"}), "stopped answering.*Loading model", "see its log"),
    ],
)
def test_a_server_that_refuses_is_explained(
    stand_in: StandInToolCaller, ask: Callable[..., Measured], reply: Reply, cause: str, remedy: str
) -> None:
    stand_in.reply = lambda _: reply
    with pytest.raises(HarnessError, match=cause) as caught:
        ask()
    assert remedy in caught.value.remedy


def test_a_chat_template_that_drops_the_tools_is_noticed_before_anything_is_asked(
    stand_in: StandInToolCaller, ask: Callable[..., Measured]
) -> None:
    stand_in.tokens_of_a_tool = 0
    with pytest.raises(HarnessError, match="does not show the model its tools: a question has 100 tokens"):
        ask()
    assert not stand_in.asked


def test_a_busy_server_is_asked_again(stand_in: StandInToolCaller, ask: Callable[..., Measured]) -> None:
    busy = iter([True, True])

    def reply(question: dict[str, Any]) -> Reply:
        return (429, {"error": "too many requests"}) if next(busy, False) else called(question)

    stand_in.reply = reply
    assert [item.score for item in ask().items] == [1] * ITEMS


@contextmanager
def llama_cpp(folder: Path, script: Path | None = None) -> Iterator[Endpoint]:
    """The engine's server of the small model; `script` in the place of the engine's own."""
    cell = resolve(load_matrix(CHECKOUT / "matrix.yaml"), load_chips(), "smollm2-cpu")
    port = free_port()
    request = ServeRequest(weights.check(cell.model).path, "m", "127.0.0.1", port)
    command = engine("llama_cpp").command(request, {"threads": 1, "context": 2048})
    if script:
        command = command._replace(argv=[command.argv[0], str(script), *command.argv[2:]])
    spec = ServerSpec(cell.id, command, "m", "127.0.0.1", port, folder / "server.log", 60)
    with ProcessLauncher(folder / "servers").start(spec, print) as server:
        yield Endpoint(server.base_url, "m", 1, lambda: None if server.alive() else server.exit_reason())


@pytest.mark.needs("llama_cpp")
def test_a_real_server_takes_tools_and_its_answers_can_be_judged(prepared: Prepared, tmp_path: Path) -> None:
    brief = {"temperature": 0, "max_tokens": 16}
    prepared = prepared._replace(benchmark=prepared.benchmark.model_copy(update={"task": brief}))
    # Those that offer one tool: a processor takes seconds to read a longer prompt.
    some = [digest(question) for question in asked(prepared) if len(question["tools"]) == 1][:4]
    with llama_cpp(tmp_path, WITH_TOOLS) as endpoint:
        _, items = ToolCalls().measure(prepared, endpoint, tmp_path / "j", lambda *_: None, Selection((0,), some))
    assert len(items) == len(some)
    for item in items:
        assert item.answer
        assert item.finish_reason in {"stop", "length", "tool_calls"}
        assert item.score == Decision.model_validate_json(item.extracted).right
        assert item.prompt_tokens is not None
        assert item.prompt_tokens > 100, "the tools are part of the prompt"


@pytest.mark.needs("llama_cpp")
def test_a_real_model_whose_chat_template_has_no_tools_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    with llama_cpp(tmp_path) as endpoint, pytest.raises(HarnessError, match="does not show the model its tools"):
        ToolCalls().measure(prepared, endpoint, tmp_path / "j", lambda *_: None, EVERYTHING)
