"""`flagrelease gate` and `flips` tell what the store knows of a verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from evaluation.catalogue import Benchmark
from evaluation.gate import decide
from flagrelease.loading import load_matrix
from flagrelease.records import BenchmarkRun, Evaluation, Item
from flagrelease.settings import settings
from flagrelease.store import Store
from tests.conftest import ROOT
from tests.unit.command_line import Run
from tests.unit.evaluations import provenance

N = 1000
SUMS = Benchmark(key="sums", display="Sums [easy]", description="sums", harness="lm_eval", source="a test")
BENCHMARKS = ("sums", "words")
Changes = Mapping[tuple[str, int], Mapping[str, Any]]


def measured(changes: Changes | None = None, **about: Any) -> Evaluation:
    """Two benchmarks of which the even items are right, with changes to some answers."""
    runs = [
        BenchmarkRun(
            benchmark=name,
            dataset_sha256="d",
            task_sha256="t",
            few_shot=0,
            generation={},
            api="chat",
            harness="lm_eval",
            items=N,
        )
        for name in BENCHMARKS
    ]
    answers = []
    for name in BENCHMARKS:
        for i in range(N):
            values: dict[str, Any] = {
                "score": 1 - i % 2,
                "prompt": "p",
                "answer": f" {i}\n",
                "extracted": str(i),
                "finish_reason": "stop",
            }
            values |= (changes or {}).get((name, i), {})
            answers.append(Item(benchmark=name, item=f"{name}-{i:060d}", **values))
    return Evaluation(provenance=provenance().model_copy(update=about), benchmarks=runs, items=answers)


def release(store: Store, candidate: Evaluation, key: str, cell: str = "m-c") -> int:
    """A judged release in the store; returns its number."""
    baseline = measured()
    store.add_evaluation(baseline, [], key="base", role="baseline", baseline_id="m-e-1")
    gate = decide(
        candidate,
        baseline,
        baseline_id="m-e-1",
        policy=load_matrix(ROOT / "matrix.yaml").policy,
        benchmarks={"sums": SUMS},
    )
    number = store.begin_release(cell=cell, key=key, engine="e", snapshot={}, code_version="0")
    store.record_verdict(number, gate, store.add_evaluation(candidate, [], key=key, role="candidate"))
    store.finish_release(number, "completed")
    return number


@pytest.fixture
def store(home: Path) -> Store:
    (home / "home").mkdir()
    return Store.open(settings().store_url)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def lost(n: int) -> dict[tuple[str, int], dict[str, Any]]:
    return {("sums", 2 * i): {"score": 0} for i in range(n)}


def won(n: int) -> dict[tuple[str, int], dict[str, Any]]:
    return {("sums", 2 * i + 1): {"score": 1} for i in range(n)}


@pytest.mark.parametrize(
    ("candidate", "code", "verdict"),
    [
        (measured(), 0, "CONSISTENT"),
        (measured(lost(60)), 1, "REGRESSED"),
        (measured(lost(95) | won(80)), 2, "INCONCLUSIVE"),
        (measured(weights_sha256="2" * 64), 3, "INVALID"),
    ],
)
def test_each_verdict_has_its_exit_code(store: Store, run: Run, candidate: Evaluation, code: int, verdict: str) -> None:
    number = release(store, candidate, "k")
    assert run("gate", "m-c") == code
    assert run.out.startswith(f"{verdict}  release {number} of m-c through e against baseline m-e-1")
    for word in ("Sums [easy]", "1000 × 1", "Margin", "90 % interval"):
        assert word in run.out
    assert ("pooled: " in run.out) == (verdict != "INVALID")
    failed = "failed check: weights: candidate 222222222222, baseline 000000000000"
    assert run.out.count("weights: candidate") == run.out.count(failed) == (1 if verdict == "INVALID" else 0)


def test_the_verdict_as_json(store: Store, run: Run) -> None:
    number = release(store, measured(lost(60)), "k")
    assert run("gate", str(number), "--json") == 1
    found = json.loads(run.out)
    assert (found["release"], found["cell"], found["verdict"]) == (number, "m-c", "REGRESSED")
    assert found["benchmarks"][0]["lost"] == 60


def test_a_cell_is_its_newest_release_that_was_judged(store: Store, run: Run) -> None:
    first = release(store, measured(lost(60)), "1")
    second = release(store, measured(), "2")
    running = store.begin_release(cell="m-c", key="3", engine="e", snapshot={}, code_version="0")
    assert run("gate", "m-c") == 0
    assert f"release {second} of m-c" in run.out
    assert run("gate", str(first)) == 1
    assert run("gate", str(running)) == 12
    assert f"release {running} was not judged" in run.err
    assert run("flips", "other") == 12
    assert "there is no release `other`" in run.err


def test_flips_show_both_sides_lost_ones_first(store: Store, run: Run) -> None:
    changes: Changes = {
        ("sums", 1): {"score": 1, "extracted": "now right", "answer": "now  right\n"},
        ("words", 0): {"score": 0, "extracted": "[red]ash", "answer": "\x1b[31mash " * 20, "finish_reason": "length"},
        ("words", 2): {"answer": "the score is the same"},
    }
    release(store, measured(changes), "k")
    assert run("flips", "m-c") == 0
    *_, first, second, count = run.out.splitlines()
    for word in ("words-000000", "1 → 0", "0 → [red]ash", "0 → ·[31mash", "…", "stop → length"):
        assert word in run.out
    assert run.out.index("words-000000") < run.out.index("sums-0000000")
    assert "0 → 1" in run.out
    assert "1 → now right" in run.out
    assert "\x1b" not in first + second
    assert count.startswith("1 lost and 1 won of 2000 items: release 1 of m-c against baseline m-e-1")


def test_flips_of_one_benchmark_as_json(store: Store, run: Run) -> None:
    release(store, measured({("sums", 0): {"score": 0, "answer": "x"}, ("words", 0): {"score": 0}}), "k")
    assert run("flips", "m-c", "--benchmark", "sums", "--json") == 0
    found = json.loads(run.out)
    assert (found["compared"], found["lost"], found["won"]) == (N, 1, 0)
    (flip,) = found["flips"]
    assert flip["item"] == f"sums-{0:060d}"
    assert flip["baseline"] == {"score": 1, "answers": [" 0\n"], "extracted": ["0"], "finish_reasons": ["stop"]}
    assert flip["candidate"] == {"score": 0, "answers": ["x"], "extracted": ["0"], "finish_reasons": ["stop"]}
    assert run("flips", "m-c", "--benchmark", "sum") == 12
    assert "did you mean `sums`?" in run.err


def test_an_item_without_an_answer_is_lost(store: Store, run: Run) -> None:
    whole = measured()
    release(store, whole.model_copy(update={"items": whole.items[2:]}), "k")
    assert run("flips", "m-c") == 0
    # Of the two that are missing one was right before.
    assert "1 lost and 0 won of 2000 items" in run.out
    assert "(no answer)" in run.out


def test_flips_agree_with_the_verdict(store: Store, run: Run) -> None:
    release(store, measured(lost(30) | won(12)), "k")
    run("gate", "m-c", "--json")
    counted = [(row["lost"], row["won"]) for row in json.loads(run.out)["benchmarks"]]
    assert counted == [(30, 12), (0, 0)]
    run("flips", "m-c")
    assert "30 lost and 12 won of 2000 items" in run.out


def test_a_store_without_the_baseline_says_so(store: Store, run: Run) -> None:
    number = release(store, measured(), "k")
    with store.session() as session:
        session.execute(text("UPDATE evaluations SET baseline_id = 'm-e-2' WHERE baseline_id = 'm-e-1'"))
    assert run("flips", str(number)) == 19
    assert "the store lacks baseline m-e-1" in run.err
