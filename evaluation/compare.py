"""The gate outside a release: on two files of answers; and which items it found changed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from evaluation.gate import decide
from evaluation.item_files import Asked, ItemFile
from flagrelease.errors import ItemFileError
from flagrelease.policy import Policy
from flagrelease.records import BenchmarkRun, Evaluation, Item, Provenance, Record, Stack
from flagrelease.verdicts import GateResult

NOT_TOLD = "not told by the file"
"""Stands in both evaluations where the files tell nothing, so that the gate finds no difference; see `not_checked`."""

_MODEL = ("weights", "chat template", "tokenizer")
NEVER_TOLD = (*_MODEL, "harness", "harness version", "dataset", "task", "few shot", "api")
"""Checks of the gate on what no file of answers carries."""

SHA256_DIGITS = 64


class Comparison(Record):
    """A verdict on two files, and the conditions that nobody could check."""

    gate: GateResult
    not_checked: list[str]


class _Gap(NamedTuple):
    """A check that the files allow for a benchmark in part or not at all."""

    check: str
    detail: str
    whole: bool


def compare(candidate: ItemFile, baseline: ItemFile, policy: Policy) -> Comparison:
    """The gate's verdict on two files of one kind; raises ItemFileError where they have nothing in common."""
    if candidate.kind != baseline.kind:
        raise ItemFileError(
            f"{baseline.path} is of the kind `{baseline.kind}`, {candidate.path} of the kind `{candidate.kind}`",
            remedy="give two of the same kind: how items are named differs, so they cannot be paired",
        )
    pairs = {
        name: (candidate.benchmarks[name], asked)
        for name, asked in baseline.benchmarks.items()
        if name in candidate.benchmarks
    }
    if not pairs:
        raise ItemFileError(
            f"no benchmark is in both: {baseline.path} has {', '.join(baseline.benchmarks)}; "
            f"{candidate.path} has {', '.join(candidate.benchmarks)}",
            remedy="give files of the same benchmarks; a sample log's name tells its task: samples_<task>_<time>.jsonl",
        )
    told = {name for name, (ours, theirs) in pairs.items() if None not in (ours.generation, theirs.generation)}
    prompts = {
        (line.benchmark, line.item): line.prompt
        for file in (candidate, baseline)
        for asked in file.benchmarks.values()
        for line in asked.lines
        if line.prompt
    }
    result = decide(
        _evaluation(candidate, prompts, told),
        _evaluation(baseline, prompts, told),
        baseline_id=str(baseline.path),
        policy=policy,
        benchmarks={},
    )
    unchecked, in_words = _unchecked(pairs)
    # What was compared between placeholders has not been checked; a failed check has found something.
    checks = [check for check in result.hygiene if not check.passed or check.name not in unchecked]
    return Comparison(gate=result.model_copy(update={"hygiene": checks}), not_checked=in_words)


def _unchecked(pairs: Mapping[str, tuple[Asked, Asked]]) -> tuple[set[str], list[str]]:
    """The checks that no benchmark allowed, and in words all that could not be checked, or not everywhere."""
    gaps = {name: {gap.check: gap for gap in _gaps(*pair)} for name, pair in pairs.items()}
    checks = sorted({check for found in gaps.values() for check in found})
    nowhere = [check for check in checks if all(check in found and found[check].whole for found in gaps.values())]
    scored = any(asked.scoring for pair in pairs.values() for asked in pair)
    words = [f"{check} (beyond filter and metric)" if check == "task" and scored else check for check in NEVER_TOLD]
    words += nowhere
    for check in checks:
        if check not in nowhere:
            where = [f"{name}{found[check].detail}" for name, found in gaps.items() if check in found]
            words.append(f"{check}: {', '.join(where)}")
    return {*NEVER_TOLD, *nowhere}, words


def _gaps(ours: Asked, theirs: Asked) -> Iterator[_Gap]:
    """What cannot be checked, or not everywhere, for one benchmark."""
    lines = (*theirs.lines, *ours.lines)
    items = {line.item for line in lines}
    without = {
        "prompts": {line.item for line in lines if not line.prompt},
        "empty answers": {line.item for line in lines if line.answer is None},
        "extraction": {line.item for line in lines if line.extracted is None},
        "answer lengths": {line.item for line in lines if line.output_tokens is None},
    }
    for check, some in without.items():
        if some:
            yield _Gap(check, f" ({len(some)} of {len(items)} items)", whole=some == items)
    if not all(any(line.finish_reason for line in asked.lines) for asked in (ours, theirs)):
        yield _Gap("cut answers", "", whole=True)
    if ours.generation is None or theirs.generation is None:
        yield _Gap("generation", "", whole=True)


def _evaluation(file: ItemFile, prompts: Mapping[tuple[str, str], str], told: Collection[str]) -> Evaluation:
    """The file as the gate takes it. `prompts`: what either file tells; `told`: benchmarks whose settings both tell."""
    runs, items = [], []
    for name, asked in file.benchmarks.items():
        runs.append(
            BenchmarkRun(
                benchmark=name,
                dataset_sha256=NOT_TOLD,
                task_sha256=asked.scoring or NOT_TOLD,
                few_shot=0,
                generation=(asked.generation or {}) if name in told else {},
                api="chat",
                harness=NOT_TOLD,
                items=len({line.item for line in asked.lines}),
                repeats=1 + max(line.repeat for line in asked.lines),
            )
        )
        items += [
            Item(
                benchmark=name,
                item=line.item,
                repeat=line.repeat,
                score=line.score,
                # A prompt that one side does not tell is taken to be the other side's: no difference is known.
                prompt=_hash(line.prompt or prompts.get((name, line.item), "")),
                # Unknown is not empty: the gate takes an empty answer for none.
                answer=NOT_TOLD if line.answer is None else line.answer,
                extracted=line.extracted or "",
                finish_reason=line.finish_reason,
                prompt_tokens=line.prompt_tokens,
                output_tokens=line.output_tokens,
                cluster=line.cluster,
            )
            for line in asked.lines
        ]
    provenance = Provenance(
        model=NOT_TOLD,
        chip=NOT_TOLD,
        stack=Stack.NATIVE,
        engine=NOT_TOLD,
        engine_version=NOT_TOLD,
        engine_settings={},
        weights_sha256=NOT_TOLD,
        chat_template_sha256=NOT_TOLD,
        tokenizer_sha256=NOT_TOLD,
        harnesses={NOT_TOLD: NOT_TOLD},
        platform=NOT_TOLD,
        code_version=NOT_TOLD,
        created=NOT_TOLD,
    )
    return Evaluation(provenance=provenance, benchmarks=runs, items=items)


def _hash(prompt: str) -> str:
    """A prompt as its hash, so that a file may hold either and messages stay short."""
    return prompt if len(prompt) == SHA256_DIGITS else hashlib.sha256(prompt.encode()).hexdigest()


class Answers(Record):
    """What one side answered to an item, in the order of its repeats; nothing where it left the item unanswered."""

    score: float
    answers: list[str]
    extracted: list[str]
    finish_reasons: list[str | None]


class Flip(Record):
    """An item whose score changed."""

    benchmark: str
    item: str
    baseline: Answers
    candidate: Answers

    @property
    def lost(self) -> bool:
        """Whether the candidate scores below the baseline."""
        return self.candidate.score < self.baseline.score


class Flips(NamedTuple):
    """The changed items, lost ones first, of so many that were compared."""

    compared: int
    flips: list[Flip]


def flips(candidate: Evaluation, baseline: Evaluation, benchmarks: Collection[str]) -> Flips:
    """The items of `benchmarks` whose score changed, scored as the gate does: repeats averaged, no answer is a 0."""
    ours, theirs = _answers(candidate), _answers(baseline)
    asked = [key for key in theirs if key[0] in benchmarks]
    silent = Answers(score=0, answers=[], extracted=[], finish_reasons=[])
    pairs = [Flip(benchmark=b, item=i, baseline=theirs[b, i], candidate=ours.get((b, i), silent)) for b, i in asked]
    changed = [pair for pair in pairs if pair.candidate.score != pair.baseline.score]
    return Flips(len(pairs), sorted(changed, key=lambda flip: (not flip.lost, flip.benchmark, flip.item)))


def _answers(evaluation: Evaluation) -> dict[tuple[str, str], Answers]:
    """What was answered to each item, by benchmark and item."""
    repeats = {run.benchmark: run.repeats for run in evaluation.benchmarks}
    grouped: defaultdict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in sorted(evaluation.items, key=lambda item: item.repeat):
        if item.repeat < repeats.get(item.benchmark, 0):
            grouped[item.benchmark, item.item].append(item)
    return {
        key: Answers(
            # Rounded as in the gate: the same graded scores in another order are no difference.
            score=round(sum(item.score for item in items) / repeats[key[0]], 12),
            answers=[item.answer for item in items],
            extracted=[item.extracted for item in items],
            finish_reasons=[item.finish_reason for item in items],
        )
        for key, items in grouped.items()
    }
