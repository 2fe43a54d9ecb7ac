"""Benchmarks and baselines are what their hashes say."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from evaluation import generators
from evaluation.baseline import SHIPPED, load
from evaluation.catalogue import Benchmark, Packaged, load_benchmarks, missing, prepare, select
from flagrelease.errors import BaselineError, HarnessError, MatrixError, UnknownNameError
from flagrelease.loading import load_matrix, load_yaml, validate
from flagrelease.settings import CHECKOUT

MATRIX = load_matrix(CHECKOUT / "matrix.yaml")
BASELINE = MATRIX.models["smollm2"].reference.baseline or ""


def test_every_suite_names_benchmarks_that_exist() -> None:
    benchmarks = load_benchmarks()
    for suite in MATRIX.suites.values():
        select(benchmarks, suite)
    with pytest.raises(UnknownNameError, match="no benchmark `last_wrd`"):
        select(benchmarks, ["last_wrd"])


@pytest.mark.parametrize("name", sorted(generators.GENERATORS))
def test_generated_questions_are_distinct_and_the_same_every_time(name: str) -> None:
    make = generators.GENERATORS[name]
    benchmark = load_benchmarks()[name]
    first = make(20261101, benchmark.items or 0)
    assert make(20261101, benchmark.items or 0) == first
    assert len({json.dumps(question) for question in first}) == benchmark.items
    assert make(7, 20) != first[:20]


def test_prepared_questions_are_those_that_the_baseline_was_asked(tmp_path: Path) -> None:
    asked = {run.benchmark: run for run in load(BASELINE).benchmarks}
    for benchmark in select(load_benchmarks(), MATRIX.suites["smoke"]):
        prepared = prepare(benchmark, tmp_path)
        assert prepared.dataset_sha256 == asked[benchmark.key].dataset_sha256, benchmark.key
        assert prepared.task_sha256 == asked[benchmark.key].task_sha256, benchmark.key
        questions = (prepared.folder / "questions.jsonl").read_bytes()
        assert hashlib.sha256(questions).hexdigest() == prepared.dataset_sha256
        assert len(questions.splitlines()) == benchmark.items


def test_a_packaged_question_file_that_changed_is_refused(tmp_path: Path) -> None:
    benchmark = load_benchmarks()["hellaswag_100"]
    assert isinstance(benchmark.dataset, Packaged)
    other = benchmark.model_copy(update={"dataset": benchmark.dataset.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(HarnessError, match="not the question file"):
        prepare(other, tmp_path)


def test_a_benchmark_that_cannot_run_says_why() -> None:
    benchmarks = load_benchmarks()
    only_text = frozenset({"generate"})
    assert missing(benchmarks["last_word"], only_text, "llama.cpp") is None
    assert "log-probabilities" in (missing(benchmarks["musr"], only_text, "llama.cpp") or "")
    assert "FlagEvalMM" in (missing(benchmarks["cii_bench"], only_text, "llama.cpp") or "")


def test_every_metric_of_the_published_cards_is_one_benchmark_of_its_suite() -> None:
    benchmarks = load_benchmarks()
    rows = 0
    for cell in MATRIX.cells:
        suite = select(benchmarks, MATRIX.suites[MATRIX.models[cell.model].suite])
        for row in cell.published.rows if cell.published else []:
            named = [each.key for each in suite if row.metric in {each.display, *each.aliases}]
            assert len(named) == 1, f"{cell.id}: {row.metric} is {named}"
            rows += 1
    assert rows == 5 + 9 + 10 + 5 + 9


def test_no_name_on_cards_means_two_benchmarks() -> None:
    names = [name for each in load_benchmarks().values() for name in {each.display, *each.aliases}]
    assert len(names) == len(set(names))


def test_small_or_judged_benchmarks_only_advise() -> None:
    for benchmark in load_benchmarks().values():
        if benchmark.items is not None and benchmark.items < MATRIX.policy.min_items:
            assert benchmark.role == "advisory", benchmark.key
    assert load_benchmarks()["mm_vet_v2"].role == "advisory"


@pytest.mark.parametrize(
    ("fields", "line", "said"),
    [
        ("margin_points: 1.5\n", 6, "margin without reason"),
        ("margin_reason: measured at 1.5 points\n", 1, "`margin_reason` without a margin"),
        ("discordance: 0.1\n", 6, "discordance without source"),
        ("discordance_source: ten published pairs\n", 1, "`discordance_source` without a discordance"),
    ],
)
def test_a_threshold_stands_with_its_reason(fields: str, line: int, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("key: mine\ndisplay: Mine\ndescription: My own.\nharness: null\nsource: me\n" + fields)
    data, positions = load_yaml(file)
    with pytest.raises(MatrixError) as caught:
        validate(Benchmark, file, data, positions)
    assert f"{file}:{line}: " in caught.value.message
    assert said in caught.value.message


def test_a_threshold_with_its_reason_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "key: mine\ndisplay: Mine\ndescription: My own.\nharness: null\nsource: me\n"
        "margin_points: 1.5\nmargin_reason: the authors' own bound\n"
    )
    data, positions = load_yaml(file)
    assert validate(Benchmark, file, data, positions).margin_points == 1.5


def test_the_embodied_part_of_blink_is_what_its_subsets_hold() -> None:
    blink = load_benchmarks()["blink_val_ev"]
    assert isinstance(blink.task, dict)
    assert len(blink.task["subset_list"]) == 5
    # A share of 385, which one card would allow, cannot be 80.49 %, which another prints.
    assert {round(100 * round(share * 692) / 692, 2) for share in (0.5636, 0.8049)} == {56.36, 80.49}
    assert not any(round(100 * right / 385, 2) == 80.49 for right in range(386))


def test_the_shipped_baseline_is_whole() -> None:
    baseline = load(BASELINE)
    assert {run.benchmark: run.items for run in baseline.benchmarks} == {
        run.benchmark: sum(item.benchmark == run.benchmark for item in baseline.items) for run in baseline.benchmarks
    }


@pytest.mark.parametrize("file", ["items.jsonl", "baseline.json"])
def test_a_changed_baseline_is_noticed(tmp_path: Path, file: str) -> None:
    shutil.copytree(SHIPPED / BASELINE, tmp_path / BASELINE)
    changed = tmp_path / BASELINE / file
    text = changed.read_text()
    changed.write_text(
        text.replace('"score":0.0', '"score":1.0', 1) if file == "items.jsonl" else text.replace("vllm", "vlmm", 1)
    )
    with pytest.raises(BaselineError, match="were changed"):
        load(BASELINE, tmp_path)


def test_a_missing_baseline_says_how_to_measure_one(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="no baseline nothing"):
        load("nothing", tmp_path)
