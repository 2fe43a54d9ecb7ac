"""Stopping early against stand-in models whose differences are known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from evaluation.gate import decide
from evaluation.run import aggregate, items_to_jsonl
from flagrelease.records import Evaluation
from flagrelease.verdicts import Verdict
from tests.conftest import ROOT
from tests.integration import evaluations
from tests.integration.evaluations import AT_ONCE, asked, endpoint, evaluated, last_word, stand_in, without_latency
from tests.unit.policies import policy

ITEMS = 2000
BENCHMARK = last_word(ITEMS)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("baseline")
    with stand_in(folder, "--wrong", "0.2") as server:
        return evaluated(endpoint(server), folder, BENCHMARK)


def candidate(folder: Path, baseline: Evaluation, *options: str) -> tuple[Evaluation, list[str]]:
    said: list[str] = []
    with stand_in(folder, *options) as server:
        found = evaluated(endpoint(server), folder, BENCHMARK, baseline=baseline.items, log=said.append)
    assert asked(folder).total() == len(found.items)
    return found, said


def verdict(found: Evaluation, baseline: Evaluation) -> Verdict:
    known = {BENCHMARK.key: BENCHMARK}
    return decide(found, baseline, baseline_id="b", policy=policy(), benchmarks=known).verdict


def stops(said: Sequence[str]) -> list[str]:
    return [line for line in said if "stopped after" in line]


def test_a_baseline_is_asked_whole(baseline: Evaluation) -> None:
    assert baseline.benchmarks[0].items == ITEMS
    assert baseline.benchmarks[0].stopped_of is None
    assert 1 <= (baseline.benchmarks[0].concurrency or 0) <= AT_ONCE


def test_a_system_that_is_nearly_equal_is_cleared_early(tmp_path: Path, baseline: Evaluation) -> None:
    found, said = candidate(tmp_path, baseline, "--wrong", "0.202")
    run = found.benchmarks[0]
    assert 400 <= run.items <= 1000
    assert run.stopped_of == ITEMS
    assert stops(said) == [
        f"evaluate: Last word: stopped after {run.items:,} of 2,000 items: a loss of 2 points is excluded"
    ]
    assert aggregate(found)[0].n == run.items
    assert verdict(found, baseline) is Verdict.CONSISTENT


def test_a_broken_system_is_lost_at_the_first_look(tmp_path: Path, baseline: Evaluation) -> None:
    found, said = candidate(tmp_path, baseline, "--wrong", "0.6")
    assert found.benchmarks[0].items == ITEMS // 10
    assert "a loss is shown, of 4" in stops(said)[0]
    assert verdict(found, baseline) is Verdict.REGRESSED


def test_what_is_not_decided_is_asked_to_the_end(tmp_path: Path, baseline: Evaluation) -> None:
    found, said = candidate(tmp_path, baseline, "--wrong", "0.2", "--seed", "1")
    assert found.benchmarks[0].items == ITEMS
    assert found.benchmarks[0].stopped_of is None
    assert stops(said) == []


def test_a_run_that_was_killed_in_a_look_ends_as_an_undisturbed_one(tmp_path: Path, baseline: Evaluation) -> None:
    (tmp_path / "baseline.jsonl").write_bytes(items_to_jsonl(baseline.items))
    kill_after = 330
    with stand_in(tmp_path, "--wrong", "0.202") as server:
        program = [sys.executable, evaluations.__file__, server.base_url, str(tmp_path), str(kill_after)]
        killed = subprocess.run(program, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False, timeout=120)
        assert killed.returncode == -9
        progress: list[tuple[int, int]] = []
        resumed = evaluated(
            endpoint(server),
            tmp_path,
            BENCHMARK,
            baseline=baseline.items,
            progress=lambda _, answered, of: progress.append((answered, of)),
        )
    # The first look was kept, of the second what was answered before the kill.
    assert progress[:2] == [(200, ITEMS), (kill_after, ITEMS)]
    assert {of for _, of in progress} == {ITEMS}
    again = asked(tmp_path).total() - len(resumed.items)
    assert 0 <= again <= AT_ONCE
    undisturbed, _ = candidate(tmp_path / "undisturbed", baseline, "--wrong", "0.202")
    runs = [
        [run.model_copy(update={"concurrency": None}) for run in each.benchmarks] for each in (resumed, undisturbed)
    ]
    assert runs[0] == runs[1]
    assert without_latency(resumed.items) == without_latency(undisturbed.items)
