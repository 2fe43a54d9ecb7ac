"""The consistency gate: is the candidate as good as the baseline, item by item? (docs/gate.md explains it.)

Tiers, each of which only a sound lower one makes worth asking:

* −1, hygiene (`hygiene`): both runs asked the same of the same model, or the verdict is INVALID;
* 0, canary (`canary`): next-token distributions on the baseline's own texts, before any benchmark;
* 1, accuracy (`accuracy`): paired differences per benchmark and pooled over benchmarks;
* 2, speed (`speed`): throughput against the baseline's;
* 3, fidelity (`fidelity`): tool calls against the baseline's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from evaluation import accuracy, escalation, fidelity, statistics, totals
from evaluation.catalogue import Benchmark
from evaluation.hygiene import LOOKS_UNLIKE, hygiene, operators_ran, same_model
from evaluation.sides import Pair, pairs
from flagrelease.policy import Policy
from flagrelease.records import Evaluation, ImportedBaseline, NoiseFloor, OperatorEvidence
from flagrelease.verdicts import (
    BenchmarkVerdict,
    CanaryResult,
    FidelityVerdict,
    GateResult,
    HygieneCheck,
    SpeedVerdict,
    Verdict,
)


def decide(
    candidate: Evaluation,
    baseline: Evaluation,
    *,
    baseline_id: str,
    policy: Policy,
    benchmarks: Mapping[str, Benchmark],
    not_run: Collection[str] = (),
    canary: CanaryResult | None = None,
    speed: Sequence[SpeedVerdict] = (),
    operators: OperatorEvidence | None = None,
    overrides: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> GateResult:
    """The verdict on a cell with its derivation.

    The first rule that applies decides. `canary`: a failed one is REGRESSED, and no benchmark was asked (INVALID where
    it was of another model, or nothing shows that FlagGems ran). `hygiene`: a failed check is INVALID, unless it only
    says that the answers look unlike the baseline's and a loss is shown. `benchmark`: REGRESSED where a gated benchmark
    is. `fidelity`, `speed`: REGRESSED where tool calls or throughput fall below what is allowed. Then `pooled`:
    CONSISTENT where the pooled mean is non-inferior and no throughput is in doubt. Else `undecided`: INCONCLUSIVE, with
    what would decide.

    A benchmark is flagged `different` if the upper bound exceeds the margin and the lower bound exceeds 0: without the
    second condition every interval that is wide for want of items would be flagged as a gain. `operators`: those of
    FlagGems that ran, as the candidate's server listed them; none where its stack has none to run. `notes` are warnings
    of the release, such as a tier that could not be measured.
    """
    given = {
        "baseline_id": baseline_id,
        "overrides": list(overrides),
        "canary": canary,
        "speed": list(speed),
        "operators": operators,
    }
    if canary is not None and not canary.passed:
        checks = [*same_model(candidate, baseline), *operators_ran(operators)]
        other = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
        return GateResult(
            verdict=Verdict.INVALID if other else Verdict.REGRESSED,
            rule="hygiene" if other else "canary",
            hygiene=checks,
            benchmarks=[],
            pooled=None,
            reasons=[*other, "the canary failed, so no benchmark was asked", *canary.reasons],
            warnings=list(notes),
            **given,
        )
    checks = [*hygiene(candidate, baseline, policy, not_run=not_run), *operators_ran(operators)]
    failed = [check for check in checks if not check.passed]
    shared = [pair for pair in pairs(candidate, baseline) if pair.baseline.items]
    floors = {floor.benchmark: floor for floor in baseline.floors}
    found = [accuracy.measure(p, policy, benchmarks.get(p.benchmark), floors.get(p.benchmark)) for p in shared]
    calls = _fidelity(shared, benchmarks, floors, policy)
    verdict, rule = Verdict.INVALID, "hygiene"
    pooled, needs, reasons = None, [], [f"{check.name}: {check.detail}" for check in failed]
    if all(check.name in LOOKS_UNLIKE for check in failed):
        cell = accuracy.judge(found, policy)
        judged = _other_tiers(cell, calls, speed)
        if not failed or judged[0] is Verdict.REGRESSED:
            (verdict, rule, why), found, pooled = judged, cell.benchmarks, cell.pooled
            reasons = [*why, *reasons]
    if rule == "undecided":
        by_name = {pair.benchmark: pair for pair in shared}
        splits = {
            row.benchmark: escalation.noise(by_name[row.benchmark], row, floors.get(row.benchmark)) for row in found
        }
        needs = escalation.needs(found, splits, policy)
        reasons += [_said(need.benchmark, need.repeats, need.items, benchmarks) for need in needs]
    return GateResult(
        verdict=verdict,
        rule=rule,
        hygiene=checks,
        benchmarks=found,
        pooled=pooled,
        reasons=reasons,
        fidelity=calls,
        needs=needs,
        warnings=[*_warnings(found, speed, policy), *_left_out(candidate, baseline, benchmarks), *notes],
        **given,
    )


def _other_tiers(
    cell: accuracy.Cell, calls: Sequence[FidelityVerdict], speed: Sequence[SpeedVerdict]
) -> tuple[Verdict, str, list[str]]:
    """Verdict, rule and reasons: what tool calls and speed make of the verdict on accuracy."""
    verdict, rule, why = cell.verdict, cell.rule, cell.reasons
    if verdict is Verdict.REGRESSED:
        return verdict, rule, why
    if unfaithful := [f"{call.benchmark}: {call.reason}" for call in calls if not call.passed]:
        return Verdict.REGRESSED, "fidelity", [*unfaithful, *why]
    if slow := [_speed(point) for point in speed if point.upper < point.floor]:
        return Verdict.REGRESSED, "speed", [*slow, *why]
    doubtful = [_speed(point) for point in speed if not point.passed]
    if doubtful and verdict is Verdict.CONSISTENT:
        return Verdict.INCONCLUSIVE, "speed", [*doubtful, *why]
    return verdict, rule, [*why, *doubtful]


def _speed(point: SpeedVerdict) -> str:
    interval = f"90 % interval {point.lower:.2f} to {point.upper:.2f}"
    return (
        f"speed {point.workload}: {point.ratio:.2f} times the baseline's output throughput ({interval}), "
        f"at least {point.floor:g} is asked for"
    )


def _fidelity(
    shared: Sequence[Pair], benchmarks: Mapping[str, Benchmark], floors: Mapping[str, NoiseFloor], policy: Policy
) -> list[FidelityVerdict]:
    if policy.fidelity is None:
        return []
    return [
        fidelity.judge(
            benchmarks[pair.benchmark].display,
            pair.candidate.items,
            pair.baseline.items,
            floors.get(pair.benchmark),
            policy.fidelity,
            alpha=policy.alpha,
        )
        for pair in shared
        if pair.baseline.run.harness == "tool_calls"
    ]


def _said(name: str, repeats: int | None, items: int, benchmarks: Mapping[str, Benchmark]) -> str:
    display = benchmarks[name].display if name in benchmarks else name
    if repeats is None:
        return f"would decide: about {items} items of {display}; repeats would not"
    return f"would decide: {repeats} repeats of {display} (or about {items} items)"


def _warnings(found: Sequence[BenchmarkVerdict], speed: Sequence[SpeedVerdict], policy: Policy) -> list[str]:
    """What decides nothing and must still be seen."""
    said = [
        f"{b.display} decides nothing, yet note: {b.reason}"
        for b in found
        if b.role == "advisory" and b.verdict is Verdict.REGRESSED
    ]
    said += [
        f"{b.display}: DIFFERENT, a gain beyond the margin; compare prompts and limits" for b in found if b.different
    ]
    known = [(b, b.excess_p) for b in found if b.excess_p is not None]
    if known:
        adjusted = statistics.holm([p for _, p in known])
        said += [
            f"{b.display}: {b.flips} of {b.n} answers changed, more than the baseline changes against itself "
            f"({b.floor:.1%}, p = {p:.2g})"
            for (b, _), p in zip(known, adjusted, strict=True)
            if p < policy.alpha
        ]
    return said + [f"speed {point.workload}: {warning}" for point in speed for warning in point.warnings]


def _left_out(candidate: Evaluation, baseline: Evaluation, benchmarks: Mapping[str, Benchmark]) -> list[str]:
    left_out = sorted({run.benchmark for run in baseline.benchmarks} - {run.benchmark for run in candidate.benchmarks})
    names = ", ".join(benchmarks[name].display if name in benchmarks else name for name in left_out)
    return [f"not compared, as they were not run: {names}"] if left_out else []


def decide_unpaired(
    candidate: Mapping[str, tuple[float, int]],
    baseline: ImportedBaseline,
    *,
    baseline_id: str,
    policy: Policy,
    benchmarks: Mapping[str, Benchmark],
    operators: OperatorEvidence | None = None,
    overrides: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> GateResult:
    """The verdict against published scores without items: REGRESSED or INCONCLUSIVE, never CONSISTENT.

    `candidate`: score and number of items of each benchmark. Nothing tells that both sides were asked the same, and
    without pairs the interval is too wide to exclude a loss honestly; a loss that shows all the same is a loss.
    `operators`: as in `decide`; INVALID where nothing shows that they ran.
    """
    rows, unknown = [], []
    for score in baseline.scores:
        benchmark = benchmarks[score.benchmark]
        n = score.n or benchmark.items
        if score.benchmark not in candidate or n is None:
            unknown.append(benchmark.display)
            continue
        ours, n_ours = candidate[score.benchmark]
        found = statistics.allow_for_unseen(
            totals.unpaired_difference(score.score, n, ours, n_ours, policy.alpha), policy.alpha
        )
        p_value = totals.unpaired_loss_p_value(score.score, n, ours, n_ours)
        rows.append(accuracy.from_totals(found, p_value, policy, benchmark, (score.score, ours)))
    cell = accuracy.judge(rows, policy)
    because = f"the baseline is published scores without items ({baseline.source}): unpaired, so never CONSISTENT"
    judged = [
        row.model_copy(update={"verdict": Verdict.INCONCLUSIVE, "reason": f"{row.reason}, by totals alone"})
        if row.verdict is Verdict.CONSISTENT
        else row
        for row in cell.benchmarks
    ]
    regressed = cell.verdict is Verdict.REGRESSED
    check = HygieneCheck(name="items", passed=True, detail="not known on the baseline's side: nothing could be checked")
    checks = [check, *operators_ran(operators)]
    verdict, rule = (Verdict.REGRESSED, "benchmark") if regressed else (Verdict.INCONCLUSIVE, "unpaired")
    pooled, reasons = cell.pooled, [because, *cell.reasons]
    if failed := [f"{check.name}: {check.detail}" for check in checks if not check.passed]:
        verdict, rule, judged = Verdict.INVALID, "hygiene", rows
        pooled, reasons = None, [*failed, because]
    return GateResult(
        verdict=verdict,
        rule=rule,
        baseline_id=baseline_id,
        paired=False,
        overrides=list(overrides),
        operators=operators,
        hygiene=checks,
        benchmarks=judged,
        pooled=pooled,
        reasons=reasons,
        warnings=[
            *_warnings(judged, (), policy),
            *([f"not compared, items or scores are not known: {', '.join(unknown)}"] if unknown else []),
            *notes,
        ],
    )
