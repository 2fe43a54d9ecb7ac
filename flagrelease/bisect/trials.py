"""Server starts of a bisect: each set of operators once, written down before the next, counted and judged."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Sequence

from flagrelease.bisect.journal import Journal, Trial
from flagrelease.bisect.judge import bound, floor_starts, halvings, step_alpha
from flagrelease.bisect.records import Judging, Measured, Outcome, Purpose, Step

Measure = Callable[[frozenset[str], int], Measured]
"""Start a server without these operators and ask what it is judged by.

The number says which run without just them it is, from 0.

A server that does not start, or dies, is a measurement too. What says nothing of the operators (a taken port, a full
disk) is raised; the bisect then goes on from here when it is called again.
"""
Log = Callable[[str], None]

DIGITS = 3


class Trials:
    """All that was measured of one list of operators; what is in the journal is not measured again."""

    def __init__(
        self, operators: Sequence[str], measure: Measure, journal: Journal, log: Log, judging: Judging
    ) -> None:
        self.operators = operators
        self.judging = judging
        self.alpha = step_alpha(len(operators))
        self.floors: list[float] = []
        self.threshold = 1.0
        self.steps: list[Step] = []
        self._measure = measure
        self._journal = journal
        self._log = log
        self._outcomes: dict[frozenset[str], Step] = {}

    def floor(self) -> list[Step]:
        """Run the stack without any operator as often as there is room for, and take the threshold from these runs.

        Ends at the first that crashes, which leaves no threshold.
        """
        everything = frozenset(self.operators)
        runs = floor_starts(len(self.operators))
        taken: list[Step] = []
        for run in range(runs):
            left = runs - run + halvings(len(self.operators)) + 2
            measured = self._measured((everything, run), Purpose.FLOOR, left)
            outcome = Outcome.CRASHED if measured.statistic is None else Outcome.GOOD
            taken.append(self._note(everything, measured, outcome, Purpose.FLOOR))
            if measured.statistic is None:
                return taken
            self.floors.append(measured.statistic)
        self.threshold = bound(self.judging, self.floors, self.alpha)
        for number, step in enumerate(self.steps):
            if step in taken:
                self.steps[number] = step.model_copy(update={"threshold": self.threshold})
        said = f"{statistics.fmean(self.floors):.{DIGITS}g} times the allowance without any operator"
        self._log(f"bisect: {said}, so a server is bad above {self.threshold:.{DIGITS}g}")
        return taken

    def of(self, removed: Collection[str], purpose: Purpose, left: int) -> Step:
        """What a server without these operators shows; `left`: server starts at most, this one included.

        That is a bound if there is no further culprit.
        """
        key = frozenset(removed)
        if key not in self._outcomes:
            measured = self._measured((key, 0), purpose, left)
            self._note(key, measured, self.judged(measured.statistic), purpose)
        return self._outcomes[key]

    def good(self, removed: Collection[str], purpose: Purpose, left: int) -> bool:
        """Whether a server without these operators is good."""
        return self.of(removed, purpose, left).outcome is Outcome.GOOD

    def judge_again(self, step: Step) -> Step:
        """The step by the threshold that holds now; it replaces the one of the same number."""
        renewed = step.model_copy(update={"outcome": self.judged(step.statistic), "threshold": self.threshold})
        self.steps[step.number - 1] = self._outcomes[frozenset(step.removed)] = renewed
        return renewed

    def judged(self, statistic: float | None) -> Outcome:
        """What a statistic says by the threshold that holds now; none: crashed."""
        if statistic is None:
            return Outcome.CRASHED
        return Outcome.BAD if statistic > self.threshold else Outcome.GOOD

    def contradictions(self) -> list[str]:
        """Where fewer operators were worse than more: the search takes for granted that they are not."""
        judged = self._outcomes.values()
        return [
            f"start {more.number} was {more.outcome}, and start {fewer.number}, with even more operators, was good"
            for fewer in judged
            if fewer.outcome is Outcome.GOOD
            for more in judged
            if more.outcome is not Outcome.GOOD and set(fewer.removed) < set(more.removed)
        ]

    def _measured(self, trial: Trial, purpose: Purpose, left: int) -> Measured:
        known = self._journal.measured.get(trial)
        if known is not None:
            return known
        removed, run = trial
        self._log(
            f"bisect: start {len(self.steps) + 1}, {purpose}: {len(self.operators) - len(removed)} of "
            f"{len(self.operators)} operators run; at most {left} server starts are left unless there are more culprits"
        )
        measured = self._measure(removed, run)
        self._journal.add(trial, measured)
        return measured

    def _note(self, removed: frozenset[str], measured: Measured, outcome: Outcome, purpose: Purpose) -> Step:
        step = Step(
            number=len(self.steps) + 1,
            purpose=purpose,
            removed=sorted(removed),
            outcome=outcome,
            statistic=measured.statistic,
            threshold=self.threshold,
            seconds=measured.seconds,
            error=measured.error,
        )
        self.steps.append(step)
        self._outcomes.setdefault(removed, step)
        if measured.statistic is None or math.isinf(measured.statistic):
            how = (measured.error or "no log-probabilities").partition("\n")[0]
        else:
            how = f"{measured.statistic:.{DIGITS}g} times the allowance"
        self._log(f"bisect: start {step.number}: {outcome} ({how}), {measured.seconds:.0f} s")
        return step
