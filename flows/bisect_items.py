"""What a bisect judges servers by: the canary, or the items that flipped from right to wrong in the release."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from evaluation.again import ask_items
from evaluation.baseline import is_imported
from evaluation.canary_probes import possible
from flagrelease.bisect.judge import allowed_wrong, can_tell
from flagrelease.bisect.records import JudgedBy, Judging
from flagrelease.errors import BisectError
from flagrelease.records import CanaryReference, Evaluation, Item
from flagrelease.settings import Settings
from flagrelease.store.queries import ReleaseView
from flagrelease.store.store import Store
from flagrelease.verdicts import GateResult, Verdict
from flows import serving, stages
from flows.job import Job, required_baseline
from runtime.launch.interface import Log, Server

MOST_ASKED = 200
"""Items that each server is asked, at most: more would take longer than they tell."""
_RIGHT = 0.5
"""Graded answers of at least this score are right."""


class FlippedItems(NamedTuple):
    """Items that the baseline answered rightly whenever it was asked, and the release never."""

    items: dict[str, list[str]]
    """Their hashes, sorted, by benchmark."""
    allowed: float
    """How many of them a good server may answer wrongly."""

    @property
    def judging(self) -> Judging:
        """What the judge has to know of them."""
        return Judging(by=JudgedBy.ITEMS, asked=sum(map(len, self.items.values())), allowed=self.allowed)


class Against(NamedTuple):
    """What servers are held against."""

    baseline_id: str
    reference: CanaryReference | None
    items: FlippedItems | None = None
    """None: the canary judges."""


def choose(store: Store, view: ReleaseView, job: Job, operators: int, log: Log) -> Against:
    """What tells good servers from bad ones, after what the release was found to lack; said in the log.

    Its flipped items, where a benchmark is REGRESSED although no canary failed and they are enough for so many
    `operators`; else the canary. Raises BisectError where neither is to be had.
    """
    identifier, gate = required_baseline(job.cell), view.gate
    baseline = None if is_imported(identifier) else stages.stored_baseline(store, identifier)
    failed = gate is not None and gate.canary is not None and not gate.canary.passed
    found, why = None, f"release {view.id} has no REGRESSED benchmark"
    if failed:
        why = f"it failed in release {view.id}"
    elif gate and view.candidate_id and baseline and gate.baseline_id == identifier:
        candidate = store.evaluation(store.known_evaluation(evaluation=view.candidate_id))
        here = {benchmark.key for benchmark in job.benchmarks}
        found = flipped(gate, candidate, store.evaluation(baseline), here)
        if found and not can_tell(found.judging.asked, operators):
            why = f"the {found.judging.asked} items that release {view.id} lost are too few to tell servers apart"
            found = None
    reference = baseline.canary if baseline else None
    if found:
        judging = found.judging
        log(
            f"bisect: servers are judged by {judging.asked} items that release {view.id} lost, as "
            f"{'its canary passed' if gate and gate.canary else 'it has no canary'}: "
            f"a server may have {judging.allowed:.3g} of them wrong, or as many as servers without operators vary"
        )
        return Against(identifier, reference, found)
    _require_canary(job, identifier, reference)
    log(f"bisect: servers are judged by the canary: {why}")
    return Against(identifier, reference)


def _require_canary(job: Job, identifier: str, reference: CanaryReference | None) -> None:
    if reference is None:
        raise BisectError(
            f"the baseline {identifier} has no texts to read and the release no benchmark that lost items enough, so "
            "nothing tells a good server from a bad one",
            remedy=f"measure one that has: flagrelease baseline run {job.cell.id}",
        )
    if not possible(job.engine.capabilities):
        raise BisectError(
            f"{job.engine.display} gives no log-probabilities and the release has no benchmark that lost items enough, "
            "so nothing tells a good server from a bad one",
            remedy="bisect a release through another engine",
        )


def flipped(gate: GateResult, candidate: Evaluation, baseline: Evaluation, among: Iterable[str]) -> FlippedItems | None:
    """The items that benchmarks `among` these lost which decided that the release is REGRESSED; none: there are none.

    Where answers were repeated, each of the baseline's has to be right and each of the candidate's wrong: an answer
    that comes and goes by itself tells nothing of operators. Of more than MOST_ASKED every benchmark gives its share.
    """
    if gate.verdict is not Verdict.REGRESSED:
        return None
    lost: dict[str, list[str]] = {}
    allowed = 0.0
    ours, theirs = _right(candidate.items), _right(baseline.items)
    for row in gate.benchmarks:
        if row.role != "gated" or row.verdict is not Verdict.REGRESSED or row.benchmark not in set(among):
            continue
        before, now = theirs[row.benchmark], ours[row.benchmark]
        names = sorted(name for name, right in now.items() if not any(right) and all(before.get(name, [False])))
        if names:
            lost[row.benchmark] = names
            allowed += allowed_wrong(len(names), row.n, row.margin_points)
    count = sum(map(len, lost.values()))
    if not count:
        return None
    # Their names are hashes, so that the first of them are as good as drawn.
    asked = {name: items[: max(1, len(items) * MOST_ASKED // max(count, MOST_ASKED))] for name, items in lost.items()}
    return FlippedItems(asked, allowed * sum(map(len, asked.values())) / count)


def _right(items: Iterable[Item]) -> dict[str, dict[str, list[bool]]]:
    """Of each benchmark and item, whether each answer is right."""
    found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        found[item.benchmark][item.item].append(item.score >= _RIGHT)
    return found


def wrong_answers(
    job: Job, server: Server, found: FlippedItems, host: Settings, journals: Path
) -> dict[str, list[str]]:
    """The items that the server answers wrongly, by benchmark; `journals` keeps answers that were given already."""
    answers = ask_items(
        [benchmark for benchmark in job.benchmarks if benchmark.key in found.items],
        found.items,
        serving.endpoint_of(job, server),
        tasks=host.work_path / "tasks",
        journals=journals,
    )
    return {
        name: [answer.item for answer in answers if answer.benchmark == name and answer.score < _RIGHT]
        for name in found.items
    }
