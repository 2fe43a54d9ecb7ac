"""Evaluating a suite, with a fake harness: who is asked what, when it is enough, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation import run
from evaluation.catalogue import Benchmark, Prepared, load_benchmarks
from evaluation.harness.interface import Endpoint, Measured, Progress, Question, Selection
from evaluation.run import EarlyStopping, aggregate, evaluate
from flagrelease.policy import EarlyStop
from flagrelease.records import BenchmarkRun, Evaluation, Item
from flows import serving
from flows.serving import SaidProgress
from tests.unit.evaluations import provenance
from tests.unit.policies import policy

ENDPOINT = Endpoint("http://nowhere", "m", 1, lambda: None)
RULE = EarlyStop(from_items=1000, looks=10, z=3.0, reason="chosen for a test")
Scores = Mapping[str, float]


def names(count: int) -> list[str]:
    return [f"{number:064d}" for number in range(count)]


def benchmark(**changes: Any) -> Benchmark:
    return load_benchmarks()["last_word"].model_copy(update=changes)


def items(scores: Scores, repeats: Sequence[int] = (0,), name: str = "last_word") -> list[Item]:
    return [
        Item(benchmark=name, item=item, repeat=repeat, score=score, prompt="p", answer="a", extracted="a")
        for item, score in scores.items()
        for repeat in repeats
    ]


class FakeHarness:
    """Knows the score of every item, and takes down what it was asked."""

    name = "fake"

    def __init__(self, scores: Scores, requests: int = 1) -> None:
        self.scores = scores
        self.requests = requests
        self.asked: list[list[str]] = []
        self.repeats: list[Sequence[int]] = []
        self.journals: list[Path] = []

    def version(self) -> str:
        return "1"

    def questions(self, _: Prepared) -> list[Question]:
        return [Question(item, "rare" if item.endswith("7") else "usual") for item in self.scores]

    def measure(
        self, prepared: Prepared, _: Endpoint, journal: Path, progress: Progress, selection: Selection
    ) -> Measured:
        chosen = list(self.scores) if selection.items is None else list(selection.items)
        self.asked.append(chosen)
        self.repeats.append(list(selection.repeats))
        self.journals.append(journal)
        for answered in range(len(chosen) * self.requests + 1):
            progress(prepared.benchmark.key, answered, len(chosen) * self.requests)
        asked = BenchmarkRun(
            benchmark=prepared.benchmark.key,
            dataset_sha256="",
            task_sha256="",
            few_shot=0,
            generation={},
            api="chat",
            harness=self.name,
            items=len(chosen),
            repeats=len(selection.repeats),
        )
        return Measured(asked, items({item: self.scores[item] for item in chosen}, selection.repeats))


@pytest.fixture
def asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Evaluation, FakeHarness, list[str], list[tuple[int, int]]]]:
    def ask(
        scores: Scores, requests: int = 1, benchmarks: Sequence[Benchmark] | None = None, **options: Any
    ) -> tuple[Evaluation, FakeHarness, list[str], list[tuple[int, int]]]:
        harness = FakeHarness(scores, requests)
        monkeypatch.setitem(run.HARNESSES, "lm_eval", harness)
        said: list[str] = []
        progress: list[tuple[int, int]] = []
        found = evaluate(
            benchmarks or [benchmark()],
            ENDPOINT,
            provenance(),
            tasks=tmp_path,
            journals=tmp_path / "journals",
            progress=lambda _, answered, of: progress.append((answered, of)),
            log=said.append,
            **options,
        )
        return found, harness, said, progress

    return ask


EQUAL = dict.fromkeys(names(1000), 1.0)


def test_repeats_are_the_benchmarks_own_or_those_asked_for(asking: Callable[..., Any]) -> None:
    twice = benchmark(repeats=2)
    assert asking(EQUAL, benchmarks=[twice])[1].repeats == [[0, 1]]
    assert asking(EQUAL, benchmarks=[twice], repeats={"last_word": 3})[1].repeats == [[0, 1, 2]]
    assert asking(EQUAL, benchmarks=[twice], repeats={"addition": 3})[1].repeats == [[0, 1]]


def test_each_benchmark_has_a_journal_of_its_own(asking: Callable[..., Any]) -> None:
    hub = {"task": ["mmlu_pro"], "dataset": load_benchmarks()["mmlu_pro"].dataset}
    others = [benchmark(key="a", **hub), benchmark(key="b", **hub), benchmark(key="b", **hub | {"task": ["musr"]})]
    _, harness, *_ = asking(EQUAL, benchmarks=[benchmark(), *others])
    assert len(set(harness.journals)) == 4


def test_an_equal_system_is_asked_only_a_part(asking: Callable[..., Any]) -> None:
    stop = EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), items(EQUAL))
    found, harness, said, progress = asking(EQUAL, requests=4, stop=stop)
    run = found.benchmarks[0]
    assert run.items == sum(map(len, harness.asked)) < 600
    assert run.stopped_of == 1000
    assert len(found.items) == run.items
    assert [item.item for item in found.items] == sorted(item for look in harness.asked for item in look)
    assert said[-1].endswith(f"stopped after {run.items} of 1,000 items: a loss of 2 points is excluded")
    # Each look shows every stratum, and what was answered is out of all requests.
    assert [sum(item.endswith("7") for item in look) for look in harness.asked] == [10] * len(harness.asked)
    assert progress[0] == (0, 4000)
    assert progress[-1] == (4 * run.items, 4000)
    assert [answered for answered, _ in progress] == sorted(answered for answered, _ in progress)


def test_the_order_is_always_the_same(asking: Callable[..., Any]) -> None:
    stop = EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), items(EQUAL))
    assert asking(EQUAL, stop=stop)[1].asked == asking(dict(reversed(EQUAL.items())), stop=stop)[1].asked


def test_the_own_margin_of_a_benchmark_is_what_has_to_be_excluded(asking: Callable[..., Any]) -> None:
    stop = EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), items(EQUAL))
    wide = benchmark(margin_points=5.0, margin_reason="chosen for a test")
    _, _, said, _ = asking(EQUAL, stop=stop, benchmarks=[wide])
    assert said[-1].endswith("a loss of 5 points is excluded")


def test_the_mean_over_the_benchmarks_has_to_be_resolved_too(asking: Callable[..., Any]) -> None:
    """With several gated benchmarks each may be less exact, as their errors average out."""
    several = [benchmark(key=key) for key in ("last_word", "b", "c", "d")]
    answers = [item.model_copy(update={"benchmark": each.key}) for each in several for item in items(EQUAL)]
    stop = EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), answers)
    alone = (
        asking(EQUAL, stop=EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), items(EQUAL)))[0]
        .benchmarks[0]
        .items
    )
    together = asking(EQUAL, stop=stop, benchmarks=several)[0].benchmarks[0].items
    assert together < alone


def test_a_lost_benchmark_is_stopped_at_the_first_look_that_lets_it_decide(asking: Callable[..., Any]) -> None:
    stop = EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), items(EQUAL))
    found, _, said, _ = asking(dict.fromkeys(EQUAL, 0.4), stop=stop)
    # Not at 100 items, where it would be advisory and its loss decide nothing.
    assert found.benchmarks[0].items == 200
    assert said[-1].endswith("a loss is shown, of 60.0 points so far")


def test_repeats_are_averaged_on_both_sides(asking: Callable[..., Any]) -> None:
    """A baseline that is right in one of two repeats is as good as a candidate that always scores one half."""
    half = items(EQUAL) + [item.model_copy(update={"repeat": 1, "score": 0.0}) for item in items(EQUAL)]
    stop = EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), half)
    found, _, said, _ = asking(dict.fromkeys(EQUAL, 0.5), stop=stop)
    assert "a loss of 2 points is excluded" in said[-1]
    assert found.benchmarks[0].stopped_of == 1000


def test_items_that_share_a_passage_count_as_one(asking: Callable[..., Any]) -> None:
    shared = [item.model_copy(update={"cluster": str(int(item.item) % 10)}) for item in items(EQUAL)]
    found, *_ = asking(EQUAL, stop=EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), shared))
    assert found.benchmarks[0].stopped_of is None


@pytest.mark.parametrize(
    "stop",
    [
        EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), []),
        EarlyStopping(policy(pooled_margin_points=2.0, early_stop=RULE), items(EQUAL)[1:]),
        EarlyStopping(
            policy(pooled_margin_points=2.0, early_stop=RULE.model_copy(update={"from_items": 1001})), items(EQUAL)
        ),
        EarlyStopping(policy(), items(EQUAL)),
        None,
    ],
    ids=["no baseline", "another baseline", "too small", "no rule", "a baseline itself"],
)
def test_otherwise_a_benchmark_is_asked_whole(asking: Callable[..., Any], stop: EarlyStopping | None) -> None:
    found, harness, *_ = asking(EQUAL, stop=stop)
    assert harness.asked == [list(EQUAL)]
    assert found.benchmarks[0].stopped_of is None


def test_scores_are_means_over_items_whatever_the_number_of_their_repeats() -> None:
    twice = items({"a": 1.0}, (0,)) + items({"b": 0.0}, (0, 1, 2))
    asked = BenchmarkRun(
        benchmark="last_word",
        dataset_sha256="",
        task_sha256="",
        few_shot=0,
        generation={},
        api="chat",
        harness="h",
        items=2,
        repeats=3,
    )
    result = aggregate(Evaluation(provenance=provenance(), benchmarks=[asked], items=twice))[0]
    assert (result.n, result.score, result.repeats) == (2, 0.5, 3)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(serving, "time", clock)
    return clock


def test_progress_says_the_rate_and_time_left_of_what_is_asked_now(clock: Clock) -> None:
    said: list[str] = []
    progress = SaidProgress(said.append)
    progress("b", 500, 1000)
    for answered in range(501, 521):
        clock.now += 1
        progress("b", answered, 1000)
    assert said == [
        "evaluate: b: 500 answers kept from an earlier run",
        "evaluate: b 505/1000, 1.0/s, 495 s left",
        "evaluate: b 510/1000, 1.0/s, 490 s left",
        "evaluate: b 515/1000, 1.0/s, 485 s left",
        "evaluate: b 520/1000, 1.0/s, 480 s left",
    ]
    said.clear()
    # The next look was answered in part as well.
    progress("b", 620, 1000)
    clock.now += 5
    progress("b", 621, 1000)
    assert said == ["evaluate: b: 100 answers kept from an earlier run", "evaluate: b 621/1000, 0.8/s, 451 s left"]


def test_progress_follows_a_rate_that_rises(clock: Clock) -> None:
    said: list[str] = []
    progress = SaidProgress(said.append)
    answered = 0
    progress("b", 0, 10_000)
    for rate in [1] * 20 + [10] * 70:
        for _ in range(rate):
            clock.now += 1 / rate
            answered += 1
            progress("b", answered, 10_000)
    assert "10.0/s" in said[-1]


def test_progress_begins_anew_with_each_benchmark_and_says_its_end(clock: Clock) -> None:
    said: list[str] = []
    progress = SaidProgress(said.append)
    for name in ("a", "b"):
        progress(name, 0, 2)
        for answered in (1, 2):
            clock.now += 0.5
            progress(name, answered, 2)
    assert said == [f"evaluate: {name} 2/2, 2.0/s, 0 s left" for name in ("a", "b")]
    said.clear()
    progress("b", 2, 2)
    assert said == []
