"""The gate decides as its policy says, and refuses what cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evaluation.catalogue import Benchmark
from evaluation.gate import decide
from evaluation.hygiene import hygiene
from flagrelease.records import Evaluation
from flagrelease.verdicts import GateResult, Verdict
from tests.unit.gate_data import (
    changed,
    evaluation,
    half_right,
    item,
    provenance,
    repeated,
    replaced,
    run,
    sha,
    with_items,
    with_provenance,
    with_run,
)
from tests.unit.policies import policy

POLICY = policy()
MMLU = Benchmark(key="mmlu", display="MMLU", description="questions", harness="lm_eval", source="a test")


def gate(candidate: Evaluation, baseline: Evaluation, **options: Any) -> GateResult:
    arguments: dict[str, Any] = {"baseline_id": "base", "policy": POLICY, "benchmarks": {"mmlu": MMLU}}
    return decide(candidate, baseline, **(arguments | options))


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_equal_runs_are_consistent() -> None:
    base = evaluation(mmlu=half_right(1000), gpqa=half_right(400))
    result = gate(base, base)
    assert result.verdict is Verdict.CONSISTENT
    assert result.baseline_id == "base"
    assert [b.verdict for b in result.benchmarks] == [Verdict.CONSISTENT] * 2
    assert [b.margin_points for b in result.benchmarks] == [2.0, 3.0]
    assert [b.display for b in result.benchmarks] == ["MMLU", "gpqa"]
    assert result.pooled is not None
    assert result.pooled.non_inferior
    assert all(check.passed for check in result.hygiene)


def test_a_loss_of_five_points_is_regressed() -> None:
    base = evaluation(mmlu=half_right(1000))
    result = gate(evaluation(mmlu=changed(1000, lost=70, won=20)), base)
    (found,) = result.benchmarks
    assert result.verdict is found.verdict is Verdict.REGRESSED
    assert (found.lost, found.won, found.missing, found.n) == (70, 20, 0, 1000)
    assert found.difference == pytest.approx(-0.05)
    assert (found.baseline, found.candidate) == pytest.approx((0.5, 0.45))
    assert found.p_adjusted < 0.001
    assert "−5.00 points" in result.reasons[0]
    assert not found.different


def test_a_loss_within_the_margin_is_consistent_however_significant() -> None:
    base = evaluation(mmlu=half_right(14_000))
    result = gate(evaluation(mmlu=changed(14_000, lost=70, won=0)), base)
    (found,) = result.benchmarks
    assert found.p_value < 1e-9
    assert result.verdict is found.verdict is Verdict.CONSISTENT


def test_few_items_are_inconclusive_and_the_items_needed_are_named() -> None:
    base = evaluation(mmlu=half_right(250))
    result = gate(evaluation(mmlu=changed(250, lost=25, won=25)), base)
    (found,) = result.benchmarks
    assert result.verdict is found.verdict is Verdict.INCONCLUSIVE
    # ψ = 0.2: 6.18 · 0.2 / 0.03² for the benchmark; pooled / 0.01², with ψ estimated from the standard error
    assert "about 1374 items" in found.reason
    assert "about 12415 items" in result.reasons[0]
    assert "here are 250" in found.reason


def test_enough_items_with_a_loss_in_doubt_name_the_loss() -> None:
    base = evaluation(mmlu=half_right(1000))
    result = gate(
        evaluation(mmlu=changed(1000, lost=25, won=11)), base, policy=POLICY.model_copy(update={"alpha": 0.01})
    )
    assert result.benchmarks[0].verdict is Verdict.INCONCLUSIVE
    assert "the observed loss is the obstacle" in result.benchmarks[0].reason


def test_benchmarks_below_min_items_never_decide() -> None:
    base = evaluation(aime=[1.0] * 30)
    result = gate(evaluation(aime=[0.0] * 30), base)
    (found,) = result.benchmarks
    assert found.role == "advisory"
    assert found.verdict is Verdict.REGRESSED
    assert found.p_adjusted == found.p_value
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.pooled is None
    assert "aime 30" in result.reasons[0]

    both = gate(evaluation(aime=[0.0] * 30, mmlu=half_right(1000)), evaluation(aime=[1.0] * 30, mmlu=half_right(1000)))
    assert both.verdict is Verdict.CONSISTENT


def test_one_item_is_no_evidence() -> None:
    (found,) = gate(evaluation(one=[1.0]), evaluation(one=[1.0])).benchmarks
    assert found.verdict is Verdict.INCONCLUSIVE
    assert (found.lower, found.upper) == (-1.0, 1.0)
    assert "about 6870 items" in found.reason


def test_holm_covers_the_gated_benchmarks_only() -> None:
    lossy, equal, small = changed(800, lost=40, won=22), half_right(800), half_right(100)
    names = {"a": equal, "b": equal, "c": equal, "tiny": small}
    alone = gate(evaluation(x=lossy), evaluation(x=equal)).benchmarks[0]
    among = gate(evaluation(x=lossy, **names), evaluation(x=equal, **names)).benchmarks
    assert alone.verdict is Verdict.REGRESSED
    assert among[0].p_adjusted == pytest.approx(4 * alone.p_value)
    assert among[0].verdict is Verdict.INCONCLUSIVE


def test_a_small_loss_everywhere_is_not_consistent() -> None:
    names = ("a", "b", "c", "d")
    base = evaluation(**dict.fromkeys(names, half_right(2000)))
    result = gate(evaluation(**dict.fromkeys(names, changed(2000, lost=36, won=16))), base)
    assert {b.verdict for b in result.benchmarks} == {Verdict.CONSISTENT}
    assert result.pooled is not None
    assert not result.pooled.non_inferior
    assert result.verdict is Verdict.INCONCLUSIVE
    lenient = gate(
        evaluation(**dict.fromkeys(names, changed(2000, lost=36, won=16))),
        base,
        policy=policy(pooled_margin_points=5.0),
    )
    assert lenient.verdict is Verdict.CONSISTENT
    assert lenient.pooled is not None
    assert lenient.pooled.margin_points == 5.0


@pytest.mark.parametrize(("lost", "won", "different"), [(0, 50, True), (10, 15, False), (95, 105, False)])
def test_only_a_shown_gain_is_different(lost: int, won: int, different: bool) -> None:
    base = evaluation(mmlu=half_right(1000))
    result = gate(evaluation(mmlu=changed(1000, lost=lost, won=won)), base)
    assert result.benchmarks[0].different is different
    assert any("gain beyond the margin" in warning for warning in result.warnings) is different


def test_graded_scores_and_repeats_are_averaged_per_item() -> None:
    base = repeated([(0.1, 0.2, 0.3, 0.6)] * 300)
    (found,) = gate(repeated([(0.6, 0.3, 0.2, 0.1)] * 300), base).benchmarks
    assert (found.lost, found.won, found.repeats, found.n) == (0, 0, 4, 300)
    assert found.verdict is Verdict.CONSISTENT


def test_the_two_sides_may_have_different_repeats() -> None:
    (found,) = gate(repeated([(1.0, 1.0, 1.0, 0.0)] * 300), repeated([(1.0,)] * 300)).benchmarks
    assert found.difference == pytest.approx(-0.25)
    assert found.verdict is Verdict.REGRESSED


def test_right_or_wrong_in_several_repeats_is_a_t_test() -> None:
    rows = [(1.0, 0.0)] * 40 + [(0.0, 0.0)] * 10 + [(1.0, 1.0)] * 250
    (found,) = gate(repeated(rows), repeated([(1.0, 1.0)] * 300)).benchmarks
    d = [-0.5] * 40 + [-1.0] * 10 + [0.0] * 250
    assert found.p_value == pytest.approx(stats.ttest_1samp(d, 0, alternative="less").pvalue, rel=1e-9)


def test_an_item_that_lacks_one_repeat_is_missing() -> None:
    base = repeated([(1.0, 1.0)] * 300)
    result = gate(base.model_copy(update={"items": base.items[1:]}), base)
    assert (result.benchmarks[0].missing, result.benchmarks[0].lost) == (1, 1)
    assert gate(base.model_copy(update={"items": base.items[:-8:2]}), base).verdict is Verdict.INVALID


def test_the_order_of_items_does_not_matter() -> None:
    base, candidate = evaluation(mmlu=half_right(300)), evaluation(mmlu=changed(300, lost=20, won=5))
    shuffled = candidate.model_copy(update={"items": candidate.items[::-1]})
    assert gate(candidate, base) == gate(shuffled, base)


def test_the_result_survives_json() -> None:
    result = gate(evaluation(mmlu=changed(300, 20, 5), one=[1.0]), evaluation(mmlu=half_right(300), one=[0.0]))
    assert GateResult.model_validate_json(result.model_dump_json()) == result


# --- hygiene ----------------------------------------------------------------------------------------------------------

BASE = evaluation(mmlu=half_right(400))

DIFFERENCES: dict[str, tuple[Callable[[Evaluation], Evaluation], str, str]] = {
    "prompt": (lambda e: replaced(e, 3, prompt=sha("x")), "prompts", sha("x")[:12]),
    "data set": (lambda e: with_run(e, dataset_sha256=sha("x")), "dataset", sha("x")[:12]),
    "task": (lambda e: with_run(e, task_sha256=sha("x")), "task", sha("x")[:12]),
    "few-shot": (lambda e: with_run(e, few_shot=0), "few shot", "candidate 0, baseline 5"),
    "generation": (
        lambda e: with_run(e, generation={"temperature": 0.6, "max_gen_toks": 256}),
        "generation",
        "temperature: candidate 0.6, baseline 0.0",
    ),
    "generation key": (lambda e: with_run(e, generation={"temperature": 0.0}), "generation", "max_gen_toks"),
    "api": (lambda e: with_run(e, api="completions"), "api", "candidate completions, baseline chat"),
    "template": (lambda e: with_provenance(e, chat_template_sha256=sha("x")), "chat template", sha("x")[:12]),
    "weights": (lambda e: with_provenance(e, weights_sha256=sha("x")), "weights", sha("x")[:12]),
    "tokenizer": (lambda e: with_provenance(e, tokenizer_sha256=sha("x")), "tokenizer", sha("x")[:12]),
    "harness": (lambda e: with_run(e, harness="other"), "harness", "candidate other, baseline lm_eval"),
    "harness version": (
        lambda e: with_provenance(e, harnesses={"lm_eval": "0.5"}),
        "harness version",
        "candidate 0.5, baseline 0.4.13",
    ),
    "extra item": (
        lambda e: e.model_copy(update={"items": [*e.items, item("mmlu", 999, 1.0)]}),
        "unknown items",
        sha("mmlu/999")[:12],
    ),
    "duplicate": (
        lambda e: e.model_copy(update={"items": [*e.items, e.items[7]]}),
        "duplicates",
        sha("mmlu/7")[:12],
    ),
    "too many missing": (
        lambda e: e.model_copy(update={"items": e.items[5:]}),
        "unanswered items",
        "mmlu: 5 of 400, more than 1 %",
    ),
    "undeclared repeat": (lambda e: replaced(e, 0, repeat=1), "answer counts", "beyond its 1 repeats"),
    "all empty": (lambda e: with_items(e, answer=" "), "empty answers", "candidate"),
    "cut answers": (lambda e: with_items(e, finish_reason="length"), "cut answers", "candidate 100.0% of answers"),
    "unlisted benchmark": (
        lambda e: e.model_copy(update={"items": [*e.items, item("arc", 0, 1.0)]}),
        "benchmarks",
        "answers of arc",
    ),
    "listed twice": (
        lambda e: e.model_copy(update={"benchmarks": [*e.benchmarks, *e.benchmarks]}),
        "benchmarks",
        "mmlu is listed twice in the candidate",
    ),
    "unknown benchmark": (
        lambda e: e.model_copy(update={"benchmarks": [*e.benchmarks, run("arc", 0)]}),
        "benchmarks",
        "the baseline does not have arc",
    ),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_difference_in_hygiene_is_invalid_and_named(difference: str) -> None:
    change, name, detail = DIFFERENCES[difference]
    result = gate(change(BASE), BASE)
    assert result.verdict is Verdict.INVALID
    (failed,) = (check for check in result.hygiene if not check.passed and check.name == name)
    assert detail in failed.detail
    assert any(detail in reason for reason in result.reasons)
    # The numbers are still there, but no benchmark is judged on them.
    assert [(b.benchmark, b.n, b.verdict) for b in result.benchmarks] == [("mmlu", 400, Verdict.INVALID)]
    assert result.pooled is None


@pytest.mark.parametrize(
    "unknown",
    [{"weights_sha256": ""}, {"chat_template_sha256": ""}, {"tokenizer_sha256": ""}, {"harnesses": {}}],
    ids=lambda unknown: next(iter(unknown)),
)
def test_two_unknowns_are_not_the_same(unknown: dict[str, Any]) -> None:
    nobody_knows = with_provenance(BASE, **unknown)
    assert gate(nobody_knows, nobody_knows).verdict is Verdict.INVALID


def test_a_data_set_that_the_harness_fetches_itself_has_no_hash() -> None:
    own = with_run(BASE, dataset_sha256="")
    assert gate(own, own).verdict is Verdict.CONSISTENT


def test_a_baseline_that_lost_answers_is_no_baseline() -> None:
    torn = BASE.model_copy(update={"items": BASE.items[:-1]})
    (failed,) = (check for check in hygiene(torn, torn, POLICY) if not check.passed)
    assert "399 answers, not 400 items" in failed.detail


def test_an_empty_comparison_is_invalid() -> None:
    empty = evaluation(mmlu=[])
    result = gate(empty, empty)
    assert result.verdict is Verdict.INVALID
    assert result.benchmarks == []


def test_missing_items_count_as_wrong() -> None:
    right = evaluation(mmlu=[1.0] * 400)
    result = gate(right.model_copy(update={"items": right.items[4:]}), right)
    (found,) = result.benchmarks
    assert result.verdict is not Verdict.INVALID
    assert (found.n, found.missing, found.lost) == (400, 4, 4)
    assert found.candidate == pytest.approx(0.99)


def test_answers_cut_as_often_as_the_baselines_are_accepted() -> None:
    def cut(share: float) -> Evaluation:
        limit = round(share * 400)
        items = [i.model_copy(update={"finish_reason": "length"}) for i in BASE.items[:limit]]
        return BASE.model_copy(update={"items": [*items, *BASE.items[limit:]]})

    assert gate(cut(0.3), cut(0.2)).verdict is Verdict.CONSISTENT
    assert gate(cut(0.31), cut(0.2)).verdict is Verdict.INVALID
    assert gate(cut(0.2), cut(0.31)).verdict is Verdict.INVALID
    assert gate(with_items(BASE, finish_reason=None), cut(0.9)).verdict is Verdict.CONSISTENT


def test_a_benchmark_not_run_must_be_named() -> None:
    base = evaluation(mmlu=half_right(1000), gpqa=half_right(400))
    candidate = evaluation(mmlu=half_right(1000))
    silent = gate(candidate, base)
    assert silent.verdict is Verdict.INVALID
    assert "benchmarks: the candidate did not run gpqa" in silent.reasons
    named = gate(candidate, base, not_run={"gpqa"})
    assert named.verdict is Verdict.CONSISTENT
    assert [b.benchmark for b in named.benchmarks] == ["mmlu"]
    assert named.warnings == ["not compared, as they were not run: gpqa"]


def test_a_benchmark_that_was_run_is_compared_whatever_is_said() -> None:
    base = evaluation(mmlu=half_right(1000))
    result = gate(evaluation(mmlu=changed(1000, 70, 20)), base, not_run={"mmlu"})
    assert result.verdict is Verdict.REGRESSED


# --- error rates and speed --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_error_rates() -> None:
    """Equal systems are rarely called regressed; a loss of five points on one benchmark of four seldom escapes."""
    rng, n, names = np.random.default_rng(11), 1000, ("a", "b", "c", "d")
    known = {name: [(item(name, i, 0.0), item(name, i, 1.0)) for i in range(n)] for name in names}
    right = np.array(half_right(n), dtype=int)

    def drawn(loss: float) -> Evaluation:
        """Every answer changes with probability 0.05; on the first benchmark right ones more often, by `loss`."""
        items = []
        for name in names:
            extra = 2 * loss * right if name == names[0] else 0.0
            scores = np.where(rng.random(n) < 0.05 + extra, 1 - right, right)
            items += [pair[score] for pair, score in zip(known[name], scores.tolist(), strict=True)]
        return Evaluation(provenance=provenance(), benchmarks=[run(name, n) for name in names], items=items)

    base = evaluation(**dict.fromkeys(names, half_right(n)))
    runs, losses = 40, 20
    false_alarms = sum(gate(drawn(0.0), base).verdict is Verdict.REGRESSED for _ in range(runs)) / runs
    assert false_alarms <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert sum(gate(drawn(0.05), base).verdict is Verdict.REGRESSED for _ in range(losses)) / losses >= 0.9


def test_an_advisory_loss_is_told_though_it_decides_nothing() -> None:
    base = evaluation(large=half_right(1000), small=half_right(100))
    result = gate(evaluation(large=half_right(1000), small=changed(100, 20, 0)), base)
    assert result.verdict is Verdict.CONSISTENT
    assert any("small decides nothing, yet note" in warning for warning in result.warnings)
