"""The consistency gate: is the candidate as good as the baseline, item by item? (docs/gate.md explains it.)

Tiers, each of which only a sound lower one makes worth asking:

* hygiene (here): both runs asked the same of the same model, or the verdict is INVALID;
* tier 0, canary: log-probabilities of the baseline's own text; not written yet;
* tier 1, accuracy (here): paired differences per benchmark and pooled over benchmarks;
* tier 2, speed, and tier 3, fidelity of tool calls: not written yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from evaluation import statistics
from flagrelease.matrix import Policy
from flagrelease.records import (
    BenchmarkRun,
    BenchmarkVerdict,
    Evaluation,
    GateResult,
    HygieneCheck,
    Item,
    PooledVerdict,
    Verdict,
)

POWER = 0.8
"""Probability with which the number of items named for an INCONCLUSIVE finding clears an equal system."""

MAX_LENGTH_SHIFT = 0.10
"""Largest difference in the share of answers cut at the token limit; MLPerf Inference allows as much on lengths."""


class _Side(NamedTuple):
    """One benchmark as one evaluation asked it."""

    who: str
    run: BenchmarkRun
    items: list[Item]


def _sides(who: str, evaluation: Evaluation) -> dict[str, _Side]:
    sides = {run.benchmark: _Side(who, run, []) for run in evaluation.benchmarks}
    for item in evaluation.items:
        if item.benchmark in sides:
            sides[item.benchmark].items.append(item)
    return sides


def _shared(candidate: Evaluation, baseline: Evaluation) -> list[tuple[str, _Side, _Side]]:
    """The benchmarks that both list."""
    ours, theirs = _sides("candidate", candidate), _sides("baseline", baseline)
    return [(name, ours[name], side) for name, side in theirs.items() if name in ours]


def _short(value: object) -> str:
    """A value for a message; hashes are cut to 12 characters."""
    text = str(value) or "unknown"
    return text[:12] if len(text) == 64 else text  # noqa: PLR2004 - a SHA-256 in hex


def _differ(candidate: object, baseline: object) -> str | None:
    """How two settings differ; None where they are equal. Of mappings only the keys that differ are named."""
    if candidate == baseline:
        return None
    if isinstance(candidate, dict) and isinstance(baseline, dict):
        pairs = {key: (candidate.get(key, "unset"), baseline.get(key, "unset")) for key in candidate | baseline}
        return ", ".join(f"{key}: {_differ(ours, theirs)}" for key, (ours, theirs) in pairs.items() if ours != theirs)
    return f"candidate {_short(candidate)}, baseline {_short(baseline)}"


def _missing(candidate: _Side, baseline: _Side) -> set[str]:
    """Items of the baseline for which the candidate lacks an answer to at least one of its repeats."""
    # An empty answer is none: a harness puts it where the server sent no text.
    given = {(answer.item, answer.repeat) for answer in candidate.items if answer.answer}
    answered = Counter(item for item, _ in given)
    return {item.item for item in baseline.items if answered[item.item] < candidate.run.repeats}


def _answer_problems(candidate: _Side, baseline: _Side, policy: Policy) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) for the answers of one benchmark."""
    run, asked = baseline.run, {item.item: item.prompt for item in baseline.items}
    answers = {(item.item, item.repeat) for item in baseline.items}
    if len(asked) != run.items or len(answers) != run.items * run.repeats:
        yield "answer counts", f"the baseline has {len(answers)} answers, not {run.items} items × {run.repeats} repeats"
    for who, own, items in (candidate, baseline):
        if any(item.repeat >= own.repeats for item in items):
            yield "answer counts", f"the {who} has answers beyond its {own.repeats} repeats"
        twice = [key for key, count in Counter((item.item, item.repeat) for item in items).items() if count > 1]
        if twice:
            example = f"item {_short(twice[0][0])}, repeat {twice[0][1]}"
            yield "duplicates", f"{len(twice)} answered more than once in the {who}, such as {example}"
        if not any(item.answer.strip() for item in items):
            yield "empty answers", f"no answer of the {who} says anything"
    unknown = {item.item for item in candidate.items} - asked.keys()
    if unknown:
        yield "unknown items", f"{len(unknown)} that the baseline does not have, such as {_short(min(unknown))}"
    missing = len(_missing(candidate, baseline))
    if asked and missing / len(asked) > policy.max_missing:
        yield "unanswered items", f"{missing} of {len(asked)}, more than {100 * policy.max_missing:g} %"
    both = (*baseline.items, *candidate.items)
    other = {item.item: item.prompt for item in both if asked.get(item.item, item.prompt) != item.prompt}
    if other:
        example = min(other)
        yield "prompts", f"{len(other)} items, such as {_short(example)}: {_differ(other[example], asked[example])}"
    cut = [[i.finish_reason == "length" for i in side.items if i.finish_reason] for side in (candidate, baseline)]
    if all(cut):
        ours, theirs = (sum(known) / len(known) for known in cut)
        # Rounded, so that 80 % against 70 % is 10 points and not a little more.
        if round(abs(ours - theirs), 9) > MAX_LENGTH_SHIFT:
            yield "lengths", f"cut at the token limit: candidate {ours:.1%} of answers, baseline {theirs:.1%}"


def _listing_problems(candidate: Evaluation, baseline: Evaluation, not_run: Collection[str]) -> Iterator[str]:
    """What is wrong with the lists of benchmarks themselves."""
    names = []
    for who, evaluation in (("candidate", candidate), ("baseline", baseline)):
        listed = Counter(run.benchmark for run in evaluation.benchmarks)
        names.append(listed.keys())
        yield from (f"{name} is listed twice in the {who}" for name, count in listed.items() if count > 1)
        stray = sorted({item.benchmark for item in evaluation.items} - listed.keys())
        yield from (f"the {who} has answers of {name}, which it does not list" for name in stray)
    ours, theirs = names
    yield from (f"the candidate did not run {name}" for name in sorted(theirs - ours - set(not_run)))
    yield from (f"the baseline does not have {name}" for name in sorted(ours - theirs))


# Fields that must be the same in both evaluations; the checks are called after them.
_PROVENANCE = ("weights_sha256", "chat_template_sha256", "harness", "harness_version")
_SETTINGS = ("dataset_sha256", "task_sha256", "few_shot", "generation", "api")
_ANSWERS = ("answer counts", "duplicates", "empty answers", "unknown items", "unanswered items", "prompts", "lengths")


def hygiene(
    candidate: Evaluation, baseline: Evaluation, policy: Policy, *, not_run: Collection[str] = ()
) -> list[HygieneCheck]:
    """Whether the runs can be compared at all: one check a condition; `not_run`: benchmarks left out knowingly."""
    problems: dict[str, list[str]] = {name: [] for name in (*_PROVENANCE, "benchmarks", *_SETTINGS, *_ANSWERS)}
    for field in _PROVENANCE:
        known, other = getattr(candidate.provenance, field), getattr(baseline.provenance, field)
        # Two unknowns are not the same thing.
        if not known or known != other:
            problems[field].append(_differ(known, other) or "unknown in both")
    problems["benchmarks"] += _listing_problems(candidate, baseline, not_run)
    for name, ours, theirs in _shared(candidate, baseline):
        settings = [(field, _differ(getattr(ours.run, field), getattr(theirs.run, field))) for field in _SETTINGS]
        for check, problem in (*settings, *_answer_problems(ours, theirs, policy)):
            problems[check] += [f"{name}: {problem}"] if problem is not None else []
    named = [(check.removesuffix("_sha256").replace("_", " "), found) for check, found in problems.items()]
    return [HygieneCheck(name=name, passed=not p, detail="; ".join(p) or "in order") for name, p in named]


def _scores(side: _Side, rows: Mapping[str, int]) -> statistics.Floats:
    """Scores as items × repeats, in shares; an answer that is not there is a 0."""
    repeats = max(1, side.run.repeats)
    scores = np.zeros((len(rows), repeats))
    for item in side.items:
        if item.item in rows and item.repeat < repeats:
            scores[rows[item.item], item.repeat] = item.score
    return scores


def _compare(display: str, candidate: _Side, baseline: _Side, policy: Policy) -> BenchmarkVerdict:
    """The numbers of one benchmark; its verdict is INVALID until it is judged."""
    rows = {item: row for row, item in enumerate(dict.fromkeys(item.item for item in baseline.items))}
    ours, theirs = _scores(candidate, rows), _scores(baseline, rows)
    # Rounded, so that the same graded scores in another order are no difference.
    d = np.round(ours.mean(axis=1) - theirs.mean(axis=1), 12)
    binary = all(scores.shape[1] == 1 and np.isin(scores, (0, 1)).all() for scores in (ours, theirs))
    p_value = statistics.loss_p_value(d, binary_single_repeat=binary)
    points = policy.margin_points if d.size >= policy.large_n else policy.margin_points_small
    found = statistics.allow_for_unseen(statistics.paired_difference(d, policy.alpha), policy.alpha)
    n, mean, standard_error, lower, upper = found
    return BenchmarkVerdict(
        benchmark=baseline.run.benchmark,
        display=display,
        role="gated" if n >= policy.min_items else "advisory",
        verdict=Verdict.INVALID,
        n=n,
        repeats=ours.shape[1],
        baseline=float(theirs.mean()),
        candidate=float(ours.mean()),
        difference=mean,
        standard_error=standard_error,
        lower=lower,
        upper=upper,
        margin_points=points,
        p_value=p_value,
        p_adjusted=p_value,
        lost=int((d < 0).sum()),
        won=int((d > 0).sum()),
        missing=len(_missing(candidate, baseline)),
        different=upper > points / 100 and lower > 0,
        reason="not judged, as the two runs are not comparable",
    )


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def _enough(discordance: float, n: int, margin_points: float, policy: Policy) -> str:
    """What would decide an INCONCLUSIVE finding."""
    needed = statistics.required_items(discordance, margin_points / 100, policy.alpha, POWER)
    if needed > n:
        return f"to clear an equal system takes about {needed} items at this rate of changed answers, here are {n}"
    return f"{n} items suffice to clear an equal system, so the observed loss is the obstacle"


def _judge(b: BenchmarkVerdict, p_adjusted: float, policy: Policy) -> BenchmarkVerdict:
    """`b` with its verdict, and why in one sentence."""
    interval = f"{100 * (1 - 2 * policy.alpha):g} % interval {_points(b.lower)} to {_points(b.upper)}"
    margin, p = f"{b.margin_points:g} points", f"p = {p_adjusted:.2g}"
    if b.lower > -b.margin_points / 100:
        verdict, what = Verdict.CONSISTENT, f"a loss of {margin} is excluded"
    elif p_adjusted < policy.alpha:
        verdict, what = Verdict.REGRESSED, f"a loss is shown ({p}), and one of {margin} is not excluded"
    else:
        # The mean square of the differences, from their mean and standard error.
        discordance = max(1, b.n - 1) * b.standard_error**2 + b.difference**2
        enough = _enough(discordance, b.n, b.margin_points, policy)
        verdict, what = Verdict.INCONCLUSIVE, f"a loss of {margin} is neither excluded nor shown ({p}); {enough}"
    note = "" if b.role == "gated" else f"; advisory only, as it has fewer than {policy.min_items} items"
    reason = f"{_points(b.difference)} points ({interval}, {b.n} items): {what}{note}"
    return b.model_copy(update={"verdict": verdict, "p_adjusted": p_adjusted, "reason": reason})


def _pool(gated: list[BenchmarkVerdict], policy: Policy, suite: str) -> tuple[PooledVerdict, str]:
    """The mean over the gated benchmarks, and what it says in one sentence."""
    means, errors = [b.difference for b in gated], [b.standard_error for b in gated]
    mean, se, lower = statistics.pooled_difference(means, errors, policy.alpha)
    margin = policy.pooled_margin(suite)
    passed = lower > -margin / 100
    pooled = PooledVerdict(difference=mean, standard_error=se, lower=lower, margin_points=margin, non_inferior=passed)
    bound = f"{100 * (1 - policy.alpha):g} % bound {_points(lower)}"
    found = f"mean over the gated benchmarks {_points(mean)} points, {bound}"
    if passed:
        return pooled, f"{found}: a loss of {margin:g} points is excluded"
    items = sum(b.n for b in gated)
    # items · SE² is the discordance at which one benchmark of as many items has this standard error.
    enough = _enough(items * se**2, items, margin, policy)
    return pooled, f"{found}: a loss of {margin:g} points is not excluded; {enough}"


def _cell(
    found: list[BenchmarkVerdict], policy: Policy, suite: str
) -> tuple[Verdict, list[BenchmarkVerdict], PooledVerdict | None, list[str]]:
    """Verdict, judged benchmarks, pooled mean and reasons of a cell whose comparison is sound."""
    gated = [b for b in found if b.role == "gated"]
    if not gated:
        sizes = ", ".join(f"{b.display} {b.n}" for b in found) or "none was compared"
        reason = f"no benchmark has the {policy.min_items} items that deciding takes ({sizes})"
        return Verdict.INCONCLUSIVE, [_judge(b, b.p_value, policy) for b in found], None, [reason]
    adjusted = dict(zip([b.benchmark for b in gated], statistics.holm([b.p_value for b in gated]), strict=True))
    found = [_judge(b, float(adjusted.get(b.benchmark, b.p_value)), policy) for b in found]
    pooled, reason = _pool(gated, policy, suite)
    judged = [(b.verdict, f"{b.display}: {b.reason}") for b in found if b.role == "gated"]
    if regressed := [sentence for verdict, sentence in judged if verdict is Verdict.REGRESSED]:
        return Verdict.REGRESSED, found, pooled, regressed
    undecided = [sentence for verdict, sentence in judged if verdict is Verdict.INCONCLUSIVE]
    return Verdict.CONSISTENT if pooled.non_inferior else Verdict.INCONCLUSIVE, found, pooled, [reason, *undecided]


def decide(
    candidate: Evaluation,
    baseline: Evaluation,
    *,
    baseline_id: str,
    policy: Policy,
    suite: str,
    displays: Mapping[str, str],
    not_run: Collection[str] = (),
) -> GateResult:
    """The verdict on a cell: hygiene, then accuracy per benchmark and pooled over the gated ones.

    Per benchmark: CONSISTENT if the lower bound of the difference lies above −margin; REGRESSED if it does not and the
    one-sided p-value of a loss, Holm-adjusted over the gated benchmarks, is below alpha; else INCONCLUSIVE. A cell is
    INVALID if a hygiene check fails, REGRESSED if a gated benchmark is, CONSISTENT if the pooled mean is non-inferior,
    else INCONCLUSIVE.

    A benchmark is flagged `different` if the upper bound exceeds the margin and the lower bound exceeds 0: without the
    second condition every interval that is wide for want of items would be flagged as a gain.
    """
    checks = hygiene(candidate, baseline, policy, not_run=not_run)
    reasons = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    shared = [pair for pair in _shared(candidate, baseline) if pair[2].items]
    found = [_compare(displays.get(name, name), ours, theirs, policy) for name, ours, theirs in shared]
    verdict, pooled = Verdict.INVALID, None
    if not reasons:
        verdict, found, pooled, reasons = _cell(found, policy, suite)
    reasons += [
        f"{b.display} decides nothing, yet note: {b.reason}"
        for b in found
        if b.role == "advisory" and b.verdict is Verdict.REGRESSED
    ]
    reasons += [f"{b.display}: a gain beyond the margin; compare prompts and limits" for b in found if b.different]
    left_out = sorted({run.benchmark for run in baseline.benchmarks} - {run.benchmark for run in candidate.benchmarks})
    if left_out:
        reasons.append(f"not compared, as they were not run: {', '.join(displays.get(n, n) for n in left_out)}")
    return GateResult(
        verdict=verdict, baseline_id=baseline_id, hygiene=checks, benchmarks=found, pooled=pooled, reasons=reasons
    )
