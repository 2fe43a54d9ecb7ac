"""lm-eval on real servers and stand-ins: each answer is kept as it comes, and nothing is asked twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from evaluation import concurrency, generators
from evaluation.baseline import SHIPPED
from evaluation.catalogue import Benchmark, Prepared, load_benchmarks, prepare
from evaluation.harness.interface import Endpoint, Progress, Selection
from evaluation.harness.lm_eval import SEED, LmEval
from evaluation.run import items_from_jsonl
from flagrelease.errors import HarnessError, ServerError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.records import Item, digest
from flagrelease.settings import CHECKOUT
from runtime import weights
from runtime.engines import engine
from runtime.engines.interface import ServeRequest
from runtime.launch.interface import ServerSpec
from runtime.launch.process import ProcessLauncher, ProcessServer, free_port
from tests.integration.evaluations import (
    AT_ONCE,
    asked,
    endpoint,
    evaluated,
    kill,
    last_word,
    nothing,
    stand_in,
    without_latency,
)

ITEMS = 30
WHOLE = Selection()
SAMPLED = {"temperature": 1.0, "do_sample": True}


def sampled(benchmark: Benchmark) -> Benchmark:
    assert isinstance(benchmark.task, dict)
    settings = {"generation_kwargs": benchmark.task["generation_kwargs"] | SAMPLED}
    return benchmark.model_copy(update={"task": benchmark.task | settings})


def measured(
    prepared: Prepared,
    at: Endpoint,
    journal: Path,
    selection: Selection = WHOLE,
    progress: Progress = nothing,
) -> list[Item]:
    """The answers of a harness that knows nothing yet, without what differs from run to run."""
    return without_latency(LmEval().measure(prepared, at, journal, progress, selection).items)


@contextmanager
def llama(folder: Path) -> Iterator[ProcessServer]:
    cell = resolve(load_matrix(CHECKOUT / "matrix.yaml"), load_chips(), "smollm2-cpu")
    llama, port = engine("llama_cpp"), free_port()
    request = ServeRequest(weights.check(cell.model).path, "m", "127.0.0.1", port)
    command = llama.command(request, {"threads": 1, "context": 2048})
    spec = ServerSpec(cell.id, command, "m", "127.0.0.1", port, folder / "server.log", 60)
    with ProcessLauncher(folder / "servers").start(spec, print) as server:
        yield server


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessServer]:
    with llama(tmp_path_factory.mktemp("llama")) as server:
        yield server


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare(last_word(ITEMS), tmp_path / "tasks")


def lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines()


@pytest.mark.needs("llama_cpp")
def test_a_real_server_that_dies_ends_the_evaluation_and_it_goes_on_where_it_stopped(
    prepared: Prepared, llama_server: ProcessServer, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    with llama(tmp_path) as server:

        def die(_: str, answered: int, __: int) -> None:
            if answered == ITEMS // 2:
                kill(server, tmp_path)

        with pytest.raises(ServerError, match=r"died while it was asked Last word[\s\S]*SIGKILL"):
            measured(prepared, endpoint(server, 1), journal, progress=die)
    kept = lines(journal)
    assert len(kept) == ITEMS // 2

    resumed = measured(prepared, endpoint(llama_server, 1), journal)
    assert lines(journal)[: ITEMS // 2] == kept
    assert len(lines(journal)) == ITEMS
    assert resumed == measured(prepared, endpoint(llama_server, 1), tmp_path / "undisturbed.jsonl")
    assert sum(item.score for item in resumed) > ITEMS / 3


@pytest.mark.needs("llama_cpp")
def test_repeats_of_a_real_model_differ_where_answers_are_sampled_only(
    prepared: Prepared, llama_server: ProcessServer, tmp_path: Path
) -> None:
    at = endpoint(llama_server, 1)

    def answers(benchmark: Benchmark) -> list[dict[str, str]]:
        found = prepare(benchmark, tmp_path / "tasks")
        items = measured(found, at, tmp_path / "journal.jsonl", Selection((0, 1)))
        return [{item.item: item.answer for item in items if item.repeat == repeat} for repeat in (0, 1)]

    first, second = answers(prepared.benchmark)
    assert first == second
    first, second = answers(sampled(prepared.benchmark))
    assert first.keys() == second.keys()
    assert first != second


def test_only_what_is_selected_is_asked_and_more_repeats_ask_the_new_ones(prepared: Prepared, tmp_path: Path) -> None:
    benchmark = sampled(prepared.benchmark)
    prepared = prepare(benchmark, tmp_path / "tasks")
    journal = tmp_path / "journal.jsonl"
    items = [question.item for question in LmEval().questions(prepared)]
    with stand_in(tmp_path, "--wrong", "0.5") as server:
        at = endpoint(server)
        some = measured(prepared, at, journal, Selection((0,), items[:10]))
        assert {item.item for item in some} == set(items[:10])
        assert asked(tmp_path).total() == 10
        both = measured(prepared, at, journal, Selection((0, 1)))
        assert [(item.item, item.repeat) for item in both] == [(item, n) for item in sorted(items) for n in (0, 1)]
        assert asked(tmp_path).total() == 2 * ITEMS
        second = measured(prepared, at, journal, Selection((1,)))
        assert second == [item for item in both if item.repeat == 1]
        assert asked(tmp_path).total() == 2 * ITEMS
        with pytest.raises(HarnessError, match="1 of the 1 questions"):
            measured(prepared, at, journal, Selection((0,), ["unknown"]))
    seeds = Counter(json.loads(line)[1] for line in asked(tmp_path))
    assert seeds == {SEED: ITEMS, SEED + 1: ITEMS}
    assert {item.score for item in both} == {0, 1}


def test_greedy_repeats_are_the_same_request_again(prepared: Prepared, tmp_path: Path) -> None:
    with stand_in(tmp_path) as server:
        found = LmEval().measure(prepared, endpoint(server), tmp_path / "journal", nothing, Selection(range(3)))
    assert found.run.repeats == 3
    assert set(asked(tmp_path).values()) == {3}
    assert all(item.latency_s for item in found.items)


def test_a_server_killed_under_load_costs_the_requests_in_flight_at_most(tmp_path: Path) -> None:
    prepared = prepare(last_word(200), tmp_path / "tasks")
    journal = tmp_path / "journal.jsonl"
    with stand_in(tmp_path, "--wrong", "0.3", "--delay", "0.02") as server:

        def die(_: str, answered: int, __: int) -> None:
            if answered == 100:
                kill(server, tmp_path)

        with pytest.raises(ServerError, match="SIGKILL"):
            measured(prepared, endpoint(server), journal, progress=die)
    kept = len(lines(journal))
    assert 100 <= kept < 100 + AT_ONCE
    with stand_in(tmp_path, "--wrong", "0.3") as server:
        resumed = measured(prepared, endpoint(server), journal)
        again = asked(tmp_path).total() - 200
        assert 0 <= again <= AT_ONCE
        assert len(lines(journal)) == 200
        assert resumed == measured(prepared, endpoint(server), tmp_path / "undisturbed.jsonl")


def test_a_half_written_answer_is_asked_again(prepared: Prepared, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with stand_in(tmp_path) as server:
        whole = measured(prepared, endpoint(server), journal)
        journal.write_bytes(journal.read_bytes()[:-10])
        assert measured(prepared, endpoint(server), journal) == whole
    assert asked(tmp_path).total() == ITEMS + 1


def test_a_busy_server_is_asked_again(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "WAITS_S", (0.0, 0.0))
    with stand_in(tmp_path, "--fail", "2") as server:
        assert len(measured(prepared, endpoint(server), tmp_path / "journal")) == ITEMS
    with (
        stand_in(tmp_path, "--fail", "1000") as server,
        pytest.raises(HarnessError, match=r"stopped answering while it was asked Last word: HTTP 503: busy"),
    ):
        measured(prepared, endpoint(server), tmp_path / "other")


def test_a_request_that_the_server_refuses_is_shown(prepared: Prepared, tmp_path: Path) -> None:
    other = prepare(prepared.benchmark.model_copy(update={"api": "chat"}), tmp_path / "tasks")
    with stand_in(tmp_path) as server, pytest.raises(HarnessError, match="refused a question with HTTP 404"):
        measured(other, endpoint(server), tmp_path / "journal")


def test_log_likelihoods_are_repeated_and_each_request_is_progress(tmp_path: Path) -> None:
    benchmark = load_benchmarks()["hellaswag_100"]
    prepared = prepare(benchmark, tmp_path / "tasks")
    items = [question.item for question in LmEval().questions(prepared)][:3]
    progress: list[tuple[int, int]] = []

    def take(_: str, answered: int, of: int) -> None:
        progress.append((answered, of))

    with stand_in(tmp_path) as server:
        measured(prepared, endpoint(server), tmp_path / "journal", Selection((0,), items), take)
        assert progress == [(answered, 12) for answered in range(13)]
        progress.clear()
        both = measured(prepared, endpoint(server), tmp_path / "journal", Selection((0, 1), items), take)
    assert progress == [(answered, 24) for answered in range(12, 25)]
    assert [item.score for item in both if item.repeat == 0] == [item.score for item in both if item.repeat == 1]
    assert all(len(json.loads(item.answer)) == 4 for item in both)


@pytest.mark.parametrize("key", ["last_word", "addition", "hellaswag_100"])
def test_questions_are_known_by_the_hashes_of_a_stored_baseline(key: str, tmp_path: Path) -> None:
    found = LmEval().questions(prepare(load_benchmarks()[key], tmp_path))
    cell = resolve(load_matrix(CHECKOUT / "matrix.yaml"), load_chips(), "smollm2-cpu")
    assert cell.model.reference.baseline is not None
    stored = items_from_jsonl((SHIPPED / cell.model.reference.baseline / "items.jsonl").read_bytes())
    assert {question.item for question in found} == {item.item for item in stored if item.benchmark == key}


def test_items_prompts_and_settings_are_those_of_lm_eval_itself(tmp_path: Path) -> None:
    """With examples drawn at random, which a part of the questions must not change."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    benchmark = last_word(ITEMS, few_shot=2)
    prepared = prepare(benchmark, tmp_path / "tasks")
    file = prepared.folder / "last_word.yaml"
    task = json.loads(file.read_text())
    task["dataset_kwargs"]["data_files"]["train"] = task["dataset_kwargs"]["data_files"]["test"]
    file.write_text(json.dumps(task | {"fewshot_split": "train"}))
    theirs = simple_evaluate(
        model="dummy",
        tasks=["last_word"],
        task_manager=TaskManager(include_path=str(prepared.folder), include_defaults=False),
        bootstrap_iters=0,
    )
    samples = {sample["doc_hash"]: sample["prompt_hash"] for sample in theirs["samples"]["last_word"]}
    assert len(set(samples.values())) == ITEMS
    half = sorted(samples)[: ITEMS // 2]
    with stand_in(tmp_path) as server:
        found = LmEval().measure(prepared, endpoint(server), tmp_path / "journal", nothing, Selection((0,), half))
    assert {item.item: item.prompt for item in found.items} == {item: samples[item] for item in half}
    assert found.run.generation == theirs["configs"]["last_word"]["generation_kwargs"]


def test_copies_of_a_question_have_names_of_their_own_and_are_one_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def questions(_: int, __: int) -> list[dict[str, Any]]:
        rows = [("a b", "b", "letters"), ("c d", "d", "letters"), ("a b", "b", "letters"), ("x y", "y", "end")]
        return [{"words": words, "answer": answer, "subject": subject} for words, answer, subject in rows]

    monkeypatch.setitem(generators.GENERATORS, "last_word", questions)
    harness = LmEval()
    first = prepare(last_word(4), tmp_path)
    names = [question.item for question in harness.questions(first)]
    assert names[2] == digest([names[0], 1])
    assert len(set(names)) == 4
    assert {question.stratum for question in harness.questions(first)} == {""}
    with stand_in(tmp_path) as server:
        items = {item.item: item for item in measured(first, endpoint(server), tmp_path / "journal")}
        assert asked(tmp_path).total() == 4
        assert [items[name].cluster for name in names] == [names[0], None, names[0], None]
        second = prepare(last_word(4, cluster="subject", stratum="subject"), tmp_path)
        subjects = ["letters", "letters", "letters", "end"]
        assert [question.stratum for question in harness.questions(second)] == subjects
        items = {item.item: item for item in measured(second, endpoint(server), tmp_path / "journal")}
    clusters = [items[name].cluster for name in names]
    assert clusters == [sha256(subject.encode()).hexdigest() for subject in subjects]
    unknown = prepare(last_word(4, cluster="topic"), tmp_path)
    with pytest.raises(HarnessError, match=r"no field of a question topic; it has words, answer, subject"):
        harness.questions(unknown)


@pytest.mark.parametrize(("what", "known"), [("filter", "first-word"), ("metric", "exact_match")])
def test_a_filter_or_metric_that_the_task_lacks_is_named(what: str, known: str, tmp_path: Path) -> None:
    prepared = prepare(last_word(3, **{what: "unheard-of"}), tmp_path)
    with stand_in(tmp_path) as server, pytest.raises(HarnessError, match=f"no {what} unheard-of; it has {known}"):
        measured(prepared, endpoint(server), tmp_path / "journal")


def test_a_task_that_lm_eval_does_not_have_is_named(tmp_path: Path) -> None:
    benchmark = load_benchmarks()["aime24"].model_copy(update={"task": ["aime1924"]})
    with pytest.raises(HarnessError, match=r"could not run AIME 2024.*aime1924"):
        LmEval().questions(prepare(benchmark, tmp_path))


def test_what_was_found_is_said_once_a_benchmark(tmp_path: Path) -> None:
    said: list[str] = []
    with stand_in(tmp_path, "--delay", "0.01") as server:
        found = evaluated(endpoint(server, 4), tmp_path, last_word(60), log=said.append, repeats={"last_word": 2})
        assert said == [
            "evaluate: Last word (1 of 1)",
            "evaluate: Last word: up to 4 requests at once were found to be best (the cell allows 4)",
        ]
        assert found.benchmarks[0].repeats == 2
        said.clear()
        evaluated(endpoint(server, 1), tmp_path, last_word(60), log=said.append)
    assert said == ["evaluate: Last word (1 of 1)"]
    assert asked(tmp_path).total() == 120
