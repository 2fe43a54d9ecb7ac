"""What the gate decides when the truth is known: `python benchmarks/gate_operating_characteristics.py [--quick]`.

Simulates releases (`benchmarks.gate_simulation`) of candidates that are equal, a little worse, worse on one benchmark,
or broken, and has them judged by the gate's rules, with the policy of matrix.yaml, and by the rules that others use. Of
each condition a few releases are judged by the gate itself as well (`benchmarks.gate_check`), which must say the same.
Ends with 1 where a requirement is broken by more than the simulation's own error.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from benchmarks.gate_check import check_stop, check_verdicts
from benchmarks.gate_simulation import Ints, Procedure, Trial, ask_again, draw, kinds, parts_of, populations
from benchmarks.gate_vectorised import OTHERS, find, judge, stop, wanted
from flagrelease.verdicts import Verdict

SUITES = ("text", "vision")
SEED = 20_261_121
RUNS_EQUAL, RUNS, RUNS_OTHER, RUNS_BROKEN = 30_000, 10_000, 4_000, 1_000
"""Simulated releases of a condition: of equal systems (a share of 5 % is then known to 0.3 points), of others of which
something is required (90 % to 0.8 points), of those beside them, and where nearly every one is found."""
QUICK = 20
"""By how much fewer with --quick."""
CHECKED = 3
"""Releases of each condition that the gate itself judges too."""
CONFIDENCE = 0.99

EQUAL, ONE, TWO, FIVE = "equal", "−1 everywhere", "−2 everywhere", "−5 on one"
BROKEN, PART_BROKEN = "−20 everywhere", "−20 on one"
EVERYWHERE = {EQUAL: 0.0, ONE: 0.01, TWO: 0.02, BROKEN: 0.2}
ON_ONE = {FIVE: 0.05, PART_BROKEN: 0.2}

FIXED = tuple(Procedure(f"K = {repeats}", repeats) for repeats in (1, 2, 4))
STOPPED = Procedure("looks", limit=0.5)
STOPPED_SOONER = (Procedure("looks, whole limit", limit=1.0), Procedure("looks, no limit", limit=math.inf))
"""What the limit is for: a benchmark that ends early leaves the pooled mean fewer items."""
CONFIRMED = Procedure("confirmation", again=True)
RELEASED = Procedure("looks, confirmation, repeats", limit=0.5, again=True, more=True)
RELEASED_4 = RELEASED._replace(name="the same, baseline K = 4", baseline=4)
GATES = (*FIXED, STOPPED, CONFIRMED, RELEASED, RELEASED_4)
"""What the requirements hold for."""
SURE = Procedure("K = 1, any right answer", sure=True)

VERDICTS = (Verdict.CONSISTENT, Verdict.INCONCLUSIVE, Verdict.REGRESSED)


class Condition(NamedTuple):
    """What is simulated `runs` times; `hit`: the benchmark that loses, where one does."""

    suite: str
    truth: str
    procedure: Procedure
    runs: int
    hit: str | None = None

    @property
    def name(self) -> str:
        """For people, and the seed."""
        return " / ".join([self.suite, self.truth, *filter(None, [self.hit]), self.procedure.name])


class Outcome(NamedTuple):
    """What came of a condition: releases by verdict, and those that each other rule lets pass."""

    condition: Condition
    verdicts: Mapping[str, int]
    passed: Mapping[str, int]
    asked: float
    """Requests for the candidate, as a share of those of all items in the planned repeats."""
    items: Mapping[str, float]
    """Share of each benchmark's items that were asked."""
    repeats: Mapping[str, float]
    """Mean repeats of each benchmark, at the end."""

    def share(self, verdict: Verdict) -> float:
        """Share of the releases with this verdict."""
        return self.verdicts.get(verdict.value, 0) / self.condition.runs


class Requirement(NamedTuple):
    """A share of releases that must not be above (or below) a bound, with its 99 % interval (Clopper–Pearson)."""

    what: str
    share: float
    low: float
    high: float
    bound: float
    at_most: bool

    @property
    def state(self) -> str:
        """met or broken: the whole interval says so; open: it holds the bound."""
        beyond, within = (self.low, self.high) if self.at_most else (-self.high, -self.low)
        bound = self.bound if self.at_most else -self.bound
        return "broken" if beyond > bound else "met" if within <= bound else "open"


def conditions(suites: Sequence[str]) -> Iterator[Condition]:
    """All that is simulated."""
    for suite in suites:
        first, *others = (who.benchmark.key for who in populations(suite)[0])
        for procedure in GATES:
            yield Condition(suite, EQUAL, procedure, RUNS_EQUAL)
            yield Condition(suite, ONE, procedure, RUNS_OTHER)
            yield Condition(suite, TWO, procedure, RUNS)
            yield Condition(suite, BROKEN, procedure, RUNS_BROKEN)
            yield Condition(suite, FIVE, procedure, RUNS, first)
            yield from (Condition(suite, FIVE, procedure, RUNS_OTHER, name) for name in others)
            yield Condition(suite, PART_BROKEN, procedure, RUNS_BROKEN, first)
        yield from (Condition(suite, truth, p, RUNS_OTHER) for p in STOPPED_SOONER for truth in (EQUAL, ONE))
        yield from (Condition(suite, FIVE, SURE, RUNS_OTHER, name) for name in (first, *others))


def simulate(condition: Condition, checked: int = CHECKED) -> Outcome:
    """Draw and judge the releases of a condition, the first `checked` of them by the gate itself as well."""
    trial, runs = Trial(*populations(condition.suite), condition.procedure), condition.runs
    members, (ours, theirs) = trial.members, trial.repeats
    rng = np.random.default_rng([SEED, *condition.name.encode()])
    truths, counts, shares = [], [], []
    for who in members:
        hit = ON_ONE[condition.truth] if who.benchmark.key == condition.hit else 0.0
        truth = kinds(who, EVERYWHERE.get(condition.truth, hit), sure=trial.procedure.sure)
        sizes = parts_of(who, trial.policy)
        parts = draw(truth, sizes, trial.repeats, runs, rng)
        known, at = stop(parts, who, trial)
        check_stop(parts, at, who, trial, of=checked)
        truths.append(truth)
        # Room for the answers that may be added.
        counts.append(np.pad(known, [(0, 0), (0, 0), (0, most_repeats(trial) - ours), (0, 0)]))
        shares.append(np.array(sizes)[at] / who.n)
    asked: Ints = np.full((runs, len(members)), ours)
    while True:
        found = [find(each, asked[:, number], theirs, trial.policy.alpha) for number, each in enumerate(counts)]
        judged = judge(found, trial)
        after = wanted(judged, asked, trial)
        check_verdicts(judged, after, counts, asked, trial, of=checked)
        if (after == asked).all():
            break
        for number, (truth, each) in enumerate(zip(truths, counts, strict=True)):
            for now, then in sorted(set(zip(asked[:, number].tolist(), after[:, number].tolist(), strict=True))):
                if now < then:
                    these = (asked[:, number] == now) & (after[:, number] == then)
                    each[these] = ask_again(each[these], truth, now, then, rng)
        asked = after
    keys, share, sizes_of = [who.benchmark.key for who in members], np.column_stack(shares), [who.n for who in members]
    return Outcome(
        condition,
        Counter(judged.verdicts.tolist()),
        {name: int(np.logical_and.reduce([rule(each) for each in found]).sum()) for name, rule in OTHERS.items()},
        float((share * asked @ sizes_of).mean() / sum(sizes_of) / ours),
        dict(zip(keys, share.mean(axis=0).tolist(), strict=True)),
        dict(zip(keys, asked.mean(axis=0).tolist(), strict=True)),
    )


def most_repeats(trial: Trial) -> int:
    """Answers of the candidate to an item, at most."""
    planned, rules = trial.procedure.repeats, trial.policy.escalation
    confirmed = 2 * planned if trial.procedure.again else planned
    return max(confirmed, rules.max_repeats) if trial.procedure.more and rules else confirmed


def run_all(wanted_: Sequence[Condition], checked: int) -> list[Outcome]:
    """All conditions, with a line on stderr for each."""
    start, results = time.monotonic(), []
    for number, condition in enumerate(wanted_, start=1):
        results.append(simulate(condition, checked))
        shares = ", ".join(f"{verdict} {100 * results[-1].share(verdict):.1f}" for verdict in VERDICTS)
        said = f"{time.monotonic() - start:4.0f} s  {number}/{len(wanted_)}  {condition.name}: {shares}"
        print(said, file=sys.stderr, flush=True)
    return results


def requirements(results: Sequence[Outcome]) -> list[Requirement]:
    """What is asked of the gate; conditions that only compare are left out."""
    asked = {
        EQUAL: ("equal, REGRESSED", Verdict.REGRESSED, 0.05, True),
        TWO: ("−2 everywhere, CONSISTENT", Verdict.CONSISTENT, 0.01, True),
        FIVE: ("−5 on one, REGRESSED", Verdict.REGRESSED, 0.9, False),
        PART_BROKEN: ("−20 on one, REGRESSED", Verdict.REGRESSED, 0.9, False),
    }
    found = []
    for result in results:
        condition = result.condition
        first = condition.hit in (None, populations(condition.suite)[0][0].benchmark.key)
        if condition.truth in asked and first and condition.procedure in GATES:
            what, verdict, bound, at_most = asked[condition.truth]
            count = result.verdicts.get(verdict.value, 0)
            low, high = scipy.stats.binomtest(count, condition.runs).proportion_ci(CONFIDENCE, "exact")
            name = f"{condition.suite}, {condition.procedure.name}: {what}"
            found.append(Requirement(name, result.share(verdict), float(low), float(high), bound, at_most))
    return found


def report(results: Sequence[Outcome], required: Sequence[Requirement]) -> Iterator[str]:
    """The tables, in Markdown; shares in percent."""
    for suite in dict.fromkeys(found.condition.suite for found in results):
        members, _ = populations(suite)
        sizes = ", ".join(f"{who.benchmark.display} {who.n:,} (ψ {who.psi:g})" for who in members)
        first = members[0].benchmark.key
        yield f"\n## Suite `{suite}`: {sizes}\n"
        yield from _head(["procedure", "truth", "releases", *VERDICTS, *OTHERS, "requests"])
        mine = [found for found in results if found.condition.suite == suite]
        for found in mine:
            condition = found.condition
            if condition.procedure != SURE and condition.hit in (None, first):
                cells = [condition.procedure.name, condition.truth, f"{condition.runs}"]
                cells += [f"{100 * found.share(verdict):.1f}" for verdict in VERDICTS]
                cells += [f"{100 * found.passed.get(name, 0) / condition.runs:.0f}" for name in OTHERS]
                yield f"| {' | '.join(cells)} | {100 * found.asked:.0f} |"
        columns = (*GATES, SURE)
        yield f"\n5 points lost on one benchmark of `{suite}`: REGRESSED\n"
        yield from _head(["benchmark", "n", "ψ", *(procedure.name for procedure in columns)])
        for who in members:
            hits = {
                found.condition.procedure: f"{100 * found.share(Verdict.REGRESSED):.1f}"
                for found in mine
                if found.condition.truth == FIVE and found.condition.hit == who.benchmark.key
            }
            cells = [who.benchmark.display, f"{who.n:,}", f"{who.psi:g}", *(hits.get(p, "") for p in columns)]
            yield f"| {' | '.join(cells)} |"
        yield f"\nItems asked with looks, and repeats at the end, of `{suite}`\n"
        looked = (STOPPED, *STOPPED_SOONER, RELEASED, RELEASED_4)
        kept = [f for f in mine if f.condition.procedure in looked and f.condition.hit is None]
        yield from _head(["procedure", "truth", *(who.benchmark.display for who in members)])
        for found in kept:
            cells = [found.condition.procedure.name, found.condition.truth]
            cells += [
                f"{100 * found.items[who.benchmark.key]:.0f} % × {found.repeats[who.benchmark.key]:.2g}"
                for who in members
            ]
            yield f"| {' | '.join(cells)} |"
    yield "\n## Requirements (99 % interval)\n"
    yield from _head(["requirement", "bound", "found", "interval", ""])
    for one in required:
        sign, interval = "≤" if one.at_most else "≥", f"{100 * one.low:.1f} … {100 * one.high:.1f}"
        yield f"| {one.what} | {sign} {100 * one.bound:g} | {100 * one.share:.1f} | {interval} | {one.state} |"


def _head(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def main() -> None:
    """Simulate, print, and end with 1 where a requirement is broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} times fewer releases")
    parser.add_argument("--times", type=int, default=1, help="so many times more releases")
    parser.add_argument("--checked", type=int, default=CHECKED, help="releases of each condition judged twice")
    parser.add_argument("--json", action="store_true", help="numbers as JSON instead of tables")
    parser.add_argument("--suite", choices=SUITES, help="only this one")
    arguments = parser.parse_args()
    fewer = QUICK if arguments.quick else 1
    suites = [arguments.suite] if arguments.suite else SUITES
    planned = [c._replace(runs=c.runs * arguments.times // fewer) for c in conditions(suites)]
    results = run_all(planned, arguments.checked)
    required = requirements(results)
    if arguments.json:
        found = [
            {"condition": r.condition.name, "runs": r.condition.runs, "verdicts": r.verdicts, "passed": r.passed}
            | {"requests": r.asked, "items": r.items, "repeats": r.repeats}
            for r in results
        ]
        said = [one._asdict() | {"state": one.state} for one in required]
        print(json.dumps({"conditions": found, "requirements": said}, ensure_ascii=False, indent=1))
    else:
        print("\n".join(report(results, required)))
    broken = [one.what for one in required if one.state == "broken"]
    if broken:
        sys.exit(f"broken: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
