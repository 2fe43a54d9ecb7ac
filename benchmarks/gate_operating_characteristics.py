"""What the gate decides when the truth is known: `python benchmarks/gate_operating_characteristics.py [--quick]`.

Simulates releases (`benchmarks.gate_simulation`) of candidates that are equal, a little worse, worse on one benchmark,
or broken, and has them judged by the gate itself, with the policy of matrix.yaml, and by the rules that others use.
Ends with 1 where a requirement is broken by more than the simulation's own error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import scipy

from benchmarks.gate_simulation import Procedure, Release, populations, release
from flagrelease.records import BenchmarkVerdict, Verdict

SUITES = ("text", "vision")
SEED = 20_261_121
CHUNK = 50
"""Releases simulated from one stream of random numbers, so that results do not depend on the number of processes."""
CONFIDENCE = 0.99

EQUAL, ONE, TWO, FIVE = "equal", "−1 everywhere", "−2 everywhere", "−5 on one"
BROKEN, PART_BROKEN = "−20 everywhere", "−20 on one"
EVERYWHERE = {EQUAL: 0.0, ONE: 0.01, TWO: 0.02, BROKEN: 0.2}
ON_ONE = {FIVE: 0.05, PART_BROKEN: 0.2}
RUNS = {EQUAL: 400, ONE: 200, TWO: 200, FIVE: 200, BROKEN: 20, PART_BROKEN: 60}
"""Simulated releases: most where the least error is wanted."""
RUNS_EACH = 100
"""For each other benchmark that may be the one that loses."""
MORE_OF_FIRST = 5
"""How many times as many with one repeat, which is the usual way and takes least time."""
QUICK = 10
"""By how much fewer with --quick."""

FIXED = tuple(Procedure(f"K = {repeats}", repeats) for repeats in (1, 2, 4))
SURE = Procedure("K = 1, any right answer", sure=True)
STOPPED = Procedure("looks", limit=0.5)
STOPPED_LATE = Procedure("looks, whole limit", limit=1.0)
CONFIRMED = Procedure("confirmation", again=True)
RELEASED = Procedure("looks, confirmation, repeats", limit=0.5, again=True, more=True)
RELEASED_4 = RELEASED._replace(name="the same, baseline K = 4", baseline=4)

VERDICTS = (Verdict.CONSISTENT, Verdict.INCONCLUSIVE, Verdict.REGRESSED)
Rule = Callable[[BenchmarkVerdict, tuple[float, float]], bool]
OTHERS: dict[str, Rule] = {
    "5 points": lambda row, _: row.difference >= -0.05,
    "99 %": lambda row, _: row.candidate >= 0.99 * row.baseline,
    "rtol 5 %": lambda row, _: abs(row.difference) <= 0.05 * row.baseline,
    "unpaired z": lambda row, errors: abs(row.difference) < 1.96 * math.hypot(*errors),
}
"""Whether a benchmark passes: FlagRelease's public rule, MLPerf's, a relative tolerance, lm-eval's comparator."""


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


class Found(NamedTuple):
    """What came of a condition: releases by verdict, releases that each other rule lets pass, share of requests."""

    condition: Condition
    verdicts: Mapping[str, int]
    passed: Mapping[str, int]
    asked: float

    def share(self, verdict: Verdict) -> float:
        """Share of the releases with this verdict."""
        return self.verdicts.get(verdict, 0) / self.condition.runs


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
        names = [who.benchmark.key for who in populations(suite)[0]]
        for procedure in (*FIXED, STOPPED, CONFIRMED, RELEASED, RELEASED_4):
            # The last takes most time, and more answers are asked for where little is lost.
            for truth, runs in ((t, RUNS[t]) for t in RUNS if procedure != RELEASED_4 or t in (EQUAL, ONE, FIVE)):
                more = MORE_OF_FIRST if procedure == FIXED[0] else 1
                yield Condition(suite, truth, procedure, more * runs, names[0] if truth in ON_ONE else None)
        yield Condition(suite, EQUAL, STOPPED_LATE, RUNS[ONE])
        yield Condition(suite, ONE, STOPPED_LATE, RUNS[TWO])
        yield from (Condition(suite, FIVE, p, RUNS_EACH, name) for name in names[1:] for p in FIXED[:2])
        yield from (Condition(suite, FIVE, SURE, RUNS_EACH, name) for name in names)


def simulate(condition: Condition, chunk: int, runs: int) -> list[tuple[Release, list[str]]]:
    """Releases, each with the other rules that let it pass."""
    rng = np.random.default_rng([SEED, chunk, *condition.name.encode()])
    if condition.hit:
        losses = {condition.hit: ON_ONE[condition.truth]}
    else:
        members, _ = populations(condition.suite)
        losses = {who.benchmark.key: EVERYWHERE[condition.truth] for who in members}
    found = []
    for _ in range(runs):
        one = release(condition.suite, losses, condition.procedure, rng)
        pairs = list(zip(one.gated, one.errors, strict=True))
        found.append((one, [name for name, rule in OTHERS.items() if all(rule(*pair) for pair in pairs)]))
    return found


def _counts(condition: Condition, chunk: int, runs: int) -> tuple[Counter[str], Counter[str], float]:
    found = simulate(condition, chunk, runs)
    verdicts = Counter(one.verdict.value for one, _ in found)
    return verdicts, Counter(name for _, names in found for name in names), sum(one.asked for one, _ in found)


def run_all(wanted: Sequence[Condition], workers: int) -> list[Found]:
    """All conditions, with a line on stderr for each."""
    start, results = time.monotonic(), []
    with ProcessPoolExecutor(workers) as pool:
        parts = [
            [
                pool.submit(_counts, condition, number, min(CHUNK, condition.runs - number * CHUNK))
                for number in range(-(-condition.runs // CHUNK))
            ]
            for condition in wanted
        ]
        for number, (condition, futures) in enumerate(zip(wanted, parts, strict=True), start=1):
            done = [future.result() for future in futures]
            verdicts = sum((part[0] for part in done), Counter[str]())
            passed = sum((part[1] for part in done), Counter[str]())
            results.append(Found(condition, verdicts, passed, sum(part[2] for part in done) / condition.runs))
            shares = ", ".join(f"{verdict} {100 * results[-1].share(verdict):.1f}" for verdict in VERDICTS)
            said = f"{time.monotonic() - start:4.0f} s  {number}/{len(wanted)}  {condition.name}: {shares}"
            print(said, file=sys.stderr, flush=True)
    return results


def requirements(results: Sequence[Found]) -> list[Requirement]:
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
        if condition.truth in asked and first and condition.procedure not in (STOPPED_LATE, SURE):
            what, verdict, bound, at_most = asked[condition.truth]
            count = result.verdicts.get(verdict, 0)
            low, high = scipy.stats.binomtest(count, condition.runs).proportion_ci(CONFIDENCE, "exact")
            name = f"{condition.suite}, {condition.procedure.name}: {what}"
            found.append(Requirement(name, result.share(verdict), float(low), float(high), bound, at_most))
    return found


def report(results: Sequence[Found], required: Sequence[Requirement]) -> Iterator[str]:
    """The tables, in Markdown; shares in percent."""
    for suite in dict.fromkeys(found.condition.suite for found in results):
        members, _ = populations(suite)
        sizes = ", ".join(f"{who.benchmark.display} {who.n:,} (ψ {who.psi:g})" for who in members)
        first = members[0].benchmark.key
        yield f"\n## Suite `{suite}`: {sizes}\n"
        heads = ["procedure", "truth", "releases", *VERDICTS, *OTHERS, "requests"]
        yield from _head(heads)
        for found in results:
            condition = found.condition
            if condition.suite == suite and condition.procedure != SURE and condition.hit in (None, first):
                cells = [condition.procedure.name, condition.truth, f"{condition.runs}"]
                cells += [f"{100 * found.share(verdict):.1f}" for verdict in VERDICTS]
                cells += [f"{100 * found.passed.get(name, 0) / condition.runs:.0f}" for name in OTHERS]
                yield f"| {' | '.join(cells)} | {100 * found.asked:.0f} |"
        yield f"\n5 points lost on one benchmark of `{suite}`: REGRESSED\n"
        yield from _head(["benchmark", "n", "ψ", *(procedure.name for procedure in (*FIXED[:2], SURE))])
        for who in members:
            hits = {
                found.condition.procedure: found
                for found in results
                if (found.condition.suite, found.condition.truth, found.condition.hit)
                == (suite, FIVE, who.benchmark.key)
            }
            shares = [f"{100 * hits[p].share(Verdict.REGRESSED):.1f}" for p in (*FIXED[:2], SURE)]
            yield f"| {who.benchmark.display} | {who.n:,} | {who.psi:g} | {' | '.join(shares)} |"
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
    parser.add_argument("--json", action="store_true", help="numbers as JSON instead of tables")
    parser.add_argument("--suite", choices=SUITES, help="only this one")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    arguments = parser.parse_args()
    fewer = QUICK if arguments.quick else 1
    results = run_all(
        [c._replace(runs=c.runs // fewer) for c in conditions([arguments.suite] if arguments.suite else SUITES)],
        arguments.workers,
    )
    required = requirements(results)
    if arguments.json:
        found = [
            {
                "condition": r.condition.name,
                "runs": r.condition.runs,
                "verdicts": dict(r.verdicts),
                "passed": dict(r.passed),
            }
            | {"requests": r.asked}
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
