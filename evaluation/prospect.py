"""What the planned benchmarks together can decide, in numbers and in words, and the ways out where they cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evaluation.escalation import MOST_REPEATS
from evaluation.power import Cell, Expected, smallest
from flagrelease.policy import Policy

MOST_TIMES = 1_000
"""More than a thousand times the items is no practical answer."""


class Planned(NamedTuple):
    """A benchmark that will be asked."""

    display: str
    expected: Expected | None
    """None where its size is not known."""
    may_decide: bool
    known: bool
    """Whether ψ is; otherwise `expected` has the least there can be."""
    seconds: float | None
    """For one repeat."""
    lacking: bool
    """Whether the measured baseline has no answers to it."""


class Prospect(NamedTuple):
    """The fields of `planner.PowerPlan` about the cell as a whole."""

    pooled_standard_error: float | None
    chance: float
    repeats: dict[str, int]
    chance_with_repeats: float
    seconds_added: float | None
    unknown: list[str]
    decides: bool | None
    conclusion: str
    ways_out: list[str]


def prospect(planned: Sequence[Planned], policy: Policy, *, cell: str, unpaired: bool, at_most: bool) -> Prospect:
    """Whether an equal system is CONSISTENT with the policy's power, asked as planned or as escalation asks again.

    `unpaired`: the baseline is published scores without items. `at_most`: a ψ is only known to be no smaller.
    """
    deciding = [p for p in planned if p.may_decide]
    rows = [p.expected for p in deciding if p.expected]
    unknown = [p for p in deciding if p.expected is None or (not p.known and p.expected.units >= policy.min_items)]
    whole = Cell(policy, blank=sum(p.expected is None for p in deciding))
    chance = whole.chance(rows)
    rules = policy.escalation
    limit = rules.max_repeats if rules and rules.budget_minutes else 1
    more = rows if chance >= policy.power else whole.escalated(rows, limit)
    repeats = {now.key: now.repeats for now, then in zip(more, rows, strict=True) if now.repeats > then.repeats}
    cost = {p.expected.key: p.seconds for p in deciding if p.expected}
    added = [(repeats[row.key] - row.repeats) * (cost[row.key] or 0) for row in rows if row.key in repeats]
    seconds_added = None if any(cost[key] is None for key in repeats) else sum(added)
    words = _Words(
        planned=planned,
        policy=policy,
        whole=whole,
        rows=rows,
        more=more,
        measure=f"flagrelease baseline run {cell}",
        unknown=[p.display for p in unknown],
        at_most="at most " if at_most or unknown else "",
    )
    chance_with_repeats = whole.chance(more)
    if unpaired or any(p.lacking for p in planned):
        decides, (conclusion, ways) = False, words.no_comparison(unpaired=unpaired)
    elif chance_with_repeats < policy.power:
        decides, (conclusion, ways) = False, words.too_little(chance, chance_with_repeats)
    elif rules and seconds_added and seconds_added > 60 * rules.budget_minutes:
        decides, (conclusion, ways) = False, words.too_long(repeats, seconds_added / 60, rules.budget_minutes)
    elif unknown:
        decides, (conclusion, ways) = None, words.not_known(chance_with_repeats)
    else:
        decides, (conclusion, ways) = True, words.enough(chance, repeats, chance_with_repeats)
    return Prospect(
        pooled_standard_error=whole.standard_error(rows),
        chance=chance,
        repeats=repeats,
        chance_with_repeats=chance_with_repeats,
        seconds_added=seconds_added,
        unknown=[p.display for p in unknown],
        decides=decides,
        conclusion=conclusion,
        ways_out=ways,
    )


@dataclass(frozen=True, kw_only=True)
class _Words:
    """The conclusion and the ways out. `more`: `rows` with the repeats that escalation adds."""

    planned: Sequence[Planned]
    policy: Policy
    whole: Cell
    rows: Sequence[Expected]
    more: Sequence[Expected]
    measure: str
    """The command that measures a baseline."""
    unknown: Sequence[str]
    at_most: str

    @property
    def displays(self) -> dict[str, str]:
        """Names of the benchmarks, by key."""
        return {p.expected.key: p.display for p in self.planned if p.expected}

    def enough(self, chance: float, repeats: dict[str, int], after: float) -> tuple[str, list[str]]:
        """An equal system is cleared often enough."""
        if not repeats:
            return f"decides: an equal system is CONSISTENT with {self._percent(chance)} probability", []
        return (
            f"decides with repeats: an equal system is CONSISTENT with {self._percent(chance)} probability as planned, "
            f"and with {self._percent(after)} after those that escalation adds ({self._listed(repeats)})"
        ), []

    def not_known(self, chance: float) -> tuple[str, list[str]]:
        """Too little is known to say."""
        return (
            f"not known whether it decides: n or ψ of {', '.join(self.unknown)} is not known; at best an equal system "
            f"is CONSISTENT with {100 * chance:.0f} % probability"
        ), [f"measure how much the baseline changes against itself (A/A): {self.measure}"]

    def no_comparison(self, *, unpaired: bool) -> tuple[str, list[str]]:
        """The baseline allows no verdict."""
        if unpaired:
            said = "cannot decide: against published scores without items an equal system is never CONSISTENT"
            return said, [f"measure a baseline on the reference: {self.measure}"]
        lacking = ", ".join(p.display for p in self.planned if p.lacking)
        return (
            f"cannot decide: the verdict will be INVALID, as the baseline has no answers to {lacking}",
            [f"measure a baseline that has them: {self.measure}", f"take them out of the suite: {lacking}"],
        )

    def too_long(self, repeats: dict[str, int], minutes: float, budget: float) -> tuple[str, list[str]]:
        """The repeats do not fit into the budget."""
        return (
            f"cannot decide within the budget: the repeats that it takes ({self._listed(repeats)}) need about "
            f"{minutes:.0f} minutes, and policy.escalation allows {budget:g}",
            [
                f"budget_minutes of {minutes:.0f} or more in policy.escalation, with its reason",
                f"plan the repeats from the start, in the benchmark files: {self._listed(repeats)}",
            ],
        )

    def too_little(self, chance: float, after: float) -> tuple[str, list[str]]:
        """The plan cannot clear an equal system often enough."""
        gated = self.whole.gated(self.more)
        if not gated and not self.whole.blank:
            sizes = ", ".join(f"{self.displays[row.key]} {row.n}" for row in self.rows) or "none is gated"
            said = f"no benchmark has the {self.policy.min_items} items that deciding takes ({sizes})"
        else:
            said = f"an equal system is CONSISTENT with {self._percent(chance)} probability"
            if after > chance:
                most = max(row.repeats for row in gated)
                said += f", and with {self._percent(after)} even after {most} repeats of the candidate"
            said += f"; {self._obstacle(gated)}"
        if self.unknown:
            said += f" (even if {', '.join(self.unknown)}, where n or ψ is not known, added no error)"
        return f"cannot decide: {said}", [self._items(), self._repeats(), self._margin()]

    def _obstacle(self, gated: Sequence[Expected]) -> str:
        alpha, pooled = self.policy.alpha, self.whole.standard_error(gated)
        worst = max(gated, key=lambda row: row.standard_error(alpha), default=None)
        if worst is None or pooled is None:
            return ""
        found = (
            f"the pooled margin of {self.policy.pooled_margin_points:g} points is too narrow for the standard error "
        )
        found += f"of {100 * pooled:.2f} points that is left"
        return found if len(gated) == 1 else f"{found}, most of it from {self.displays[worst.key]}"

    def _short(self) -> set[str]:
        """The benchmarks that more questions help most: those that cannot decide by themselves, else all."""
        unresolved = {row.key for row in self.rows if row.resolution(self.policy) < 1}
        return unresolved or {row.key for row in self.rows}

    def _items(self) -> str:
        short = self._short()

        def enlarged(percent: int) -> list[Expected]:
            return [_scaled(row, percent / 100) if row.key in short else row for row in self.more]

        percent = smallest(101, 100 * MOST_TIMES, lambda percent: self._clears(enlarged(percent)))
        if percent is None:
            return f"more items: not even {MOST_TIMES} times as many would do"
        sizes = [f"{self.displays[row.key]} {row.n:,}" for row in enlarged(percent) if row.key in short]
        return f"more items: {percent / 100:.3g} times as many ({', '.join(sizes)})"

    def _repeats(self) -> str:
        short = self._short()

        def asked(count: int) -> list[Expected]:
            return [
                row._replace(repeats=max(count, row.repeats), baseline_repeats=max(count, row.baseline_repeats))
                if row.key in short
                else row
                for row in self.rows
            ]

        count = smallest(1, MOST_REPEATS, lambda count: self._clears(asked(count)))
        names = ", ".join(self.displays[row.key] for row in self.rows if row.key in short)
        if count is None:
            return f"more repeats: not even {MOST_REPEATS} of {names}, of candidate and baseline, would do"
        return f"more repeats: {count} of {names}, of the candidate and of the baseline (`repeats` in benchmark files)"

    def _margin(self) -> str:
        def enough(tenths: int) -> bool:
            margin = tenths / 10 / 100
            return self._clears([row._replace(margin=max(margin, row.margin)) for row in self.more], margin)

        now = math.ceil(10 * self.policy.pooled_margin_points)
        tenths = smallest(now, 1000, enough)
        if tenths is None:
            return "a wider margin: none would do"
        return f"a wider margin: {tenths / 10:g} points, with its reason in the policy, and not to make a cell pass"

    def _clears(self, rows: Sequence[Expected], pooled_margin: float | None = None) -> bool:
        return self.whole.chance(rows, pooled_margin) >= self.policy.power

    def _percent(self, chance: float) -> str:
        return f"{self.at_most}{100 * chance:.0f} %"

    def _listed(self, repeats: dict[str, int]) -> str:
        return ", ".join(f"{self.displays[key]} {count}" for key, count in repeats.items())


def _scaled(row: Expected, factor: float) -> Expected:
    return row._replace(n=round(row.n * factor), units=round(row.units * factor))
