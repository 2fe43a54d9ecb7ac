"""The gate beyond accuracy: canary, speed, fidelity, looks of answers, clusters, noise floors, published baselines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluation.again import seconds_of_a_repeat
from evaluation.catalogue import Benchmark, load_benchmarks
from evaluation.escalation import next_repeats
from evaluation.gate import decide, decide_unpaired
from flagrelease.errors import PreflightError
from flagrelease.policy import Escalation, FidelityPolicy
from flagrelease.records import CanaryStatistics, Evaluation, ImportedBaseline, NoiseFloor, Published
from flagrelease.verdicts import CanaryResult, GateResult, SpeedVerdict, Verdict
from flows import serving, stages, tiers
from runtime.engines import ENGINES, vllm
from tests.unit.gate_data import changed, evaluation, half_right, repeated, run, with_items, with_provenance, with_run
from tests.unit.policies import policy

ESCALATION = Escalation(max_repeats=8, budget_minutes=10, reason="chosen for a test")
POLICY = policy()
BASE = evaluation(mmlu=half_right(1000))
NEAR = CanaryStatistics(positions=100, mean_abs_logprob=0.01, top1_agreement=1.0, kl=0.001)


def gate(candidate: Evaluation, baseline: Evaluation = BASE, **options: Any) -> GateResult:
    return decide(candidate, baseline, **{"baseline_id": "base", "policy": POLICY, "benchmarks": {}, **options})


def throughput(ratio: float, lower: float, upper: float) -> SpeedVerdict:
    return SpeedVerdict(
        workload="256/128 x 1",
        baseline=100,
        candidate=100 * ratio,
        ratio=ratio,
        lower=lower,
        upper=upper,
        floor=0.8,
        passed=lower > 0.8,
        warnings=[],
    )


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_speed_is_not_measured_through_an_engine_that_does_not_stream(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = SimpleNamespace(speed=SimpleNamespace())
    monkeypatch.setattr(stages, "measured_baseline", lambda _: baseline)
    monkeypatch.setattr(vllm, "executable", lambda: None)
    cell = SimpleNamespace(policy=SimpleNamespace(speed=SimpleNamespace()))
    session: Any = SimpleNamespace(job=SimpleNamespace(cell=cell, engine=ENGINES[name]))
    why = tiers.why_no_speed(session)
    if name == "torch_reference":
        assert why == f"speed: not measured, {ENGINES[name].display} does not stream"
        # A baseline asks without that, and goes on without speed.
        with pytest.raises(PreflightError, match="does not stream"):
            serving.measure_speed(session.job, session, cell.policy.speed, Path(), print)
    else:
        assert why is None


def test_a_failed_canary_decides_before_any_benchmark() -> None:
    canary = CanaryResult(found=NEAR, bars=NEAR, passed=False, reasons=["top-1 agreement 41 %"], worst=[3])
    nothing = BASE.model_copy(update={"benchmarks": [], "items": []})
    result = gate(nothing, canary=canary)
    assert (result.verdict, result.rule) == (Verdict.REGRESSED, "canary")
    assert "top-1 agreement 41 %" in result.reasons
    assert result.canary == canary
    another = with_provenance(nothing, weights_sha256="f" * 64)
    assert (gate(another, canary=canary).verdict, gate(another, canary=canary).rule) == (Verdict.INVALID, "hygiene")
    assert gate(BASE, canary=canary.model_copy(update={"passed": True})).verdict is Verdict.CONSISTENT


@pytest.mark.parametrize(
    ("point", "verdict"),
    [
        (throughput(1.0, 0.95, 1.05), Verdict.CONSISTENT),
        (throughput(0.82, 0.75, 0.90), Verdict.INCONCLUSIVE),
        (throughput(0.5, 0.45, 0.55), Verdict.REGRESSED),
    ],
)
def test_speed_joins_the_verdict(point: SpeedVerdict, verdict: Verdict) -> None:
    result = gate(BASE, speed=[point])
    assert result.verdict is verdict
    assert result.rule == ("pooled" if verdict is Verdict.CONSISTENT else "speed")
    assert (verdict is Verdict.CONSISTENT) or f"{point.ratio:.2f} times" in result.reasons[0]


def test_a_loss_of_accuracy_comes_before_speed() -> None:
    result = gate(evaluation(mmlu=changed(1000, 70, 20)), speed=[throughput(0.5, 0.45, 0.55)])
    assert (result.verdict, result.rule) == (Verdict.REGRESSED, "benchmark")


def calls(share: float) -> Evaluation:
    """200 questions that all want a tool; the model calls it, with arguments that fit, on a share of them."""
    found = repeated([(1.0,)] * 200)
    items = [
        item.model_copy(
            update={
                "extracted": '{"expected": "f", "called": ["f"], "valid": true}'
                if number < share * 200
                else '{"expected": "f", "called": [], "valid": null}'
            }
        )
        for number, item in enumerate(found.items)
    ]
    whole = found.model_copy(update={"items": items})
    return with_run(whole, harness="tool_calls").model_copy(
        update={"provenance": whole.provenance.model_copy(update={"harnesses": {"tool_calls": "1"}})}
    )


def test_tool_calls_that_fall_behind_are_a_regression_of_their_own() -> None:
    tools = {"live": Benchmark(key="live", display="Tools", description="tools", harness="tool_calls", source="a test")}
    rules = policy(pooled_margin_points=3.0, fidelity=FidelityPolicy(min_drop_points=2.0, reason="chosen for a test"))
    assert gate(calls(1.0), calls(1.0), policy=rules, benchmarks=tools).verdict is Verdict.CONSISTENT
    result = gate(calls(0.7), calls(1.0), policy=rules, benchmarks=tools)
    assert (result.verdict, result.rule) == (Verdict.REGRESSED, "fidelity")
    assert not result.fidelity[0].passed
    longer_as_well = gate(longer(calls(0.7), 120), longer(calls(1.0), 100), policy=rules, benchmarks=tools)
    assert (longer_as_well.verdict, longer_as_well.rule) == (Verdict.REGRESSED, "fidelity")


# --- how answers look -------------------------------------------------------------------------------------------------


def unextracted(whole: Evaluation, share: float) -> Evaluation:
    count = round(share * len(whole.items))
    cut = [item.model_copy(update={"extracted": ""}) for item in whole.items[:count]]
    return whole.model_copy(update={"items": [*cut, *whole.items[count:]]})


def longer(whole: Evaluation, tokens: int) -> Evaluation:
    items = [item.model_copy(update={"output_tokens": tokens + number % 3}) for number, item in enumerate(whole.items)]
    return whole.model_copy(update={"items": items})


@pytest.mark.parametrize(
    ("candidate", "baseline", "check"),
    [
        (unextracted(BASE, 0.1), BASE, "extraction"),
        (longer(BASE, 120), longer(BASE, 100), "answer lengths"),
        (with_items(BASE, finish_reason="length"), BASE, "cut answers"),
    ],
)
def test_answers_that_look_unlike_the_baselines_forbid_a_pass_but_hide_no_loss(
    candidate: Evaluation, baseline: Evaluation, check: str
) -> None:
    result = gate(candidate, baseline)
    assert (result.verdict, result.rule) == (Verdict.INVALID, "hygiene")
    assert [found.name for found in result.hygiene if not found.passed] == [check]
    scores = [item.score if number % 5 else 0.0 for number, item in enumerate(candidate.items)]
    lost = candidate.model_copy(
        update={"items": [i.model_copy(update={"score": s}) for i, s in zip(candidate.items, scores, strict=True)]}
    )
    worse = gate(lost, baseline)
    assert (worse.verdict, worse.rule) == (Verdict.REGRESSED, "benchmark")
    assert any(reason.startswith(check) for reason in worse.reasons)


def test_lengths_and_extraction_as_the_baselines_are_accepted() -> None:
    base = longer(unextracted(BASE, 0.10), 100)
    assert gate(longer(unextracted(BASE, 0.11), 103), base).verdict is Verdict.CONSISTENT


# --- clusters, early stop, noise floor --------------------------------------------------------------------------------


def in_passages(whole: Evaluation, size: int) -> Evaluation:
    items = [item.model_copy(update={"cluster": str(n // size)}) for n, item in enumerate(whole.items)]
    return whole.model_copy(update={"items": items})


def test_questions_on_one_passage_are_no_independent_evidence() -> None:
    candidate = evaluation(mmlu=[0.0 if n < 40 else score for n, score in enumerate(half_right(1000))])
    alone = gate(candidate).benchmarks[0]
    together = gate(in_passages(candidate, 20), in_passages(BASE, 20)).benchmarks[0]
    assert (alone.units, together.units) == (1000, 50)
    assert together.difference == alone.difference
    assert together.standard_error > 2 * alone.standard_error
    assert "1000 items in 50 clusters" in together.reason


def test_a_candidate_that_was_stopped_early_is_compared_on_what_it_was_asked() -> None:
    whole = evaluation(mmlu=half_right(4000))
    part = whole.model_copy(
        update={"items": whole.items[:2000], "benchmarks": [run("mmlu", 2000, stopped_of=4000)]},
    )
    result = gate(part, whole)
    assert result.verdict is Verdict.CONSISTENT
    assert (result.benchmarks[0].n, result.benchmarks[0].stopped_of) == (2000, 4000)
    assert "stopped early of 4000" in result.benchmarks[0].reason
    lost = part.model_copy(update={"items": part.items[:-1]})
    assert gate(lost, whole).verdict is Verdict.INVALID


def with_floor(flips: int, n: int = 1000) -> Evaluation:
    floor = NoiseFloor(benchmark="mmlu", n=n, flips=flips, discordance=flips / n, how="served again")
    return BASE.model_copy(update={"floors": [floor]})


def test_more_changed_answers_than_the_baseline_has_against_itself_are_a_warning() -> None:
    candidate = evaluation(mmlu=changed(1000, lost=60, won=60))
    noisy = gate(candidate, with_floor(110))
    assert noisy.benchmarks[0].floor == pytest.approx(0.11)
    assert not any("answers changed" in warning for warning in noisy.warnings)
    steady = gate(candidate, with_floor(20))
    assert steady.verdict is noisy.verdict
    assert any("120 of 1000 answers changed, more than" in warning for warning in steady.warnings)


# --- what would decide, and what is asked again -----------------------------------------------------------------------


def test_an_undecided_cell_says_how_many_repeats_would_decide() -> None:
    result = gate(evaluation(mmlu=changed(1000, lost=100, won=100)))
    assert (result.verdict, result.rule) == (Verdict.INCONCLUSIVE, "undecided")
    (need,) = result.needs
    # With one repeat of the baseline, half of ψ = 0.2 stays: 0.1/1000 · 6.18 is more than 0.01², whatever the repeats.
    assert need.repeats is None
    assert need.items == pytest.approx(0.2 * 6.18 / 0.01**2, rel=0.01)
    assert "would decide: about 123" in result.reasons[-1]
    rules = policy(pooled_margin_points=3.0, margin_points=3.0)
    lenient = gate(evaluation(mmlu=changed(1000, lost=110, won=100)), policy=rules)
    (need,) = lenient.needs
    # Var = 0.105 · (1/K + 1), and 6.18 · Var/1000 ≤ 0.03².
    assert need.repeats == 3
    assert lenient.reasons[-1].startswith("would decide: 3 repeats of mmlu")


def test_repeats_cannot_decide_what_never_varies() -> None:
    twice = repeated([(score, score) for score in half_right(400)])
    candidate = [(0.0, 0.0) if n in range(0, 40, 2) else (s, s) for n, s in enumerate(half_right(400))]
    won = [(1.0, 1.0) if n in range(1, 32, 2) else row for n, row in enumerate(candidate)]
    result = gate(repeated(won), twice)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert [need.repeats for need in result.needs] == [None]
    assert "repeats would not" in result.reasons[-1]
    rules = policy(escalation=ESCALATION)
    assert next_repeats(result, {"live": 1}, rules, seconds={"live": 1.0}, left_s=1e9) == {}


def test_what_is_asked_again() -> None:
    rules = policy(escalation=ESCALATION, pooled_margin_points=2.0)
    lost = gate(evaluation(mmlu=changed(1000, 70, 20)), policy=rules)
    confirm: dict[str, Any] = {"seconds": {"mmlu": 60.0}, "left_s": 0.0}
    assert next_repeats(lost, {"mmlu": 1}, rules, **confirm) == {"mmlu": 2}
    # Confirmed once, it stands.
    confirmed = lost.model_copy(update={"benchmarks": [lost.benchmarks[0].model_copy(update={"repeats": 2})]})
    assert next_repeats(confirmed, {"mmlu": 1}, rules, **confirm) == {}
    assert next_repeats(lost, {"mmlu": 1}, POLICY, **confirm) == {}

    undecided = gate(evaluation(mmlu=changed(1000, lost=50, won=40)), policy=rules)
    assert undecided.verdict is Verdict.INCONCLUSIVE
    (need,) = undecided.needs
    assert need.repeats is not None
    wanted = min(need.repeats, 8)
    enough = 60.0 * (wanted - 1)
    assert next_repeats(undecided, {"mmlu": 1}, rules, seconds={"mmlu": 60.0}, left_s=enough) == {"mmlu": wanted}
    assert next_repeats(undecided, {"mmlu": 1}, rules, seconds={"mmlu": 60.0}, left_s=enough - 1) == {}
    assert next_repeats(gate(BASE), {"mmlu": 1}, rules, seconds={"mmlu": 60.0}, left_s=1e9) == {}


def test_a_repeat_takes_as_long_as_the_requests_that_were_in_flight_allowed() -> None:
    asked = with_provenance(repeated([(1.0, 0.0)] * 100), engine_settings={"concurrency": 16})
    timed = with_items(asked, latency_s=2.0)
    assert seconds_of_a_repeat(with_run(timed, concurrency=4)) == {"live": 100 * 2.0 / 4}
    # Of an evaluation that does not tell, the cell's bound.
    assert seconds_of_a_repeat(timed) == {"live": 100 * 2.0 / 16}


def test_where_no_repeats_are_sure_to_decide_as_many_as_allowed_make_it_likelier() -> None:
    rules = policy(escalation=ESCALATION)
    undecided = gate(evaluation(mmlu=changed(1000, lost=100, won=100)), policy=rules)
    assert [(need.repeats, need.varies) for need in undecided.needs] == [(None, True)]

    def asked(result: GateResult, left_s: float) -> dict[str, int]:
        return next_repeats(result, {"mmlu": 1}, rules, seconds={"mmlu": 60.0}, left_s=left_s)

    assert asked(undecided, 7 * 60.0) == {"mmlu": 8}
    assert asked(undecided, 7 * 60.0 - 1) == {}
    row = undecided.benchmarks[0]
    assert row.resolution < 1
    # What resolves its margin already adds nothing, and what was asked as often as allowed is asked no more.
    for change in ({"resolution": 1.2}, {"repeats": 8}):
        assert asked(undecided.model_copy(update={"benchmarks": [row.model_copy(update=change)]}), 1e9) == {}


@pytest.mark.parametrize(
    ("generation", "concurrency", "varies"),
    [
        ({"temperature": 0.0}, 1, False),
        ({"temperature": 0.0}, 16, True),
        ({"temperature": 0.6}, 1, True),
        ({}, 1, False),
    ],
)
def test_a_candidate_that_repeats_its_answers_is_not_asked_again(
    generation: dict[str, Any], concurrency: int, varies: bool
) -> None:
    rules = policy(escalation=ESCALATION)
    changes: dict[str, Any] = {"generation": generation, "concurrency": concurrency}
    candidate = with_run(evaluation(mmlu=changed(1000, lost=100, won=100)), **changes)
    # The baseline changes answers where it is served otherwise, which says nothing of repeats of the candidate.
    floor = NoiseFloor(benchmark="mmlu", n=1000, flips=200, discordance=0.2, how="in another precision")
    baseline = with_run(BASE, **changes).model_copy(update={"floors": [floor]})
    result = gate(candidate, baseline, policy=rules)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert [need.varies for need in result.needs] == [varies]
    assert bool(next_repeats(result, {"mmlu": 1}, rules, seconds={"mmlu": 1.0}, left_s=1e9)) == varies


# --- published scores without items -----------------------------------------------------------------------------------


def published(**scores: float) -> ImportedBaseline:
    rows = [Published(benchmark=name, score=score, printed=f"{100 * score:.2f}") for name, score in scores.items()]
    return ImportedBaseline(model="minicpmv4", label="H100-CUDA", source="a card", scores=rows)


@pytest.mark.parametrize(("score", "verdict"), [(0.41, "INCONCLUSIVE"), (0.60, "INCONCLUSIVE"), (0.20, "REGRESSED")])
def test_published_scores_can_show_a_loss_but_never_consistency(score: float, verdict: str) -> None:
    result = decide_unpaired(
        {"mmmu": (score, 900)},
        published(mmmu=0.40),
        baseline_id="minicpmv4-published-1",
        policy=POLICY,
        benchmarks=load_benchmarks(),
    )
    assert result.verdict == verdict
    assert not result.paired
    assert "unpaired, so never CONSISTENT" in result.reasons[0]
    assert all(row.verdict is not Verdict.CONSISTENT for row in result.benchmarks)


def test_published_scores_of_what_was_not_asked_are_named() -> None:
    result = decide_unpaired({}, published(mmmu=0.4), baseline_id="x", policy=POLICY, benchmarks=load_benchmarks())
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "MMMU" in result.warnings[0]
