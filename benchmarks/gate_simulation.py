"""Simulated releases whose truth is known, decided by the gate itself (used by `gate_operating_characteristics`).

Two systems answer the questions of a suite right or wrong. An item is *unsure* (a system answers it rightly half of the
time, anew in each repeat) or sure. A share 2ψ of unsure items gives two equal systems the discordance ψ of the
benchmark's file. A loss falls on the unsure answers, which keeps ψ; what is more than they can lose falls on the sure
ones. Items are drawn anew for each simulated cell, and are independent: ψ, which comes from how much published scores
spread, holds already what items that share a passage add.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from evaluation import accuracy, escalation
from evaluation.catalogue import Benchmark, load_benchmarks
from evaluation.sequential import looks, pooled_standard_error_limit, stop_at_look
from evaluation.sides import Pair, Side
from evaluation.statistics import Floats
from flagrelease.loading import load_matrix
from flagrelease.policy import Policy
from flagrelease.records import BenchmarkRun, BenchmarkVerdict, GateResult, Verdict
from flagrelease.settings import data_path

SUPPOSED_ITEMS = {"livebench": 1000}
"""Where the benchmark's file tells none."""


class Population(NamedTuple):
    """One benchmark and how the baseline answers it. `score` and `psi` are shares."""

    benchmark: Benchmark
    n: int
    psi: float
    score: float


class Procedure(NamedTuple):
    """How a candidate is asked. `limit`: largest SE at a look, as a multiple of `pooled_standard_error_limit`."""

    name: str
    repeats: int = 1
    baseline: int | None = None
    """The baseline's repeats; None: as many."""
    limit: float | None = None
    """None: no early stop."""
    again: bool = False
    """A confirmation of a loss."""
    more: bool = False
    """Repeats where it is undecided."""
    sure: bool = False
    """The loss falls on every right answer alike, so that it adds to ψ."""


@cache
def populations(suite: str) -> tuple[tuple[Population, ...], Policy]:
    """The suite's gated benchmarks with their published mean score, and the policy that holds for it.

    Advisory benchmarks take no part in any verdict, so they are left out.
    """
    matrix, benchmarks = load_matrix(data_path("matrix.yaml")), load_benchmarks()
    keys = matrix.suites[suite]
    published = []
    for cell in matrix.cells:
        if cell.published and matrix.models[cell.model].suite == suite:
            scale = 100 if cell.published.scale == "percent" else 1
            published.append([float(row.baseline) / scale for row in cell.published.rows])
    policy, _ = matrix.policy.of_cell(suite, "any")
    found = []
    for key, score in zip(keys, np.mean(published, axis=0), strict=True):
        known = benchmarks[key]
        n = known.items or SUPPOSED_ITEMS.get(key, 0)
        if known.role == "gated" and n >= policy.min_items:
            assert known.discordance is not None
            found.append(Population(known, n, known.discordance, float(score)))
    return tuple(found), policy


def draw(who: Population, loss: float, rng: np.random.Generator, *, sure: bool = False) -> tuple[Floats, Floats]:
    """New items: the chance of each to be answered rightly by (candidate, baseline), the former `loss` lower in all."""
    unsure = 2 * who.psi
    right = who.score - who.psi
    if not 0 <= right <= 1 - unsure:
        msg = f"{who.benchmark.key}: a score of {who.score} does not go with a discordance of {who.psi}"
        raise ValueError(msg)
    if sure:
        kept_unsure = kept_right = 1 - loss / who.score
    else:
        kept_unsure = 1 - min(loss, who.psi) / who.psi
        kept_right = 1 - max(0.0, loss - who.psi) / right
    kind = rng.random(who.n, dtype=np.float32)
    kinds = [kind < unsure, kind < unsure + right]
    return np.select(kinds, [0.5 * kept_unsure, kept_right], 0.0), np.select(kinds, [0.5, 1.0], 0.0)


def answers(chances: Floats, repeats: int, rng: np.random.Generator) -> Floats:
    """Scores of items that are answered rightly with `chances`, as items × repeats."""
    drawn = rng.random((len(chances), repeats), dtype=np.float32) < chances[:, np.newaxis]
    return drawn.astype(np.float64)


class _SimulatedSide(Side):
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


def stopped_after(ours: Floats, theirs: Floats, benchmark: Benchmark, policy: Policy, limit: float) -> int:
    """Items after which a benchmark is stopped, all where it is not, as `evaluation.run` stops it."""
    n, rule = len(ours), policy.early_stop
    if rule is None or n < rule.from_items:
        return n
    d = np.round(ours.mean(axis=1) - theirs.mean(axis=1), 12)
    margin = accuracy.margin_points(n, policy, benchmark) / 100
    # Stopped with fewer items than decide, a benchmark would take no part in the verdict, however much it lost.
    for look in (size for size in looks(n, rule.looks)[:-1] if size >= policy.min_items):
        if stop_at_look(d[:look], margin=margin, interim_z=rule.z, max_standard_error=limit, alpha=policy.alpha):
            return look
    return n


class Release(NamedTuple):
    """One simulated release. `errors`: of each gated benchmark the standard errors of (candidate, baseline) scores.

    `asked`: requests for the candidate, as a share of those of all items in the planned repeats.
    """

    verdict: Verdict
    gated: list[BenchmarkVerdict]
    errors: list[tuple[float, float]]
    asked: float


def release(suite: str, losses: Mapping[str, float], procedure: Procedure, rng: np.random.Generator) -> Release:
    """One release of a candidate that is worse than the baseline by `losses` (shares, by benchmark)."""
    members, policy = populations(suite)
    limit = pooled_standard_error_limit(policy.pooled_margin_points / 100, len(members), policy.alpha, policy.power)
    asked, chances = {}, {}
    for who in members:
        ours, theirs = draw(who, losses.get(who.benchmark.key, 0.0), rng, sure=procedure.sure)
        candidate = answers(ours, procedure.repeats, rng)
        baseline = answers(theirs, procedure.baseline or procedure.repeats, rng)
        kept = who.n
        if procedure.limit is not None:
            kept = stopped_after(candidate, baseline, who.benchmark, policy, procedure.limit * limit)
        chances[who.benchmark.key] = ours[:kept]
        asked[who.benchmark.key] = (candidate[:kept], baseline[:kept])
    planned = dict.fromkeys(asked, procedure.repeats)
    while True:
        judged = accuracy.judge([_row(who, asked[who.benchmark.key], policy) for who in members], policy)
        wanted = _wanted(judged, asked, planned, procedure, policy) if procedure.again else {}
        if not wanted:
            break
        for key, count in wanted.items():
            known, baseline = asked[key]
            asked[key] = (np.hstack([known, answers(chances[key], count - known.shape[1], rng)]), baseline)
    found = [row for row in judged.benchmarks if row.role == "gated"]
    return Release(
        judged.verdict,
        found,
        [(_error(asked[row.benchmark][0]), _error(asked[row.benchmark][1])) for row in found],
        sum(ours.size for ours, _ in asked.values()) / sum(who.n * procedure.repeats for who in members),
    )


def _row(who: Population, scores: tuple[Floats, Floats], policy: Policy) -> BenchmarkVerdict:
    stopped_of = who.n if len(scores[0]) < who.n else None
    return accuracy.from_scores(who.benchmark.key, *scores, policy, who.benchmark, stopped_of=stopped_of)


def _error(scores: Floats) -> float:
    return float(scores.mean(axis=1).std(ddof=1)) / math.sqrt(len(scores))


def _wanted(
    judged: accuracy.Cell,
    asked: Mapping[str, tuple[Floats, Floats]],
    planned: Mapping[str, int],
    procedure: Procedure,
    policy: Policy,
) -> dict[str, int]:
    """Repeats in all that the release asks for next."""
    needs = []
    if judged.rule == "undecided" and procedure.more:
        splits = {}
        for row in judged.benchmarks:
            candidate, baseline = (_SimulatedSide(row.benchmark, scores) for scores in asked[row.benchmark])
            splits[row.benchmark] = escalation.noise(Pair(row.benchmark, candidate, baseline), row, None)
        needs = escalation.needs(judged.benchmarks, splits, policy)
    result = GateResult(
        verdict=judged.verdict,
        rule=judged.rule,
        baseline_id="simulated",
        needs=needs,
        hygiene=[],
        benchmarks=judged.benchmarks,
        pooled=judged.pooled,
        reasons=[],
    )
    # Repeats cost no time here.
    return escalation.next_repeats(result, planned, policy, seconds=dict.fromkeys(planned, 0.0), left_s=0.0)
