"""The planner says beforehand what the gate can decide: its numbers are the gate's, and its ways out lead out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evaluation import statistics
from evaluation.accuracy import from_totals, judge
from evaluation.catalogue import Benchmark
from evaluation.planner import BenchmarkPlan, PowerPlan, plan_power
from evaluation.planning import required_repeats
from evaluation.power import rejected_by_holm
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.matrix import ResolvedCell
from flagrelease.policy import Escalation, Policy
from flagrelease.records import Evaluation, ImportedBaseline, NoiseFloor
from flagrelease.settings import data_path, settings
from flagrelease.store import Store
from flagrelease.verdicts import Verdict
from tests.conftest import ROOT
from tests.unit.command_line import Run
from tests.unit.gate_data import (
    evaluation,
    half_right,
    item,
    provenance,
    repeated,
    run,
    with_items,
    with_provenance,
    with_run,
)
from tests.unit.policies import policy

POWER_QUANTILE = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)
FOUR = Escalation(max_repeats=4, budget_minutes=60, reason="chosen for a test")
# The text suite of published pairs: items and the discordance that their scores imply.
TEXT = {"gpqa": (1192, 0.218), "livebench": (1000, 0.159), "mmlu": (14042, 0.031), "musr": (756, 0.281)}


@cache
def resolved(cell: str) -> ResolvedCell:
    return resolve(load_matrix(ROOT / "matrix.yaml"), load_chips(), cell)


def benchmark(key: str, n: int | None, psi: float | None = None, **changes: Any) -> Benchmark:
    values: dict[str, Any] = {"display": key.upper(), "description": key, "harness": "lm_eval", "source": "a test"}
    if psi is not None:
        values |= {"discordance": psi, "discordance_source": "published pairs of a test"}
    return Benchmark(key=key, items=n, **(values | changes))


def planned(
    benchmarks: Sequence[Benchmark],
    the_policy: Policy | None = None,
    baseline: Evaluation | ImportedBaseline | None = None,
    **more: Any,
) -> PowerPlan:
    cell = resolved("qwen3-metax").model_copy(update={"policy": the_policy or policy()})
    return plan_power(cell, "vllm", benchmarks, baseline=baseline, **more)


def only(plan: PowerPlan) -> BenchmarkPlan:
    (row,) = plan.benchmarks
    return row


def with_floor(whole: Evaluation, psi: float) -> Evaluation:
    floors = [
        NoiseFloor(benchmark=b.benchmark, n=b.items, flips=round(psi * b.items), discordance=psi, how="batch 1 and 8")
        for b in whole.benchmarks
    ]
    return whole.model_copy(update={"floors": floors})


def test_one_benchmark_agrees_with_closed_forms() -> None:
    row = only(planned([benchmark("gpqa", 1192, 0.218)]))
    error = math.sqrt(0.218 / 1192)
    assert (row.items, row.role, row.margin_points, row.discordance, row.origin) == (
        1192,
        "gated",
        2,
        0.218,
        "published",
    )
    assert row.detectable_points == pytest.approx(100 * POWER_QUANTILE * error)
    assert row.resolution == pytest.approx(1192 / (POWER_QUANTILE**2 * 0.218 / 0.02**2), rel=1e-3)
    assert row.chance == pytest.approx(stats.norm.cdf(0.02 / error - stats.norm.ppf(0.95)))
    # Without a baseline both sides are still to be asked.
    assert (row.repeats_needed, row.repeats_of) == (3, "both")
    assert "a lower bound" in row.source


def test_repeats_take_those_of_the_baseline_into_account() -> None:
    measured = with_floor(evaluation(live=half_right(1000)), 0.05)
    row = only(planned([benchmark("live", 1000)], policy(margin_points=1.6), measured))
    needed = required_repeats(0, 0.05, 1000, margin=0.016, alpha=0.05, power=0.8, baseline_repeats=1)
    assert (row.repeats_needed, row.repeats_of, row.baseline_repeats) == (needed, "candidate", 1)
    assert needed is not None
    assert needed > 1
    # Below half the noise of a baseline that was asked once, no number of the candidate's repeats suffices.
    row = only(planned([benchmark("live", 1000)], policy(margin_points=1.0), measured))
    both = required_repeats(0, 0.05, 1000, margin=0.01, alpha=0.05, power=0.8)
    assert (row.repeats_needed, row.repeats_of) == (both, "both")


def test_discordance_is_the_baselines_own_before_a_published_one() -> None:
    known = benchmark("live", 400, 0.2)
    twice = repeated([[1, 1], [0, 0], [1, 0], [0, 1]] * 100)
    assert only(planned([known])).origin == "published"
    measured = only(planned([known], baseline=twice))
    assert (measured.origin, measured.baseline_repeats) == ("repeats", 2)
    assert measured.discordance == pytest.approx(0.5)
    floor = only(planned([known], baseline=with_floor(twice, 0.01)))
    assert (floor.origin, floor.discordance) == ("A/A", 0.01)
    assert "batch 1 and 8" in floor.source


def test_a_discordance_that_is_not_known_gives_no_number() -> None:
    plan = planned([benchmark("live", 1000), benchmark("new", None, 0.1)])
    for row in plan.benchmarks:
        assert (row.detectable_points, row.resolution, row.repeats_needed, row.chance) == (None, None, None, None)
    assert (plan.decides, plan.unknown) == (None, ["LIVE", "NEW"])
    assert "not known whether it decides" in plan.conclusion
    assert "LIVE, NEW" in plan.conclusion


def test_what_is_not_known_cannot_save_a_cell_that_is_too_noisy() -> None:
    plan = planned([benchmark("noisy", 300, 0.5), benchmark("new", None)])
    assert plan.decides is False
    assert "even if NEW, where n or ψ is not known, added no error" in plan.conclusion


def test_what_is_not_known_leaves_open_what_it_could_save() -> None:
    # Half of a mean of two has half the error, if the other adds none.
    noisy = benchmark("noisy", 1000, 0.03)
    assert planned([noisy]).decides is False
    plan = planned([noisy, benchmark("new", None)])
    assert plan.decides is None
    assert plan.pooled_standard_error == pytest.approx(math.sqrt(0.03 / 1000) / 2)


def test_a_false_alarm_on_one_benchmark_is_part_of_the_chance() -> None:
    # The pooled margin is no obstacle, so what is left is the level of the test on the one benchmark.
    plan = planned([benchmark("noisy", 700, 0.3)], policy(pooled_margin_points=10))
    assert plan.chance == pytest.approx(0.95, abs=0.006)


def test_a_baseline_that_never_changes_an_answer_needs_no_repeats() -> None:
    plan = planned([benchmark("live", 1000)], baseline=with_floor(evaluation(live=half_right(1000)), 0.0))
    row = only(plan)
    assert (row.discordance, row.repeats_needed, row.chance, plan.decides) == (0, 1, 1, True)
    # Never narrower than what 1,000 equal answers leave unseen, as in the gate.
    unseen = (1 - 0.05 ** (1 / 1000)) / stats.norm.ppf(0.95)
    assert row.detectable_points == pytest.approx(100 * POWER_QUANTILE * unseen)
    assert row.note is not None
    assert "repeats do not help" in row.note


@pytest.mark.parametrize(("repeats", "chance"), [(1, 0.436), (2, 0.676), (4, 0.896)])
def test_the_chance_of_the_text_suite_is_that_of_the_design(repeats: int, chance: float) -> None:
    plan = planned([benchmark(key, n, psi, repeats=repeats) for key, (n, psi) in TEXT.items()])
    assert plan.chance == pytest.approx(chance, abs=0.015)
    assert plan.decides is (repeats == 4)


@pytest.mark.slow
def test_the_chance_is_that_of_the_gate_on_simulated_answers() -> None:
    rules, draws = policy(pooled_margin_points=1.5), 400
    suite = {"a": (400, 0.20), "b": (800, 0.10), "c": (1500, 0.06)}
    known = {key: benchmark(key, n, psi) for key, (n, psi) in suite.items()}
    generator = np.random.default_rng(1)
    consistent = 0
    for _ in range(draws):
        rows = []
        for key, (n, psi) in suite.items():
            d = generator.choice([-1.0, 0.0, 1.0], size=n, p=[psi / 2, 1 - psi, psi / 2])
            found = statistics.allow_for_unseen(statistics.paired_difference(d, rules.alpha), rules.alpha)
            p_value = statistics.loss_p_value(d, binary_single_repeat=True)
            rows.append(from_totals(found, p_value, rules, known[key], (0.5, 0.5)))
        consistent += judge(rows, rules).verdict is Verdict.CONSISTENT
    chance = planned(list(known.values()), rules).chance
    assert 0.4 < chance < 0.95
    assert consistent / draws == pytest.approx(chance, abs=3.5 * math.sqrt(chance * (1 - chance) / draws))


def test_holm_on_many_rows_is_holm_on_each() -> None:
    rows = np.random.default_rng(2).uniform(size=(500, 4)) ** 3
    assert np.array_equal(rejected_by_holm(rows, 0.05), [statistics.holm(row) < 0.05 for row in rows])


def one_point(**changes: Any) -> Policy:
    thresholds = {"margin_points": 1.0, "margin_points_small": 1.0, "pooled_margin_points": 1.0, "min_items": 100}
    return policy(**(thresholds | changes))


def test_one_point_on_198_sampled_questions_cannot_be_decided() -> None:
    diamond = benchmark("diamond", 198, 0.218)
    plan = planned([diamond], one_point(escalation=FOUR))
    # Both conditions, pooled and per benchmark, are the same one here.
    assert plan.chance == pytest.approx(stats.norm.cdf(0.01 / math.sqrt(0.218 / 198) - 1.645), abs=0.01)
    assert plan.chance_with_repeats < 0.2
    assert (plan.decides, plan.repeats) == (False, {"diamond": 4})
    assert "cannot decide" in plan.conclusion
    assert "pooled margin of 1 points" in plan.conclusion
    items, repeats, margin = plan.ways_out
    n = int(re.search(r"DIAMOND ([\d,]+)", items)[1].replace(",", ""))  # type: ignore[index]
    points = float(re.search(r"margin: ([\d.]+)", margin)[1])  # type: ignore[index]
    assert "not even 64" in repeats
    wider = {"pooled_margin_points": points, "margin_points": points, "margin_points_small": points}
    # Each way leads out, and nothing much shorter does.
    assert planned([benchmark("diamond", n, 0.218)], one_point(escalation=FOUR)).decides
    assert not planned([benchmark("diamond", round(0.97 * n), 0.218)], one_point(escalation=FOUR)).decides
    assert planned([diamond], one_point(escalation=FOUR, **wider)).decides
    assert not planned([diamond], one_point(escalation=FOUR, **dict.fromkeys(wider, points - 0.2))).decides


def test_more_repeats_are_a_way_out_where_they_are() -> None:
    suite = {"gpqa": (1192, 0.218), "musr": (756, 0.281)}
    plan = planned([benchmark(key, n, psi) for key, (n, psi) in suite.items()])
    assert plan.decides is False
    assert "most of it from MUSR" in plan.conclusion
    count = int(re.search(r"more repeats: (\d+) of GPQA, MUSR", plan.ways_out[1])[1])  # type: ignore[index]
    asked = [[benchmark(key, n, psi, repeats=k) for key, (n, psi) in suite.items()] for k in (count, count - 1)]
    assert [planned(each).decides for each in asked] == [True, False]


def test_a_suite_in_which_nothing_is_large_enough_cannot_be_decided() -> None:
    plan = planned([benchmark("diamond", 198, 0.05), benchmark("aime", 3000, 0.05, role="advisory")])
    assert (plan.decides, plan.chance, plan.pooled_standard_error) == (False, 0, None)
    assert [row.role for row in plan.benchmarks] == ["advisory", "advisory"]
    assert "no benchmark has the 200 items that deciding takes (DIAMOND 198)" in plan.conclusion


def test_escalation_decides_what_one_repeat_does_not() -> None:
    suite = [benchmark("live", 1000, 0.05), benchmark("calm", 5000, 0.02)]
    rules = policy(pooled_margin_points=0.85)
    plan = planned(suite, rules)
    assert plan.decides is False
    plan = planned(suite, policy(pooled_margin_points=0.85, escalation=FOUR))
    assert plan.decides is True
    assert list(plan.repeats) == ["live"]
    assert 1 < plan.repeats["live"] <= 4
    assert plan.chance < 0.8 <= plan.chance_with_repeats
    assert f"LIVE {plan.repeats['live']}" in plan.conclusion


def test_repeats_that_do_not_fit_into_the_budget_do_not_count() -> None:
    timed = with_items(evaluation(live=half_right(1000)), latency_s=3.0)
    rules = policy(pooled_margin_points=0.94, escalation=FOUR)
    hour = planned([benchmark("live", 1000, 0.02)], policy(pooled_margin_points=1.0, escalation=FOUR), earlier=timed)
    assert (hour.decides, hour.repeats, hour.seconds_added) == (True, {"live": 2}, 3000)
    plan = planned([benchmark("live", 1000, 0.02)], rules, earlier=timed)
    assert (plan.decides, plan.repeats) == (False, {"live": 3})
    assert plan.seconds_added == 6000
    assert "100 minutes, and policy.escalation allows 60" in plan.conclusion
    assert planned([benchmark("live", 1000, 0.02)], rules).decides is True


def test_time_is_that_of_the_same_engine_before_that_of_the_baseline() -> None:
    pair = {"live": half_right(300), "slow": half_right(200)}
    baseline = with_floor(with_items(evaluation(**pair), latency_s=2.0), 0.01)
    earlier = with_items(evaluation(live=half_right(100)), latency_s=0.5)
    earlier = with_provenance(earlier, engine_settings={"concurrency": 4})
    plan = planned([benchmark("live", 300, repeats=2), benchmark("slow", 200)], None, baseline, earlier=earlier)
    live, slow = plan.benchmarks
    assert (live.seconds, live.seconds_from) == (300 * 2 * 0.5 / 4, "earlier evaluation")
    assert (slow.seconds, slow.seconds_from) == (200 * 2.0, "baseline")
    assert plan.seconds == 475
    # What was found to be best counts, not what the cell would allow.
    found = with_run(earlier, concurrency=2)
    live, _ = planned([benchmark("live", 300), benchmark("slow", 200)], None, baseline, earlier=found).benchmarks
    assert live.seconds == 300 * 0.5 / 2
    assert planned([benchmark("live", 300)]).seconds is None


def test_what_the_baseline_cannot_be_compared_with_is_said() -> None:
    published = ImportedBaseline(model="m", label="H100", source="a card", scores=[])
    unpaired = planned([benchmark("calm", 9000, 0.01)], baseline=published)
    assert (unpaired.decides, unpaired.baseline) == (False, "published scores")
    assert "never CONSISTENT" in unpaired.conclusion
    measured = with_floor(evaluation(live=half_right(9000)), 0.01)
    lacking = planned([benchmark("live", 9000), benchmark("calm", 9000, 0.01)], baseline=measured)
    assert lacking.decides is False
    assert "INVALID, as the baseline has no answers to CALM" in lacking.conclusion


def test_items_that_share_a_picture_are_one_unit() -> None:
    whole = evaluation(live=half_right(400))
    shared = [one.model_copy(update={"cluster": str(i // 4)}) for i, one in enumerate(whole.items)]
    plan = planned([benchmark("live", 400)], baseline=with_floor(whole.model_copy(update={"items": shared}), 0.001))
    assert (only(plan).items, only(plan).role) == (400, "advisory")


# The command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> Run:
    (home / "home").mkdir()
    return Run(monkeypatch, capsys)


def test_a_cell_of_another_host_without_a_baseline_is_planned(
    command: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("plan", "qwen3-metax", "--power") == 2
    assert "against published scores without items an equal system is never CONSISTENT" in command.out
    lines = data_path("matrix.yaml").read_text().splitlines(keepends=True)
    (home / "matrix.yaml").write_text("".join(line for line in lines if "baseline: qwen3-published" not in line))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(home / "matrix.yaml"))
    settings.cache_clear()
    assert command("plan", "qwen3-metax", "--power") == 2
    assert "without a baseline yet" in command.out
    (gpqa,) = (line for line in command.out.splitlines() if line.startswith("GPQA "))
    assert gpqa.split()[1:9] == ["gated", "1192", "1", "2", "22", "%", "published", "3.36"]
    assert "LiveBench is not run: no harness adapter yet" in command.out
    assert "cannot decide: an equal system is CONSISTENT with at most" in command.out
    assert command.out.count("  -> ") == 3


def store_smoke(seconds: float) -> None:
    """The small cell's baseline with an A/A floor, and one evaluation through its engine, in the store."""
    cell = resolved("smollm2-cpu")
    sizes = {"last_word": 250, "number_sequence": 250, "addition": 225, "hellaswag_100": 100, "truthfulqa_mc1_100": 100}
    assert sorted(sizes) == sorted(cell.suite)
    answers = [item(key, number, number % 2) for key, n in sizes.items() for number in range(n)]
    runs = [run(key, n) for key, n in sizes.items()]
    baseline = with_floor(Evaluation(provenance=provenance(model="smollm2"), benchmarks=runs, items=answers), 0.004)
    about = provenance(model="smollm2", chip="cpu", stack="native", engine="llama_cpp")
    candidate = with_items(Evaluation(provenance=about, benchmarks=runs, items=answers), latency_s=seconds)
    store = Store.open(settings().store_url)
    identifier = cell.model.reference.baseline
    store.add_evaluation(baseline, [], key="base", role="baseline", baseline_id=identifier)
    store.add_evaluation(candidate, [], key="candidate", role="candidate")
    store.close()


def test_the_small_cell_is_planned_from_what_the_store_knows(command: Run) -> None:
    store_smoke(0.2)
    assert command("plan", "smollm2-cpu", "--power", "--json") == 0
    plan = PowerPlan.model_validate(json.loads(command.out))
    assert (plan.baseline, plan.decides) == ("measured", True)
    assert {row.origin for row in plan.benchmarks} == {"A/A"}
    # llama.cpp gives no log-probabilities of a prompt.
    assert len(plan.not_run) == 2
    assert plan.seconds == pytest.approx(725 * 0.2)
    assert command("plan", "smollm2-cpu", "--power") == 0
    assert "time: about 2 min for the questions, by the times of an earlier evaluation" in command.out
    assert f"decides: an equal system is CONSISTENT with {100 * plan.chance:.0f} % probability" in command.out
    assert command("plan", "smollm2-cpu", "--power", "--engine", "vllm", "--json") == 0
    other = json.loads(command.out)
    assert (other["engine"], len(other["benchmarks"]), other["seconds"]) == ("vllm", 5, None)


def test_names_that_are_not_there(command: Run) -> None:
    assert command("plan", "qwen3-meta", "--power") == 12
    assert "did you mean `qwen3-metax`?" in command.err
    assert command("plan", "qwen3-metax", "--power", "--engine", "vlm") == 12
