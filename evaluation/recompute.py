"""Computing a release's numbers again from the answers that it published, with the statistics that the gate uses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evaluation import baseline as baselines
from evaluation.catalogue import Benchmark, load_benchmarks
from evaluation.gate import decide, decide_unpaired
from evaluation.run import aggregate, items_from_jsonl
from flagrelease import __version__
from flagrelease.errors import BaselineError
from flagrelease.provenance.report import Check, State, check_of
from flagrelease.provenance.statement import Measured, Statement, content_sha256
from flagrelease.records import Evaluation, ImportedBaseline, Record
from flagrelease.verdicts import GateResult

Read = Callable[[str], bytes | None]
"""The content of a published file by its path; none where it is not there, or was changed."""

_FAULTS = (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError)
"""What files that are not what they should be make the statistics raise."""
_IN_WORDS = {"display", "reason", "detail"}


def recompute(stated: Statement, read: Read) -> list[Check]:
    """Scores again from the answers; verdict and differences again, where the baseline's answers are at hand.

    What servers told once (canary, throughput, operators) is taken as stated: no file proves it.
    """
    if stated.measured.answers is None:
        return [Check(name="answers", state=State.NOT_PROVEN, detail="the release was judged without any answer")]
    found = _evaluation(stated.measured, read)
    if isinstance(found, Check):
        return [found]
    return [_scores(stated.measured, found), _gate(stated, found)]


def _evaluation(measured: Measured, read: Read) -> Evaluation | Check:
    """The evaluation that was judged, or why it is not to be had."""
    paths = measured.answers
    assert paths is not None  # noqa: S101 - for the type checker; the caller has looked
    about, items = read(paths.about), read(paths.items)
    if about is None or items is None:
        missing = paths.about if about is None else paths.items
        return check_of("answers", [f"{missing}: is missing or changed, so nothing can be computed again"], "")
    path = paths.about
    try:
        asked = Evaluation(**json.loads(about), items=[])
        path = paths.items
        return asked.model_copy(update={"items": items_from_jsonl(items)})
    except _FAULTS as error:
        return check_of("answers", [f"{path}: it cannot be read: {str(error).splitlines()[0]}"], "")


def _scores(measured: Measured, evaluation: Evaluation) -> Check:
    assert measured.answers is not None  # noqa: S101 - for the type checker
    path = measured.answers.items
    try:
        computed = {result.benchmark: result for result in aggregate(evaluation)}
    except _FAULTS as error:
        return check_of("answers", [f"{path}: no scores can be computed from it: {error}"], "")
    problems = []
    for row in measured.rows:
        if (own := computed.get(row.benchmark)) is None:
            problems.append(f"{path}: it has no answers of {row.display}")
            continue
        pairs = {
            "score": (own.score, row.candidate),
            "lower bound": (own.lower, row.candidate_interval[0]),
            "upper bound": (own.upper, row.candidate_interval[1]),
            "n": (own.n, row.n),
            "repeats": (own.repeats, row.repeats),
        }
        problems += [
            f"{path}: {row.display}: {name} computed from the answers is {ours:.6g}, stated is {theirs:.6g}"
            for name, (ours, theirs) in pairs.items()
            if not _same(ours, theirs)
        ]
    if evaluation.provenance != measured.candidate:
        changed = ", ".join(_different(evaluation.provenance, measured.candidate))
        problems.append(f"{measured.answers.about}: {changed}: not as stated")
    done = f"scores, n, repeats and 95 % intervals of {len(measured.rows)} benchmarks computed again"
    return check_of("answers", problems, f"{done} from {len(evaluation.items):,} answers")


def _gate(stated: Statement, evaluation: Evaluation) -> Check:
    gate = stated.measured.gate
    try:
        baseline = _baseline(gate)
    except BaselineError:
        why = f"the answers of the baseline {gate.baseline_id} are not at hand: this FlagRelease does not bring them"
        return Check(name="gate", state=State.NOT_PROVEN, detail=f"differences and verdict: {why}")
    if stated.measured.baseline_sha256 not in (None, content_sha256(baseline)):
        return check_of("gate", [f"release.json: it was compared with another baseline {gate.baseline_id}"], "")
    try:
        again = _decided(stated, evaluation, baseline)
    except _FAULTS as error:
        return check_of("gate", [f"release.json: the gate cannot decide again on these answers: {error}"], "")
    problems = [f"release.json: {problem}" for problem in _gate_problems(again, gate)]
    if problems and stated.code_version != __version__:
        problems.append(f"release.json: it was made by FlagRelease {stated.code_version}, this one is {__version__}")
    return check_of("gate", problems, f"differences, intervals and verdict decided again against {gate.baseline_id}")


def _baseline(gate: GateResult) -> Evaluation | ImportedBaseline:
    load = baselines.load if gate.paired else baselines.load_imported
    return load(gate.baseline_id)


def _decided(stated: Statement, evaluation: Evaluation, baseline: Evaluation | ImportedBaseline) -> GateResult:
    """The gate's verdict on these answers."""
    gate, about = stated.measured.gate, _benchmarks(stated.measured.gate)
    if isinstance(baseline, ImportedBaseline):
        scores = {result.benchmark: (result.score, result.n) for result in aggregate(evaluation)}
        return decide_unpaired(scores, baseline, baseline_id=gate.baseline_id, policy=stated.policy, benchmarks=about)
    return decide(
        evaluation,
        baseline,
        baseline_id=gate.baseline_id,
        policy=stated.policy,
        benchmarks=about,
        not_run={left_out.benchmark for left_out in stated.measured.not_run},
        canary=gate.canary,
        speed=gate.speed,
    )


def _benchmarks(gate: GateResult) -> Mapping[str, Benchmark]:
    """What the gate has to know of benchmarks; of those that this FlagRelease does not bring, as the statement says."""
    known = load_benchmarks()
    stated = {
        row.benchmark: Benchmark(
            key=row.benchmark,
            display=row.display,
            description=row.display,
            harness=None,
            source="the statement",
            role=row.role,
            margin_reason="as the release states it",
            margin_points=row.margin_points,
        )
        for row in gate.benchmarks
        if row.benchmark not in known
    }
    return {**known, **stated}


def _gate_problems(again: GateResult, stated: GateResult) -> Iterator[str]:
    for field in ("verdict", "rule", "paired"):
        if getattr(again, field) != getattr(stated, field):
            yield f"{field}: decided again it is {getattr(again, field)}, stated is {getattr(stated, field)}"
    ours, theirs = ({row.benchmark: row for row in gate.benchmarks} for gate in (again, stated))
    for name in sorted(ours.keys() ^ theirs.keys()):
        yield f"{name}: compared in one of them only"
    for name in sorted(ours.keys() & theirs.keys()):
        yield from _numbers(theirs[name].display, ours[name], theirs[name])
    if (again.pooled is None) != (stated.pooled is None):
        yield "the mean difference is stated or computed only"
    elif again.pooled and stated.pooled:
        yield from _numbers("mean difference", again.pooled, stated.pooled)
    # Which operators ran is known from the server's own lists, read once.
    checks, others = ({c.name: c.passed for c in gate.hygiene if c.name != "operators"} for gate in (again, stated))
    for name in sorted(checks.keys() | others.keys()):
        if checks.get(name) != others.get(name):
            yield f"hygiene check {name}: decided again otherwise"
    if len(again.fidelity) != len(stated.fidelity):
        yield "tool calls: judged in one of them only"
    for ours_calls, theirs_calls in zip(again.fidelity, stated.fidelity, strict=False):
        yield from _numbers(theirs_calls.benchmark, ours_calls, theirs_calls)


def _numbers(name: str, again: Record, stated: Record) -> Iterator[str]:
    for field in _different(again, stated):
        yield f"{name}: {field} computed again is {getattr(again, field)}, stated is {getattr(stated, field)}"


def _different(one: Record, other: Record) -> list[str]:
    """Fields in which two records differ; sentences, which are made of the others, left out."""
    fields = type(one).model_fields.keys() - _IN_WORDS
    return sorted(field for field in fields if not _same(getattr(one, field), getattr(other, field)))


def _same(one: Any, other: Any) -> bool:
    """Equal; of numbers, but for what another processor or version of SciPy rounds otherwise."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return bool(one == other)
