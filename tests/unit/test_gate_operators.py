"""The gate: a release on FlagOS must show that operators of FlagGems ran."""

from __future__ import annotations

import pytest

from evaluation.catalogue import load_benchmarks
from evaluation.gate import decide, decide_unpaired
from flagrelease.records import CanaryStatistics, ImportedBaseline, OperatorEvidence, Published
from flagrelease.verdicts import CanaryResult, GateResult, Verdict
from runtime.operators import Known, compare
from tests.unit.gate_data import changed, evaluation, half_right
from tests.unit.policies import policy

BASE = evaluation(mmlu=half_right(1000))
NEAR = CanaryStatistics(positions=100, mean_abs_logprob=0.01, top1_agreement=1.0, kl=0.001)
FAILED = CanaryResult(found=NEAR, bars=NEAR, passed=False, reasons=["top-1 agreement 41 %"], worst=[3])
UNPROVEN = "operators: the server wrote no operator list, so nothing shows that FlagGems ran"


def evidence(operators: list[str] | OperatorEvidence | None) -> OperatorEvidence | None:
    """Names alone: nothing is known to compare them with."""
    return compare(operators, only=[], without=[], known=None) if isinstance(operators, list) else operators


def paired(
    operators: list[str] | OperatorEvidence | None, lost: int = 0, canary: CanaryResult | None = None
) -> GateResult:
    candidate = evaluation(mmlu=changed(1000, lost, 0))
    ran = evidence(operators)
    return decide(candidate, BASE, baseline_id="b", policy=policy(), benchmarks={}, operators=ran, canary=canary)


def unpaired(operators: list[str] | None, score: float = 0.2) -> GateResult:
    rows = [Published(benchmark="mmmu", score=0.4, printed="40.00")]
    baseline = ImportedBaseline(model="m", label="H100-CUDA", source="a card", scores=rows)
    return decide_unpaired(
        {"mmmu": (score, 900)},
        baseline,
        baseline_id="b",
        policy=policy(),
        benchmarks=load_benchmarks(),
        operators=evidence(operators),
    )


def test_operators_that_ran_are_counted_and_named_and_decide_nothing() -> None:
    few, many = paired(["add", "mm"]), paired([f"op{number:02}" for number in range(30)])
    assert {few.verdict, many.verdict, paired(None).verdict} == {Verdict.CONSISTENT}
    assert few.hygiene[-1].detail == "2 operators ran: add, mm; nothing is known to compare them with"
    assert many.hygiene[-1].detail.startswith("30 operators ran: op00, op01, ")
    assert ", op09, …; " in many.hygiene[-1].detail
    assert paired(["add"]).hygiene[-1].detail.startswith("1 operator ran: add; ")


def test_a_part_of_what_should_have_run_is_said_and_decides_nothing() -> None:
    known = Known([f"op{number:02}" for number in range(12)], "release 7 of qwen3-metax")
    part = paired(compare(["op00", "topk"], only=[], without=["topk"], known=known))
    assert part.verdict is Verdict.CONSISTENT
    assert part.hygiene[-1].passed
    assert part.hygiene[-1].detail == (
        "2 operators ran: op00, topk; PARTIAL: not in the list are 11 of 12 expected "
        "(listed by release 7 of qwen3-metax): op01, op02, op03, op04, op05, op06, op07, op08, op09, op10, …; "
        "ran although left out: topk"
    )
    assert part.operators is not None
    assert GateResult.model_validate_json(part.model_dump_json()).operators == part.operators
    whole = paired(compare(["add", "mm", "new"], only=[], without=[], known=Known(["add", "mm"], "release 7 of c")))
    assert whole.hygiene[-1].detail == (
        "3 operators ran: add, mm, new; none is missing of 2 expected (listed by release 7 of c)"
    )
    failed = paired(compare(["op00"], only=[], without=[], known=known), canary=FAILED)
    assert failed.verdict is Verdict.REGRESSED
    assert "PARTIAL: not in the list are 11 of" in failed.hygiene[-1].detail


@pytest.mark.parametrize("lost", [0, 100])
def test_without_an_operator_the_verdict_is_invalid_whatever_the_scores_say(lost: int) -> None:
    result = paired([], lost)
    assert (result.verdict, result.rule) == (Verdict.INVALID, "hygiene")
    assert result.reasons == [UNPROVEN]
    assert result.pooled is None
    assert paired(["add"], lost).verdict is (Verdict.REGRESSED if lost else Verdict.CONSISTENT)


def test_a_failed_canary_of_a_server_that_shows_no_operator_is_no_verdict_on_flaggems() -> None:
    result = paired([], canary=FAILED)
    assert (result.verdict, result.rule) == (Verdict.INVALID, "hygiene")
    assert result.reasons[0] == UNPROVEN
    shown = paired(["add"], canary=FAILED)
    assert (shown.verdict, shown.rule, shown.hygiene[-1].name) == (Verdict.REGRESSED, "canary", "operators")


def test_published_scores_are_compared_with_flaggems_only() -> None:
    result = unpaired([])
    assert (result.verdict, result.rule) == (Verdict.INVALID, "hygiene")
    assert result.reasons[0] == UNPROVEN
    assert not any("loss" in reason for reason in result.reasons)
    assert unpaired(["add"]).verdict is Verdict.REGRESSED
    assert unpaired(["add"], score=0.41).rule == "unpaired"


def test_a_stack_that_has_none_to_show_is_not_asked_for_any() -> None:
    for result in (paired(None), paired(None, canary=FAILED), unpaired(None)):
        assert "operators" not in {check.name for check in result.hygiene}
