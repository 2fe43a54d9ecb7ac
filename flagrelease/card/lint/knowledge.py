"""What a card is checked against: chips, models, benchmarks, and the tables of other cards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from flagrelease.card.data import Card
from flagrelease.card.facts import MetricRow, facts
from flagrelease.card.lint.model_names import stem
from flagrelease.card.lint.scores import Pair, plain_metric, scores
from flagrelease.card.names import card_names, chip_key
from flagrelease.chip import Chip
from flagrelease.loading import resolve_all
from flagrelease.matrix import Licence, Matrix, Model


class KnownBenchmark(Protocol):
    """A benchmark as the catalogue has it."""

    @property
    def key(self) -> str:
        """Its key in the catalogue."""

    @property
    def display(self) -> str:
        """Its name in tables."""

    @property
    def aliases(self) -> list[str]:
        """Other names found on cards."""

    @property
    def items(self) -> int | None:
        """Number of its questions; none: not fixed."""

    @property
    def scale(self) -> str:
        """`right_or_wrong`, or `graded`."""


class PublishedTable(NamedTuple):
    """The scores of another card."""

    source: str
    model: str
    """Stem of the model's name."""
    reference: str
    """What of the baseline column's name is not the model: `h100cuda`."""
    pairs: dict[str, Pair]
    """By the benchmark's key, or its plain name where it is not in the catalogue."""


class KnownLicence(NamedTuple):
    """The licence of a family of models, in the words that a right licence line holds one of."""

    family: str
    words: tuple[str, ...]
    name: str


# Of families whose published cards name another licence than the model's own repository does.
_LICENCES = (
    KnownLicence(r"gemma-[123]", ("gemma",), "the Gemma Terms of Use"),
    KnownLicence(r"grok-2", ("grok",), "the Grok 2 Community License"),
    KnownLicence(r"deepseek-(?:r1|v3\.[12])", ("mit",), "MIT"),
    KnownLicence(r"kimi-k2", ("modifiedmit",), "a modified MIT licence"),
)


@dataclass(frozen=True)
class Knowledge:
    """All that a card is checked against besides itself."""

    chips: Mapping[str, Chip]
    models: Mapping[str, Model]
    benchmarks: Mapping[str, KnownBenchmark]
    suites: Mapping[str, list[str]]
    published: tuple[PublishedTable, ...] = ()

    @cached_property
    def _chip_words(self) -> dict[str, str | None]:
        return {}

    def chip_of(self, word: str) -> str | None:
        """Key of the chip that a word of a name means."""
        if word not in self._chip_words:
            self._chip_words[word] = chip_key(word, self.chips)
        return self._chip_words[word]

    @cached_property
    def _benchmark_names(self) -> dict[str, KnownBenchmark]:
        return {
            plain_metric(name): benchmark
            for benchmark in self.benchmarks.values()
            for name in (*benchmark.aliases, benchmark.display, benchmark.key)
        }

    def benchmark(self, metric: str) -> KnownBenchmark | None:
        """The benchmark that a name in a results table means."""
        return self._benchmark_names.get(plain_metric(metric))

    def metric_key(self, metric: str) -> str:
        """What a benchmark is known by across cards: its key, or its plain name where the catalogue lacks it."""
        known = self.benchmark(metric)
        return known.key if known else plain_metric(metric)

    def stem(self, name: str) -> str:
        """The model's part of a name."""
        return stem(name, self.chip_of)

    def licence(self, model_key: str | None, name: str) -> KnownLicence | None:
        """The real licence of a model: as the matrix has it, else as its family's; none where neither is known."""
        if model_key is not None:
            licence = self.models[model_key].licence
            return KnownLicence(model_key, (licence_words(_licence_name(licence)),), _licence_name(licence))
        found = (known for known in _LICENCES if re.match(known.family, name))
        return next(found, None)


def licence_words(text: str) -> str:
    """A licence's name for comparison: `apache2.0`, `Apache License 2.0` and `Apache-2.0` are one."""
    plain = re.sub(r"licen[cs]e|terms of use|version|the|[^a-z0-9]", "", text.casefold())
    return "apache" if "apache" in plain else plain


def reference_of(column: str, model: str) -> str:
    """What of a baseline column's name is not the model: `h100cuda`."""
    plain = re.sub(r"[^a-z0-9]", "", column.casefold())
    return plain.removeprefix(re.sub(r"[^a-z0-9]", "", model))


def knowledge(
    matrix: Matrix,
    chips: Mapping[str, Chip],
    benchmarks: Mapping[str, KnownBenchmark],
    cards: Iterable[Card] = (),
) -> Knowledge:
    """What the matrix, the chip files, the catalogue and other cards say; `cards` are those that were imported."""
    bare = Knowledge(chips, matrix.models, benchmarks, matrix.suites)
    tables = (*_of_matrix(bare, matrix), *_of_cards(bare, cards))
    return Knowledge(chips, matrix.models, benchmarks, matrix.suites, tables)


def _of_matrix(known: Knowledge, matrix: Matrix) -> Iterator[PublishedTable]:
    for cell in resolve_all(matrix, known.chips):
        published = cell.cell.published
        if published:
            rows = [MetricRow(**row.model_dump()) for row in published.rows]
            model = known.stem(cell.model.display)
            reference = reference_of(card_names(cell).baseline_column, model)
            yield PublishedTable(published.source, model, reference, _pairs(known, rows))


def _of_cards(known: Knowledge, cards: Iterable[Card]) -> Iterator[PublishedTable]:
    for card in cards:
        said = facts(card, known.models, known.chips)
        name = said.release_name or said.candidate_column
        if name and said.metrics:
            model = known.stem(name)
            reference = reference_of(said.baseline_column or "", model)
            yield PublishedTable(card.origin.source or name, model, reference, _pairs(known, said.metrics))


def _pairs(known: Knowledge, rows: list[MetricRow]) -> dict[str, Pair]:
    return {known.metric_key(pair.metric): pair for pair in scores(rows).pairs}


def _licence_name(licence: Licence) -> str:
    return licence.name if licence.spdx == "other" and licence.name else licence.spdx
