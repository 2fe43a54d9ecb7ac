"""The power planner: what a release of a cell can decide, before anything runs (docs/planning.md).

Pure: it works from the cell, its benchmarks, its baseline and an earlier evaluation. `power` has the arithmetic,
`prospect` what follows for the cell as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from evaluation.accuracy import margin_points
from evaluation.catalogue import Benchmark
from evaluation.concurrency import requests_in_flight
from evaluation.floors import discordance_within
from evaluation.power import Expected
from evaluation.prospect import Planned, prospect
from evaluation.sides import Side, sides
from flagrelease.matrix import ResolvedCell
from flagrelease.policy import Policy
from flagrelease.records import Evaluation, ImportedBaseline, NoiseFloor, Record

Origin = Literal["A/A", "repeats", "published", "unknown"]


class BenchmarkPlan(Record):
    """What one benchmark can tell. Shares in [0, 1], margins and differences in points; none: not known."""

    benchmark: str
    display: str
    role: Literal["gated", "advisory"] = Field(description="as the gate will take it, asked as planned")
    items: int | None = Field(description="none: not fixed")
    repeats: int = Field(description="of the candidate, as planned")
    baseline_repeats: int = Field(description="of the baseline; where none is measured, as planned")
    margin_points: float | None
    discordance: float | None = Field(description="ψ: mean square of the difference between two runs of one system")
    origin: Origin = Field(description="where ψ comes from; published: from pairs of systems, a lower bound")
    source: str = Field(description="of ψ, for people")
    detectable_points: float | None = Field(description="smallest margin that is cleared with the policy's power")
    resolution: float | None = Field(description="q = n / n*: below 1 it can support a verdict, not decide it")
    repeats_needed: int | None = Field(description="for q of at least 1; none: not known, or no number suffices")
    repeats_of: Literal["candidate", "both"] | None = Field(description="who has to be asked so often")
    chance: float | None = Field(description="probability that an equal system is CONSISTENT on it")
    seconds: float | None = Field(description="for all repeats; an estimate")
    seconds_from: Literal["earlier evaluation", "baseline"] | None
    note: str | None


class PowerPlan(Record):
    """What a release of a cell can decide. Shares in [0, 1], margins in points."""

    cell: str
    engine: str
    baseline_id: str | None
    baseline: Literal["measured", "published scores", "none"]
    power: float = Field(description="the chance of clearing an equal system that the policy asks for")
    benchmarks: list[BenchmarkPlan]
    not_run: dict[str, str] = Field(description="benchmarks of the suite that are left out, and why")
    unknown: list[str] = Field(description="benchmarks whose n or ψ is not known; with them every chance is at best")
    pooled_standard_error: float | None = Field(description="expected; none where no benchmark is gated")
    pooled_margin_points: float
    chance: float = Field(description="probability that an equal system is CONSISTENT, asked as planned")
    repeats: dict[str, int] = Field(description="in all, of what escalation is expected to ask again")
    chance_with_repeats: float = Field(description="the same after these repeats")
    seconds: float | None = Field(description="of the benchmarks whose time is known")
    seconds_added: float | None = Field(description="by the repeats of escalation; none: not known")
    decides: bool | None = Field(description="whether CONSISTENT can be reached; none: not known")
    conclusion: str
    ways_out: list[str]


class _Timing(NamedTuple):
    """Seconds that one answer takes, and whose times they are."""

    seconds: float
    origin: Literal["earlier evaluation", "baseline"]


def plan_power(
    cell: ResolvedCell,
    engine: str,
    benchmarks: Sequence[Benchmark],
    *,
    baseline: Evaluation | ImportedBaseline | None,
    not_run: Mapping[str, str] | None = None,
    earlier: Evaluation | None = None,
) -> PowerPlan:
    """What a release of `cell` through `engine` that asks `benchmarks` can decide; asks nothing of a server or a hub.

    `not_run`: names of benchmarks that are left out, and why. `earlier`: an evaluation of the same cell and engine, for
    times. Where `decides` is False, INCONCLUSIVE (or INVALID) is known beforehand.
    """
    policy = cell.policy
    measured = baseline if isinstance(baseline, Evaluation) else None
    answered = sides("baseline", measured) if measured else {}
    floors = {floor.benchmark: floor for floor in measured.floors} if measured else {}
    times = _times(measured, "baseline") | _times(earlier, "earlier evaluation")
    plans, planned = [], []
    for benchmark in benchmarks:
        side = answered.get(benchmark.key)
        plan, expected = _benchmark(benchmark, side, floors.get(benchmark.key), policy, times.get(benchmark.key))
        plans.append(plan)
        per_repeat = None if plan.seconds is None else plan.seconds / plan.repeats
        lacking = measured is not None and side is None
        gated = benchmark.role == "gated"
        planned.append(Planned(plan.display, expected, gated, plan.discordance is not None, per_repeat, lacking))
    kind: Literal["measured", "published scores", "none"] = (
        "measured" if measured else "none" if baseline is None else "published scores"
    )
    found = prospect(
        planned,
        policy,
        cell=cell.id,
        unpaired=kind == "published scores",
        at_most=any(plan.role == "gated" and plan.origin == "published" for plan in plans),
    )
    known = [plan.seconds for plan in plans if plan.seconds is not None]
    return PowerPlan(
        cell=cell.id,
        engine=engine,
        baseline_id=cell.model.reference.baseline,
        baseline=kind,
        power=policy.power,
        benchmarks=plans,
        not_run=dict(not_run or {}),
        pooled_margin_points=policy.pooled_margin_points,
        seconds=sum(known) if known else None,
        **found._asdict(),
    )


def _benchmark(
    benchmark: Benchmark, side: Side | None, floor: NoiseFloor | None, policy: Policy, timing: _Timing | None
) -> tuple[BenchmarkPlan, Expected | None]:
    """The plan of one benchmark, and what the gate is expected to find; none where its size is not known."""
    names = side.names if side else []
    n = len(names) if side else benchmark.items
    units = len(set(side.clusters(names) or names)) if side else n
    psi, origin, source = _discordance(benchmark, side, floor)
    values: dict[str, Any] = {
        "benchmark": benchmark.key,
        "display": benchmark.display,
        "role": benchmark.role,
        "items": n,
        "repeats": benchmark.repeats,
        "baseline_repeats": side.run.repeats if side else benchmark.repeats,
        "margin_points": margin_points(n, policy, benchmark) if n else benchmark.margin_points,
        "discordance": psi,
        "origin": origin,
        "source": source,
        "note": _note(benchmark, side, psi, origin),
        "seconds": timing.seconds * n * benchmark.repeats if n and timing else None,
        "seconds_from": timing.origin if n and timing else None,
    }
    unknown = ("detectable_points", "resolution", "repeats_needed", "repeats_of", "chance")
    if not n or not units:
        return BenchmarkPlan(**values, **dict.fromkeys(unknown)), None
    expected = Expected(
        key=benchmark.key,
        n=n,
        units=units,
        # Where ψ is not known, the least there can be: what follows from it is then at best.
        within=psi or 0.0,
        margin=values["margin_points"] / 100,
        repeats=benchmark.repeats,
        baseline_repeats=values["baseline_repeats"],
        may_decide=benchmark.role == "gated",
    )
    if psi is None:
        if units < policy.min_items:
            values["role"] = "advisory"
        return BenchmarkPlan(**values, **dict.fromkeys(unknown)), expected
    values["role"] = "gated" if expected.decides(policy) else "advisory"
    # A baseline that is still to be measured can be asked as often as the candidate.
    needed = expected.repeats_needed(policy, expected.baseline_repeats) if side else None
    both = expected.repeats_needed(policy, None) if needed is None else None
    plan = BenchmarkPlan(
        **values,
        detectable_points=100 * expected.detectable(policy),
        resolution=expected.resolution(policy),
        repeats_needed=needed or both,
        repeats_of="candidate" if needed else "both" if both else None,
        chance=expected.chance(policy),
    )
    return plan, expected


def _discordance(benchmark: Benchmark, side: Side | None, floor: NoiseFloor | None) -> tuple[float | None, Origin, str]:
    """ψ, how it is known, and its source in words."""
    if floor is not None:
        return floor.discordance, "A/A", f"the baseline against itself on {floor.n} items: {floor.how}"
    if side is not None and side.run.repeats > 1:
        return discordance_within(side.scores(side.names)), "repeats", f"{side.run.repeats} repeats of the baseline"
    if benchmark.discordance is not None:
        return benchmark.discordance, "published", f"published pairs (a lower bound): {benchmark.discordance_source}"
    return None, "unknown", "no A/A run, no repeats of the baseline, no published pairs"


def _note(benchmark: Benchmark, side: Side | None, psi: float | None, origin: Origin) -> str | None:
    """What to know about repeats of answers that are not sampled."""
    if psi == 0:
        return "the baseline never changed an answer, so repeats do not help"
    if origin != "published" or not _greedy(benchmark, side):
        return None
    return "not sampled (temperature 0 or log-likelihood): whether repeats help, an A/A run of the baseline tells"


def _greedy(benchmark: Benchmark, side: Side | None) -> bool:
    """Whether answers are not sampled, as far as can be told."""
    if benchmark.needs == "prompt_logprobs":
        return True
    task = benchmark.task if isinstance(benchmark.task, dict) else {}
    generation = side.run.generation if side else task.get("generation_kwargs") or task.get("generation") or task
    temperature = generation.get("temperature")
    return temperature is not None and float(temperature) == 0


def _times(evaluation: Evaluation | None, origin: Literal["earlier evaluation", "baseline"]) -> dict[str, _Timing]:
    """Of each benchmark whose answers were timed: mean latency by requests in flight, as all of them are kept busy."""
    if evaluation is None:
        return {}
    spent: dict[str, list[float]] = defaultdict(list)
    for item in evaluation.items:
        if item.latency_s is not None:
            spent[item.benchmark].append(item.latency_s)
    in_flight = requests_in_flight(evaluation)
    return {name: _Timing(sum(each) / len(each) / in_flight[name], origin) for name, each in spent.items()}
