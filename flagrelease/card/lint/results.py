"""Rules on the results table: numbers that cannot be right, or that nobody can check."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from flagrelease.card.data import Block
from flagrelease.card.lint.findings import Edit, Hit, Rule, Severity, listed
from flagrelease.card.lint.scores import Pair, plain_metric
from flagrelease.card.lint.subject import Subject, heading_block

_UNLIKELY, _IMPOSSIBLE = 4.0, 10.0
_POINTS = 0.1
_FACTOR, _FEW_ITEMS = 5.0, 100
_NEAR_NOTHING = 0.02
_FITTING = 1000

_MISPRINTED = re.compile(r"MMLU(?=[-_ ]?Pro[-_ ]?(?:standard|vision))", re.IGNORECASE)
_COUNT_HEADER = re.compile(r"(?i)n|n\s*[×x]\s*repeats|(?:number of )?(?:questions|items|samples)|题数|样本数|题目数")
_COUNT = re.compile(r"(?i)\b\d[\d,]{0,12}\s+(?:questions|items|samples)\b|\bn\s*=\s*\d|\d+\s*道?题")


def _no_results(subject: Subject) -> Iterator[Hit]:
    if not subject.scores.pairs and not subject.scores.off_scale:
        results = {Block.EVALUATION, Block.RESULTS}
        line = next((index + 1 for index, text in subject.prose if heading_block(text) in results), None)
        yield Hit("results", "no benchmark has both a baseline and a candidate score", line)


def _jump(subject: Subject) -> Iterator[Hit]:
    for pair in subject.scores.pairs:
        found = subject.knowledge.benchmark(pair.metric)
        n = found.items if found else None
        z, points = _z(pair, n), 100 * (pair.candidate - pair.baseline)
        low, high = sorted((pair.baseline, pair.candidate))
        cause = None
        if z is not None and abs(z) >= _IMPOSSIBLE:
            cause = f"{points:+.1f} points are {abs(z):.0f} standard errors of {n} questions"
        elif z is None and abs(points) > 100 * _POINTS:
            cause = f"{points:+.1f} points"
        elif low * _FACTOR < high and high >= _NEAR_NOTHING / 2 and (n is None or n >= _FEW_ITEMS):
            cause = f"one score is {high / low:.0f} times the other" if low else "one score is 0, the other is not"
        if cause:
            yield Hit("results table", f"{pair.metric}: {cause}", subject.row_line(pair.metric))


def _unlikely(subject: Subject) -> Iterator[Hit]:
    judged = []
    for pair in subject.scores.pairs:
        found = subject.knowledge.benchmark(pair.metric)
        z = _z(pair, found.items if found else None)
        if z is None:
            continue
        judged.append((pair, z))
        if _UNLIKELY <= abs(z) < _IMPOSSIBLE:
            points = 100 * (pair.candidate - pair.baseline)
            cause = f"{pair.metric}: {points:+.1f} points are {abs(z):.1f} standard errors"
            yield Hit("results table", cause, subject.row_line(pair.metric))
    values = [z for _, z in judged if abs(z) < _UNLIKELY]
    together = sum(values) / math.sqrt(len(values)) if values else 0
    if len(values) > 2 and abs(together) >= _UNLIKELY and len({z > 0 for z in values}) == 1:  # noqa: PLR2004
        way = "up" if together > 0 else "down"
        cause = f"all {len(values)} rows moved {way}, together {abs(together):.1f} standard errors"
        yield Hit("results table", cause, subject.row_line(judged[0][0].metric))


def _near_nothing(subject: Subject) -> Iterator[Hit]:
    for pair in subject.scores.pairs:
        found = subject.knowledge.benchmark(pair.metric)
        enough = found is not None and (found.items or _FEW_ITEMS) >= _FEW_ITEMS
        if enough and pair.baseline < _NEAR_NOTHING and not subject.measured:
            cause = f"{pair.metric}: the baseline has {100 * pair.baseline:.2f} % right"
            yield Hit("results table", cause, subject.row_line(pair.metric))


def _mixed(subject: Subject) -> Iterator[Hit]:
    odd = subject.scores.off_scale
    if odd:
        scale = "percent" if subject.scores.percent else "shares of 1"
        rows = listed([row.metric for row in odd])
        yield Hit("results table", f"the table prints {scale}, but not in {rows}", subject.row_line(odd[0].metric))


def _mislabelled(subject: Subject) -> Iterator[Hit]:
    vision = set(subject.knowledge.suites.get("vision", ()))
    rows = subject.facts.metrics
    misprints = [row.metric for row in rows if _MISPRINTED.match(row.metric)]
    others = [subject.knowledge.metric_key(row.metric) for row in rows if row.metric not in misprints]
    if not any(key in vision for key in others):
        return
    for metric in misprints:
        right = _MISPRINTED.sub("MMMU", metric)
        line = subject.row_line(metric)
        text = subject.lines[line - 1] if line else ""
        edit = Edit(line=line, removed=1, lines=[text.replace(metric, right, 1)]) if line else None
        yield Hit("results table", f"`{metric}` in a table of vision benchmarks is `{right}`", line, edit)


def _twice(subject: Subject) -> Iterator[Hit]:
    names = [plain_metric(row.metric) for row in subject.facts.metrics]
    for index, row in enumerate(subject.facts.metrics):
        if names[index] and names[index] in names[:index]:
            yield Hit("results table", f"`{row.metric}` stands there twice", subject.row_line(row.metric))


def _no_count(subject: Subject) -> Iterator[Hit]:
    if subject.scores.pairs and not _count_stated(subject):
        yield Hit("results table", "how many questions were asked is not said", subject.row_line(_first(subject)))


def _does_not_fit(subject: Subject) -> Iterator[Hit]:
    if _count_stated(subject):
        return
    odd = []
    for row in subject.scores.rows:
        found = subject.knowledge.benchmark(row.metric)
        if found is None or found.items is None or found.items > _FITTING or found.scale != "right_or_wrong":
            continue
        scale = 100 if subject.scores.percent else 1
        scores = [each for each in (row.baseline, row.candidate) if each and row not in subject.scores.off_scale]
        for each in scores:
            step, share = 10.0**-each.decimals / scale, each.value / scale
            if abs(round(share * found.items) / found.items - share) > step * 1.001:
                odd.append(f"{row.metric} {each.value:g} of {found.items}")
    if odd:
        yield Hit("results table", f"no number of right answers gives {listed(odd)}", subject.row_line(_first(subject)))


def _first(subject: Subject) -> str:
    return subject.scores.rows[0].metric


def _count_stated(subject: Subject) -> bool:
    """Whether number of questions stands beside the scores: as a column, or in words in the same part of the card."""
    for content in subject.card.contents(Block.RESULTS, Block.EVALUATION, Block.VERIFICATION):
        if content.kind == "table" and any(_COUNT_HEADER.fullmatch(cell.strip()) for cell in content.header):
            return True
    within = False
    for _, text in subject.prose:
        if text.startswith("#"):
            block = heading_block(text)
            within = block in {Block.RESULTS, Block.EVALUATION, Block.VERIFICATION} or (
                within and not text.startswith("# ")
            )
        elif within and _COUNT.search(text):
            return True
    return False


def _z(pair: Pair, n: int | None) -> float | None:
    """Difference in standard errors of two independent runs; none where the number of questions is not known.

    A graded answer varies less than one that is right or wrong with the same mean (Bhatia and Davis 2000, American
    Mathematical Monthly 107), and paired answers less than independent ones, so the true figure is larger.
    """
    if n is None:
        return None
    variance = sum(share * (1 - share) for share in (pair.baseline, pair.candidate)) / n
    if variance <= 0:
        return 0.0 if pair.equal else math.copysign(math.inf, pair.candidate - pair.baseline)
    return (pair.candidate - pair.baseline) / math.sqrt(variance)


RULES = (
    Rule(
        "no-results",
        Severity.WARNING,
        "no benchmark has both a baseline and a candidate score",
        "measure the release, and print both scores",
        _no_results,
    ),
    Rule(
        "implausible-jump",
        Severity.ERROR,
        "a score moved by ten standard errors (ten points, where the questions are not counted), or to a fifth",
        "measure the baseline again: it was served or scored otherwise than the candidate",
        _jump,
    ),
    Rule(
        "unexplained-difference",
        Severity.WARNING,
        "a score, or all of them together, moved by four to ten standard errors",
        "look at the answers that changed; say on the card that the scores differ",
        _unlikely,
    ),
    Rule(
        "score-near-nothing",
        Severity.WARNING,
        "a baseline has less than 2 % right on a hundred questions or more",
        "check that answers were read as the benchmark wants them",
        _near_nothing,
    ),
    Rule(
        "mixed-scales",
        Severity.ERROR,
        "percent and shares of 1 stand in one table, or a score is above the most there is",
        "print all scores in percent",
        _mixed,
    ),
    Rule(
        "mislabelled-benchmark",
        Severity.ERROR,
        "a benchmark has the name of another one (MMLU_Pro_vision for MMMU_Pro_vision)",
        "print the benchmark's own name",
        _mislabelled,
    ),
    Rule(
        "benchmark-twice",
        Severity.WARNING,
        "a benchmark stands in the table twice",
        "print one row a benchmark",
        _twice,
    ),
    Rule(
        "missing-n",
        Severity.WARNING,
        "the card does not say how many questions were asked",
        "print the number of questions and repeats beside the scores",
        _no_count,
    ),
    Rule(
        "score-does-not-fit",
        Severity.NOTE,
        "no number of right answers out of the benchmark's questions gives the score",
        "say how many questions were asked, and how often",
        _does_not_fit,
    ),
)
