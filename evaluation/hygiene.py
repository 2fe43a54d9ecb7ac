"""Tier −1 of the gate: whether two runs can be compared at all (docs/gate.md lists the checks).

Two kinds of check. One that says that not the same was asked makes the verdict INVALID. One that says that the answers
look unlike the baseline's (cut, longer, without an extractable answer) forbids CONSISTENT but hides no loss: a damaged
model fails it as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from evaluation.floors import excess_p_value
from evaluation.ratios import Ratio, log_length_shift
from evaluation.sides import Pair, Side, pairs
from evaluation.statistics import Floats, holm
from flagrelease.policy import Policy
from flagrelease.records import Degree, Evaluation, OperatorEvidence
from flagrelease.verdicts import HygieneCheck

# Fields that must be the same in both evaluations; the checks are called after them.
_PROVENANCE = ("weights_sha256", "chat_template_sha256", "tokenizer_sha256")
_SETTINGS = ("harness", "dataset_sha256", "task_sha256", "few_shot", "generation", "api")
_ANSWERS = ("answer counts", "duplicates", "empty answers", "unknown items", "unanswered items", "prompts")

_OPERATORS_SHOWN = 10

LOOKS_UNLIKE = ("cut answers", "answer lengths", "extraction")
"""Checks of the second kind."""


def hygiene(
    candidate: Evaluation,
    baseline: Evaluation,
    policy: Policy,
    *,
    not_run: Collection[str] = (),
    shared: Sequence[Pair] | None = None,
) -> list[HygieneCheck]:
    """One check a condition, in a fixed order.

    `not_run`: benchmarks left out knowingly. `shared`: their `pairs`, where the caller has use for them as well.
    """
    checks = ("benchmarks", "harness version", *_SETTINGS, *_ANSWERS, *LOOKS_UNLIKE)
    problems: dict[str, list[str]] = {name: [] for name in checks}
    problems["benchmarks"] += _listing_problems(candidate, baseline, not_run)
    shared = pairs(candidate, baseline) if shared is None else shared
    for harness in sorted({pair.baseline.run.harness for pair in shared}):
        version, other = (side.provenance.harnesses.get(harness) for side in (candidate, baseline))
        if not version or version != other:
            problems["harness version"].append(f"{harness}: {differ(version, other) or 'unknown in both'}")
    for pair in shared:
        settings = [
            (name, differ(getattr(pair.candidate.run, name), getattr(pair.baseline.run, name))) for name in _SETTINGS
        ]
        for check, problem in (*settings, *_answer_problems(pair, policy), *_length_problems(pair, policy)):
            problems[check] += [f"{pair.benchmark}: {problem}"] if problem is not None else []
    problems["extraction"] += _extraction_problems(shared, policy)
    return [*same_model(candidate, baseline), *_checks(problems)]


def same_model(candidate: Evaluation, baseline: Evaluation) -> list[HygieneCheck]:
    """The checks that need no answer: the same weights, chat template and tokenizer."""
    problems: dict[str, list[str]] = {name: [] for name in _PROVENANCE}
    for field in _PROVENANCE:
        known, other = getattr(candidate.provenance, field), getattr(baseline.provenance, field)
        # Two unknowns are not the same thing.
        if not known or known != other:
            problems[field].append(differ(known, other) or "unknown in both")
    return _checks(problems)


def operators_ran(operators: OperatorEvidence | None) -> list[HygieneCheck]:
    """The check that FlagGems ran, by the operators that the candidate's server listed; none: nothing had to run.

    A server that was told to run FlagGems and answers is no evidence: some fall back to the chip's own kernels. That
    only a part ran of what should have is said, and decides nothing.
    """
    if operators is None:
        return []
    if operators.degree is Degree.NONE:
        detail = "the server wrote no operator list, so nothing shows that FlagGems ran"
        return [HygieneCheck(name="operators", passed=False, detail=detail)]
    what = "operator" if len(operators.ran) == 1 else "operators"
    said = [f"{len(operators.ran)} {what} ran: {_some(operators.ran)}"]
    of = f"{len(operators.expected)} expected ({operators.expectation})"
    if operators.degree is Degree.FULL:
        said.append(f"none is missing of {of}")
    elif operators.degree is Degree.PARTIAL:
        said.append(f"PARTIAL: not in the list are {len(operators.missing)} of {of}: {_some(operators.missing)}")
    else:
        said.append("nothing is known to compare them with")
    if operators.left_out_but_ran:
        said.append(f"ran although left out: {_some(operators.left_out_but_ran)}")
    return [HygieneCheck(name="operators", passed=True, detail="; ".join(said))]


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:_OPERATORS_SHOWN], *(["…"] if len(names) > _OPERATORS_SHOWN else [])])


def _checks(problems: Mapping[str, Sequence[str]]) -> list[HygieneCheck]:
    named = [(check.removesuffix("_sha256").replace("_", " "), found) for check, found in problems.items()]
    return [HygieneCheck(name=name, passed=not p, detail="; ".join(p) or "in order") for name, p in named]


def short(value: object) -> str:
    """A value for a message; hashes are cut to 12 characters."""
    text = "unknown" if value is None else str(value) or "unknown"
    return text[:12] if len(text) == 64 else text  # noqa: PLR2004 - a SHA-256 in hex


def differ(candidate: object, baseline: object) -> str | None:
    """How two settings differ; none where they are equal. Of mappings only the keys that differ are named."""
    if candidate == baseline:
        return None
    if isinstance(candidate, dict) and isinstance(baseline, dict):
        pairs = {key: (candidate.get(key, "unset"), baseline.get(key, "unset")) for key in candidate | baseline}
        return ", ".join(f"{key}: {differ(ours, theirs)}" for key, (ours, theirs) in pairs.items() if ours != theirs)
    return f"candidate {short(candidate)}, baseline {short(baseline)}"


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


def _answer_problems(pair: Pair, policy: Policy) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) for the answers of one benchmark."""
    candidate, baseline = pair.candidate, pair.baseline
    names = baseline.names
    answers = int(np.count_nonzero(baseline.answered(names)))
    if len(names) != baseline.run.items or answers != baseline.run.items * baseline.run.repeats:
        yield (
            "answer counts",
            f"the baseline has {answers} answers, not {baseline.run.items} items × {baseline.run.repeats} repeats",
        )
    if candidate.run.stopped_of is not None and len(names) != candidate.run.items:
        yield "answer counts", f"the candidate was stopped after {candidate.run.items} items, {len(names)} are there"
    for side in (candidate, baseline):
        yield from _side_problems(side)
    unknown = {candidate.columns.item[answer] for answer in np.flatnonzero(candidate.places(names) < 0)}
    if unknown:
        yield "unknown items", f"{len(unknown)} that the baseline does not have, such as {short(min(unknown))}"
    missing = len(pair.missing())
    if names and missing / len(names) > policy.max_missing:
        yield "unanswered items", f"{missing} of {len(names)}, more than {100 * policy.max_missing:g} %"
    yield from _prompt_problems(pair)


def _prompt_problems(pair: Pair) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) where an item was sent as another text, by either side."""
    baseline = pair.baseline.columns
    known = dict(zip(baseline.item, baseline.prompt, strict=True))
    other: dict[str, str] = {}
    for asked in (baseline, pair.candidate.columns):
        if (asked.item, asked.prompt) != (baseline.item, baseline.prompt) or len(known) < len(asked.item):
            sent = zip(asked.item, asked.prompt, strict=True)
            other |= {name: prompt for name, prompt in sent if known.get(name, prompt) != prompt}
    if other:
        example = min(other)
        yield "prompts", f"{len(other)} items, such as {short(example)}: {differ(other[example], known[example])}"


def _side_problems(side: Side) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) for the answers of one side."""
    if bool((side.repeats >= side.run.repeats).any()):
        yield "answer counts", f"the {side.who} has answers beyond its {side.run.repeats} repeats"
    counts = side.answered(side.names)
    twice = int(np.count_nonzero(counts > 1))
    if twice:
        first = np.flatnonzero(counts[side.places(side.names), side.repeats] > 1)[0]
        example = f"item {short(side.columns.item[first])}, repeat {side.repeats[first]}"
        yield "duplicates", f"{twice} answered more than once in the {side.who}, such as {example}"
    if not any(answer.strip() for answer in side.columns.answer):
        yield "empty answers", f"no answer of the {side.who} says anything"


def _length_problems(pair: Pair, policy: Policy) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) where answers are cut more often, or are longer or shorter, than the baseline's."""
    allowed = policy.max_length_shift
    cut = [_cut(side) for side in (pair.candidate, pair.baseline)]
    if None not in cut:
        ours, theirs = (share or 0.0 for share in cut)
        # Rounded, so that 80 % against 70 % is 10 points and not a little more.
        if round(abs(ours - theirs), 9) > allowed:
            yield "cut answers", f"cut at the token limit: candidate {ours:.1%} of answers, baseline {theirs:.1%}"
    shift = _length_shift(pair, policy.alpha)
    if shift is not None and (shift.lower > 1 + allowed or shift.upper < 1 - allowed):
        yield (
            "answer lengths",
            f"answers are {shift.ratio:.2f} times as long as the baseline's "
            f"({100 * (1 - 2 * policy.alpha):g} % interval {shift.lower:.2f} to {shift.upper:.2f})",
        )


def _cut(side: Side) -> float | None:
    """Share of the answers that were cut at the token limit; none where no answer tells."""
    told = [reason for reason in side.columns.finish_reason if reason]
    return told.count("length") / len(told) if told else None


def _length_shift(pair: Pair, alpha: float) -> Ratio | None:
    """How many times as long the candidate's answers are; none where a side does not tell."""
    names = pair.baseline.names
    ours, theirs = (_lengths(side, names) for side in (pair.candidate, pair.baseline))
    known = np.isfinite(ours) & np.isfinite(theirs)
    return log_length_shift(ours[known], theirs[known], alpha) if known.any() else None


def _lengths(side: Side, names: list[str]) -> Floats:
    """Output tokens of each of `names`, averaged over the answers that tell; NaN where none does."""
    places = side.places(names)
    tokens = np.array(side.columns.output_tokens, dtype=np.float64)  # none becomes NaN
    told = np.isfinite(tokens) & (places >= 0)
    sums, counts = (np.bincount(places[told], weights, len(names)) for weights in (tokens[told], None))
    mean: Floats = np.divide(sums, counts, out=np.full(len(names), np.nan), where=counts > 0)
    return mean


def _extraction_problems(shared: Sequence[Pair], policy: Policy) -> Iterator[str]:
    """Benchmarks on which the candidate's answers hold nothing to score more often than the baseline's.

    One-sided exact test each, Holm-adjusted over the benchmarks: nine of them would else fail an equal system in one
    case of three.
    """
    counted = []
    for pair in shared:
        # One repeat each: repeats of a greedy answer are no more evidence than the first.
        found, found_before = (
            [text for text, repeat in zip(side.columns.extracted, side.columns.repeat, strict=True) if repeat == 0]
            for side in (pair.candidate, pair.baseline)
        )
        failed, failed_before = found.count(""), found_before.count("")
        # Where nothing is ever extracted (log-likelihoods) there is nothing to fail.
        if found and found_before and failed + failed_before < len(found) + len(found_before):
            counted.append((pair.benchmark, failed, len(found), failed_before, len(found_before)))
    if not counted:
        return
    adjusted = holm([excess_p_value(*counts) for _, *counts in counted])
    for (benchmark, failed, n, failed_before, n_before), p in zip(counted, adjusted, strict=True):
        if p < policy.alpha:
            yield (
                f"{benchmark}: no answer found in {failed} of {n} texts, in the baseline in "
                f"{failed_before} of {n_before} (p = {p:.2g})"
            )
