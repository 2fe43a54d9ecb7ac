"""The same simulated answers judged by the gate itself, one release after the other, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from benchmarks.gate_simulation import Counts, Ints, Population, Trial, unfolded
from benchmarks.gate_vectorised import Judged
from evaluation import accuracy, escalation
from evaluation.sequential import stop_at_look
from evaluation.sides import Pair, Side
from evaluation.statistics import Floats
from flagrelease.records import BenchmarkRun
from flagrelease.verdicts import GateResult, Verdict


class DifferentVerdictError(AssertionError):
    """The rules of `gate_vectorised` and the gate itself disagree on the same answers."""


class SimulatedSide(Side):
    """A side of a comparison of which only the scores are simulated."""

    def __init__(self, key: str, scores: Floats) -> None:
        run = BenchmarkRun(
            benchmark=key,
            dataset_sha256="",
            task_sha256="",
            few_shot=0,
            generation={},
            api="chat",
            harness="",
            items=len(scores),
            repeats=scores.shape[1],
        )
        super().__init__("simulated", run, [])
        self._scores = scores

    @cached_property
    def names(self) -> list[str]:
        """Not needed."""
        return []

    def scores(self, names: list[str]) -> Floats:  # noqa: ARG002 - all there are
        """As simulated."""
        return self._scores


def check_stop(parts: Sequence[Counts], at: Ints, who: Population, trial: Trial, *, of: int) -> None:
    """Raise where one of the first `of` releases is not stopped at the look `at`."""
    policy, limit = trial.policy, trial.largest_error
    if limit is None or policy.early_stop is None:
        return
    for release in range(min(of, len(at))):
        d: list[Floats] = []
        for look, part in enumerate(parts[: at[release] + 1]):
            ours, theirs = unfolded(part[release], trial.repeats)
            d.append(np.round(ours.mean(axis=1) - theirs.mean(axis=1), 12))
            known = np.concatenate(d)
            if look + 1 == len(parts) or known.size < policy.min_items:
                continue
            stops = stop_at_look(
                known,
                margin=accuracy.margin_points(who.n, policy, who.benchmark) / 100,
                interim_z=policy.early_stop.z,
                max_standard_error=limit,
                alpha=policy.alpha,
                benchmarks=len(trial.members),
            )
            if bool(stops) != (look == at[release]):
                msg = f"{who.benchmark.key}: at look {look} the gate says {stops}, the vectorised rule {at[release]}"
                raise DifferentVerdictError(msg)


def check_verdicts(
    judged: Judged, wanted: Ints, counts: Sequence[Counts], asked: Ints, trial: Trial, *, of: int
) -> None:
    """Raise where one of the first `of` releases gets another verdict, or other repeats, from the gate itself."""
    for release in range(min(of, len(asked))):
        scores = {
            who.benchmark.key: unfolded(each[release], (int(asked[release, number]), trial.repeats[1]))
            for number, (who, each) in enumerate(zip(trial.members, counts, strict=True))
        }
        rows = [
            accuracy.from_scores(
                who.benchmark.key,
                *scores[who.benchmark.key],
                trial.policy,
                who.benchmark,
                stopped_of=who.n if len(scores[who.benchmark.key][0]) < who.n else None,
            )
            for who in trial.members
        ]
        cell = accuracy.judge(rows, trial.policy)
        lost = [row.verdict is Verdict.REGRESSED for row in cell.benchmarks]
        if cell.verdict.value != judged.verdicts[release] or lost != judged.lost[release].tolist():
            msg = f"the gate says {cell.verdict} ({lost}), the vectorised rule {judged.verdicts[release]}"
            raise DifferentVerdictError(msg)
        more = _wanted(cell, scores, trial)
        now = dict(zip(scores, asked[release].tolist(), strict=True))
        if list((now | more).values()) != wanted[release].tolist():
            msg = f"the gate asks for {more} of {now}, the vectorised rule for {wanted[release]}"
            raise DifferentVerdictError(msg)


def _wanted(cell: accuracy.Cell, scores: Mapping[str, tuple[Floats, Floats]], trial: Trial) -> dict[str, int]:
    """Repeats in all that the release asks for next."""
    if cell.rule == "benchmark" and not trial.procedure.again:
        return {}
    planned, needs = dict.fromkeys(scores, trial.procedure.repeats), []
    if cell.rule == "undecided" and trial.procedure.more:
        splits = {}
        for row in cell.benchmarks:
            candidate, baseline = (SimulatedSide(row.benchmark, side) for side in scores[row.benchmark])
            splits[row.benchmark] = escalation.noise(Pair(row.benchmark, candidate, baseline), row, None)
        needs = escalation.needs(cell.benchmarks, splits, trial.policy)
    result = GateResult(
        verdict=cell.verdict,
        rule=cell.rule,
        baseline_id="simulated",
        needs=needs,
        hygiene=[],
        benchmarks=cell.benchmarks,
        pooled=cell.pooled,
        reasons=[],
    )
    # Repeats cost no time here.
    return escalation.next_repeats(result, planned, trial.policy, seconds=dict.fromkeys(planned, 0.0), left_s=0.0)
