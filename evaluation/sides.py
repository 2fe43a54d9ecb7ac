"""One benchmark as one evaluation asked it, and the two sides of a comparison.

A verdict on a hundred thousand answers is wanted at once, and reading them from memory is what takes time: so every
answer is read once, and what is compared are columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.statistics import Floats
from flagrelease.records import BenchmarkRun, Evaluation, Item

Indices = NDArray[np.intp]


class Columns(NamedTuple):
    """Fields of the answers, each as a list in the order of the answers."""

    item: list[str]
    repeat: list[int]
    score: list[float]
    prompt: list[str]
    answer: list[str]
    extracted: list[str]
    finish_reason: list[str | None]
    output_tokens: list[int | None]
    cluster: list[str | None]


_PART = 256
"""Answers that are read together: as many as a processor's cache holds, which makes reading three times as fast."""
_benchmark = attrgetter("benchmark")
_fields = attrgetter(*Columns._fields)


class Side:
    """One benchmark as one evaluation asked it."""

    def __init__(self, who: str, run: BenchmarkRun, items: Sequence[Item]) -> None:
        self.who = who
        self.run = run
        self.items: list[Item] = []
        self.columns = Columns(*([] for _ in Columns._fields))
        self._placed: tuple[list[str], Indices] | None = None
        for start in range(0, len(items), _PART):
            self.add(items[start : start + _PART])

    def add(self, items: Sequence[Item]) -> None:
        """Append answers; only before anything else is asked of the side."""
        self.items.extend(items)
        if items:
            columns: tuple[list[Any], ...] = self.columns
            for column, values in zip(columns, zip(*map(_fields, items), strict=True), strict=True):
                column.extend(values)

    @cached_property
    def repeats(self) -> Indices:
        """The repeat of each answer."""
        return np.array(self.columns.repeat, dtype=np.intp)

    @cached_property
    def names(self) -> list[str]:
        """The items, each once, in their order."""
        return list(dict.fromkeys(self.columns.item))

    def places(self, names: list[str]) -> Indices:
        """Of each answer the index of its item in `names`, −1 where it is not there."""
        if self._placed is None or self._placed[0] is not names:
            if self.columns.item == names:
                found = np.arange(len(names), dtype=np.intp)
            else:
                rows = {name: row for row, name in enumerate(names)}
                found = np.array([rows.get(name, -1) for name in self.columns.item], dtype=np.intp)
            # Nearly always asked for the baseline's names, so one result is worth keeping.
            self._placed = (names, found)
        return self._placed[1]

    def answered(self, names: list[str]) -> Indices:
        """How often each repeat of each of `names` was answered, as items × repeats; an empty answer is one."""
        places, repeats = self.places(names), self.repeats
        width = 1 + int(repeats.max(initial=0))
        flat = (places * width + repeats)[places >= 0]
        return np.bincount(flat, minlength=len(names) * width).reshape(len(names), width)

    def scores(self, names: list[str]) -> Floats:
        """Scores as items × repeats, in shares, in the order of `names`; an answer that is not there is a 0."""
        repeats = max(1, self.run.repeats)
        scores = np.zeros((len(names), repeats))
        places = self.places(names)
        known = (places >= 0) & (self.repeats < repeats)
        given = np.array(self.columns.score, dtype=np.float64)
        scores[places[known], self.repeats[known]] = given[known]
        return scores

    def clusters(self, names: list[str]) -> list[str] | None:
        """Of each of `names` what it shares with others, or itself; none where nothing is shared."""
        clusters = self.columns.cluster
        if clusters.count(None) == len(clusters):
            return None
        known = {
            name: cluster for name, cluster in zip(self.columns.item, clusters, strict=True) if cluster is not None
        }
        return [known.get(name, name) for name in names]

    def only(self, names: set[str]) -> Side:
        """The same side with these items alone, as if no others had been asked."""
        items = [item for item, name in zip(self.items, self.columns.item, strict=True) if name in names]
        kept = len(names.intersection(self.columns.item))
        return Side(self.who, self.run.model_copy(update={"items": kept}), items)


class Pair(NamedTuple):
    """One benchmark on both sides."""

    benchmark: str
    candidate: Side
    baseline: Side

    def missing(self) -> set[str]:
        """Items of the baseline for which the candidate lacks an answer to at least one of its repeats."""
        candidate, names = self.candidate, self.baseline.names
        places = candidate.places(names)
        # An empty answer is none: a harness puts it where the server sent no text.
        said = np.array([answer != "" for answer in candidate.columns.answer], dtype=bool) & (places >= 0)
        given = np.zeros((len(names), 1 + int(candidate.repeats.max(initial=0))), dtype=bool)
        given[places[said], candidate.repeats[said]] = True
        return {names[row] for row in np.flatnonzero(given.sum(axis=1) < candidate.run.repeats)}


def sides(who: str, evaluation: Evaluation) -> dict[str, Side]:
    """The benchmarks of an evaluation."""
    found = {run.benchmark: Side(who, run, []) for run in evaluation.benchmarks}
    for start in range(0, len(evaluation.items), _PART):
        for benchmark, items in groupby(evaluation.items[start : start + _PART], key=_benchmark):
            if benchmark in found:
                found[benchmark].add(list(items))
    return found


def pairs(candidate: Evaluation, baseline: Evaluation) -> list[Pair]:
    """The benchmarks that both list; where the candidate was stopped early, with the items it was asked."""
    ours, theirs = sides("candidate", candidate), sides("baseline", baseline)
    found = []
    for name, side in theirs.items():
        if name in ours:
            stopped = ours[name].run.stopped_of is not None
            found.append(Pair(name, ours[name], side.only(set(ours[name].names)) if stopped else side))
    return found
