"""Simulated answers of two systems whose truth is known (used by `gate_operating_characteristics`).

Two systems answer the questions of a suite right or wrong. An item is *unsure* (a system answers it rightly half of the
time, anew in each repeat), known or unknown. A share 2ψ of unsure items gives two equal systems the discordance ψ of
the benchmark's file. A loss falls on the unsure answers, which keeps ψ; what is more than they can lose falls on the
known ones. Items are drawn anew for each simulated release, and are independent: ψ, which comes from how much
published scores spread, holds already what items that share a passage add.

The gate asks of right-or-wrong answers only how many items have so many right ones on each side, so that is what is
drawn, for many releases at once: `Counts`. `unfolded` gives the answers back, item by item.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from evaluation.accuracy import margin_points
from evaluation.catalogue import Benchmark, load_benchmarks
from evaluation.sequential import looks, pooled_standard_error_limit
from evaluation.statistics import Floats
from flagrelease.loading import load_matrix
from flagrelease.policy import Policy
from flagrelease.settings import data_path

Ints = NDArray[np.int64]
Counts = NDArray[np.int64]
"""Items of one benchmark: releases × kinds × the candidate's right answers (from 0) × the baseline's."""
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


class Trial(NamedTuple):
    """What is simulated: a suite's gated benchmarks, the policy that holds for it, and how a candidate is asked."""

    members: tuple[Population, ...]
    policy: Policy
    procedure: Procedure

    @property
    def repeats(self) -> tuple[int, int]:
        """Planned ones of (candidate, baseline)."""
        return self.procedure.repeats, self.procedure.baseline or self.procedure.repeats

    @property
    def margins(self) -> Floats:
        """Of each benchmark, as a share."""
        return np.array([margin_points(who.n, self.policy, who.benchmark) / 100 for who in self.members])

    @property
    def largest_error(self) -> float | None:
        """With which a benchmark may be stopped at a look; none where none is."""
        if self.procedure.limit is None or self.policy.early_stop is None:
            return None
        pooled, rule = self.policy.pooled_margin_points / 100, self.policy
        return self.procedure.limit * pooled_standard_error_limit(pooled, len(self.members), rule.alpha, rule.power)


class Kinds(NamedTuple):
    """How each kind of item (unsure, known, unknown) is answered, in shares."""

    share: Floats
    candidate: Floats
    """Chance of a right answer."""
    baseline: Floats


def kinds(who: Population, loss: float, *, sure: bool = False) -> Kinds:
    """The items of a benchmark on which the candidate is worse by `loss`."""
    right = who.score - who.psi
    if not 0 <= right <= 1 - 2 * who.psi:
        msg = f"{who.benchmark.key}: a score of {who.score} does not go with a discordance of {who.psi}"
        raise ValueError(msg)
    if sure:
        kept_unsure = kept_right = 1 - loss / who.score
    else:
        kept_unsure = 1 - min(loss, who.psi) / who.psi
        kept_right = 1 - max(0.0, loss - who.psi) / right
    share = np.array([2 * who.psi, right, 1 - 2 * who.psi - right])
    return Kinds(share, np.array([0.5 * kept_unsure, kept_right, 0.0]), np.array([0.5, 1.0, 0.0]))


def _right(chances: Floats, repeats: int) -> Floats:
    """Of each kind the chance of 0 to `repeats` right answers."""
    found: Floats = scipy.stats.binom.pmf(np.arange(repeats + 1), repeats, chances[:, np.newaxis])
    return found


def parts_of(who: Population, policy: Policy) -> list[int]:
    """Items known at each look; all at once where the benchmark is too small to be stopped."""
    rule = policy.early_stop
    return [who.n] if rule is None or who.n < rule.from_items else looks(who.n, rule.looks)


def draw(
    found: Kinds, sizes: list[int], repeats: tuple[int, int], releases: int, rng: np.random.Generator
) -> list[Counts]:
    """The answers of (candidate, baseline) to `sizes` items, the sizes growing; each part without those before it."""
    ours, theirs = _right(found.candidate, repeats[0]), _right(found.baseline, repeats[1])
    chances = found.share[:, np.newaxis, np.newaxis] * ours[:, :, np.newaxis] * theirs[:, np.newaxis, :]
    shape = (releases, *chances.shape)
    parts = np.diff(sizes, prepend=0)
    return [rng.multinomial(int(n), chances.ravel(), size=releases).reshape(shape) for n in parts]


def ask_again(counts: Counts, found: Kinds, before: int, after: int, rng: np.random.Generator) -> Counts:
    """`counts` of releases whose candidates gave `before` answers to each item, with `after` answers to the same."""
    known, added = counts.shape[2], after - before
    grown = np.zeros((*counts.shape[:2], max(known, after + 1), counts.shape[3]), dtype=np.int64)
    chances = _right(found.candidate, added)
    for kind in range(len(chances)):
        for right in range(before + 1):
            # releases × the baseline's right answers × how many of the added ones are right
            drawn = rng.multinomial(counts[:, kind, right], chances[kind])
            grown[:, kind, right : right + added + 1] += drawn.transpose(0, 2, 1)
    return grown


def unfolded(counts: Ints, repeats: tuple[int, int]) -> tuple[Floats, Floats]:
    """Scores of (candidate, baseline), each items × repeats, from the counts of one release of one benchmark."""
    items = counts.sum(axis=0)
    right = [np.repeat(axis.ravel(), items.ravel()) for axis in np.indices(items.shape)]
    ours, theirs = (
        (np.arange(count) < each[:, np.newaxis]).astype(np.float64) for count, each in zip(repeats, right, strict=True)
    )
    return ours, theirs
