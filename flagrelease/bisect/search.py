"""The search for the operators whose removal brings a candidate back: delta debugging over the operator list.

Each culprit is isolated by halving the difference between a set whose removal is not enough and one whose removal is:
algorithm *dd* of Zeller and Hildebrandt 2002, *Simplifying and isolating failure-inducing input*, IEEE Transactions
on Software Engineering 28, begun again with the culprits so far removed until their removal is enough (as in Junker
2004, *QuickXplain*, AAAI-04). It costs ⌈log2(n)⌉ server starts a culprit, where *ddmin* of the same paper tries up to
both halves at each size, and with several culprits ever smaller parts, as no half holds them all. What it finds is
then held to the promise of *ddmin* (1-minimality): the model is good without all the culprits, and not good with any
single one of them back. That needs no assumption, such as that fewer operators are never worse.

A server that does not start is not good, and nothing more, so an operator that crashes the server hides no other:
without it, the search goes on for what is still bad. Each culprit also runs as the only operator, which says whether
it is bad, or crashes, by itself. If it does neither, the search looks among the others for those that it is bad
together with.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from flagrelease.bisect.groups import family, grouped, split
from flagrelease.bisect.journal import Journal
from flagrelease.bisect.judge import floor_starts, halvings
from flagrelease.bisect.records import BisectResult, Culprit, JudgedBy, Judging, Outcome, Purpose, Status, Step
from flagrelease.bisect.trials import DIGITS, Log, Measure, Trials
from flagrelease.errors import BisectError

CANARY = Judging(by=JudgedBy.CANARY)
_PASSES = {
    JudgedBy.CANARY: "the canary passes",
    JudgedBy.ITEMS: "no more of the flipped items are wrong than may be",
}
_FAILS = {
    JudgedBy.CANARY: "the canary fails as well",
    JudgedBy.ITEMS: "too many of the flipped items are wrong as well",
}


def bisect(
    operators: Iterable[str],
    measure: Measure,
    journal: Journal,
    log: Log,
    group: Callable[[str], str] = family,
    *,
    judging: Judging = CANARY,
) -> BisectResult:
    """The smallest set found of `operators` whose removal makes the model good, with the evidence.

    `operators` are those that ran; `group` names those that belong together; `judging` is what `measure` asks servers.
    Whatever `measure` raises ends the search, which goes on there when it is called again with the same journal. One
    culprit among n takes at most 2 · log2(n) + 4 server starts. Raises BisectError where there is no operator.
    """
    order, borders = grouped(operators, group)
    if not order:
        raise BisectError(
            "there is no operator to search: the server listed none that ran",
            remedy="see whether the stack was used at all (docs/flagos.md); without operators nothing can be removed",
        )
    trials = Trials(order, measure, journal, log, judging)
    status, reason = _worth_searching(trials)
    culprits = [] if status is not Status.CULPRITS else _explained(trials, _culprits(trials, borders))
    return BisectResult(
        status=status,
        reason=reason if status is not Status.CULPRITS else _said(trials, culprits),
        judging=judging,
        operators=order,
        culprits=culprits,
        steps=trials.steps,
        floors=trials.floors,
        threshold=trials.threshold,
        alpha=trials.alpha,
        contradictions=trials.contradictions(),
    )


def _worth_searching(trials: Trials) -> tuple[Status, str]:
    """Whether the operators make a difference: all of them run, and then none."""
    count = len(trials.operators)
    runs = floor_starts(count)
    whole = trials.of([], Purpose.ALL, 1 + runs + halvings(count) + 2)
    if whole.outcome is Outcome.GOOD:
        return Status.NO_CULPRIT, f"with every operator {_PASSES[trials.judging.by]} ({_times(whole)})"
    floor = trials.floor()
    if floor[-1].outcome is Outcome.CRASHED:
        return Status.NOT_OPERATORS, f"without any operator the server crashes too: {floor[-1].error}"
    whole = trials.judge_again(whole)
    if whole.outcome is not Outcome.GOOD:
        return Status.CULPRITS, ""
    without = statistics.fmean(trials.floors)
    if without > 1:
        return Status.NOT_OPERATORS, (
            f"without any operator {_FAILS[trials.judging.by]} ({without:.{DIGITS}g} times the allowance; with every "
            f"one {_times(whole)}): look at the engine, its settings and the vendor's own kernels"
        )
    return Status.NO_CULPRIT, (
        f"with every operator the model is no farther from the baseline ({_times(whole)}) than runs without any vary "
        f"(up to {trials.threshold:.{DIGITS}g})"
    )


def _culprits(trials: Trials, borders: Sequence[int]) -> list[str]:
    """A 1-minimal set of operators whose removal is enough. The model is bad with all, good without any."""
    order = trials.operators
    found: list[str] = []
    limit = len(order)
    # Removing `found` and the first `limit` operators is known to be enough.
    while not trials.good(found, Purpose.CHECK, _left(1, len(found))):
        low, high = 0, limit
        while high - low > 1:
            middle = split(low, high, borders)
            left = halvings(high - low) + 1
            if trials.good([*found, *order[:middle]], Purpose.HALVING, _left(left, len(found) + 1)):
                high = middle
            else:
                low = middle
        limit = high - 1
        found.append(order[limit])
    return _minimal(trials, found)


def _minimal(trials: Trials, found: list[str]) -> list[str]:
    """`found` without those whose removal is not needed: the last phase of ddmin."""
    for at in range(len(found)):
        rest = [*found[:at], *found[at + 1 :]]
        if trials.good(rest, Purpose.NEEDED, _left(0, len(found)) - at):
            return _minimal(trials, rest)
    return found


def _left(now: int, culprits: int) -> int:
    """Server starts at most: `now` for this culprit, and to check `culprits` in all one by one, put back and alone."""
    return now + (culprits if culprits > 1 else 0) + culprits


def _explained(trials: Trials, found: Sequence[str]) -> list[Culprit]:
    """What each culprit does as the only operator, or which others it takes."""
    return [_explain(trials, operator, found, len(found) - at) for at, operator in enumerate(found)]


def _explain(trials: Trials, operator: str, found: Sequence[str], left: int) -> Culprit:
    def with_only(enabled: Sequence[str], purpose: Purpose, starts: int) -> Step:
        return trials.of([other for other in trials.operators if other not in enabled], purpose, starts)

    alone = shown = with_only([operator], Purpose.ALONE, left)
    others = [other for other in trials.operators if other not in found]
    partners: list[str] = []
    # Together with all `others` it is not good: that is why it is in `found`.
    while shown.outcome is Outcome.GOOD:
        low, high = 0, len(others)
        while high - low > 1:
            middle = (low + high) // 2
            enabled = [operator, *partners, *others[:middle]]
            if with_only(enabled, Purpose.PARTNER, halvings(high - low) + left).outcome is Outcome.GOOD:
                low = middle
            else:
                high = middle
        partners.append(others[high - 1])
        others = others[: high - 1]
        shown = with_only([operator, *partners], Purpose.PARTNER, left)
    return Culprit(
        operator=operator, alone=alone.outcome, partners=partners, statistic=shown.statistic, error=shown.error
    )


def _said(trials: Trials, culprits: Sequence[Culprit]) -> str:
    names = ", ".join(culprit.operator for culprit in culprits)
    words = [f"the model is good without {names}, and not with any of them back" if len(culprits) > 1 else ""]
    if len(culprits) == 1:
        words = [f"the model is good without {names}, and not with it"]
    words += [
        f"{culprit.operator} alone is good, and is bad or crashes together with {', '.join(culprit.partners)}: "
        "the fault may be in any of them"
        for culprit in culprits
        if culprit.partners
    ]
    if trials.contradictions():
        words.append("some starts contradict each other: faults that depend on each other, or that come and go")
    return "; ".join(words)


def _times(step: Step) -> str:
    return f"{step.statistic:.{DIGITS}g} times the allowance" if step.statistic is not None else "crashed"
