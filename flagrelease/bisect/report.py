"""What people do with a bisect: a deny-list for the matrix, and a draft of the report to the operators' authors."""

from __future__ import annotations

from collections.abc import Sequence

import yaml
from pydantic import Field

from flagrelease.bisect.checked import CheckedOperator
from flagrelease.bisect.records import BisectResult, Culprit, JudgedBy, Outcome, Step
from flagrelease.operators.known_issues import Lists
from flagrelease.records import Record, Stack

FENCE = "```"
NARROW = 160
"""Characters of an error that fit a table."""
QUESTIONS = 10
"""Questions that a report names, at most."""


class Subject(Record):
    """What was bisected, as a stranger has to know it."""

    model: str = Field(description="repository of the weights")
    chip: str
    engine: str
    baseline_id: str
    versions: dict[str, str] = Field(description="of engine, FlagGems, torch, …, as far as they are known")
    functions: dict[str, list[str]] = Field(
        default_factory=dict, description="what FlagGems has to be told of an operator, where not its name alone"
    )
    shapes: dict[str, list[str]] = Field(default_factory=dict, description="of an operator's arguments, where known")
    checked: dict[str, CheckedOperator] = Field(
        default_factory=dict, description="what a check on this host found of an operator, where there was one"
    )
    check: dict[str, str] = Field(
        default_factory=dict, description="command that checks an operator; none: it has no reference to compare with"
    )
    wrong: list[str] = Field(
        default_factory=list, description="questions that it answers wrongly: benchmark, and SHA-256 of the content"
    )
    text: list[int] = Field(
        default_factory=list, description="token ids of the text that differs most; empty where it crashed"
    )


def deny_list(engine: str, *, only: Sequence[str], without: Sequence[str], remove: Sequence[str]) -> str:
    """The lines for the cell in matrix.yaml that leave out what is to be removed; empty where that is nothing.

    `only` and `without`: the lists of the cell, of which it has one at most.
    """
    if not remove:
        return ""
    lists = Lists(only, without).leaving_out(remove)
    of_cell = {"engines": {engine: lists}} if lists else {"stack": Stack.NATIVE.value}
    return yaml.safe_dump(of_cell, sort_keys=False, default_flow_style=None, width=NARROW)


def upstream_report(result: BisectResult, culprit: Culprit, subject: Subject) -> str:
    """A draft in Markdown for the authors of one culprit: what happens, versions, evidence, how to see it."""
    enabled = [culprit.operator, *culprit.partners]
    names = ", ".join(f"`{name}`" for name in enabled)
    crashed = culprit.statistic is None
    title = f"{names} {'crashes the server' if crashed else 'changes what the model says'} on {subject.chip}"
    shapes = [f"- `{name}`: {'; '.join(subject.shapes[name])}" for name in enabled if name in subject.shapes]
    parts = [
        f"# {title}",
        "*A draft: read it before you send it.*",
        _happens(result, culprit, subject),
        "## Versions",
        _table(("what", "version"), [("chip", subject.chip), ("model", subject.model), *subject.versions.items()]),
        *(["## Error", _fenced("text", culprit.error)] if culprit.error else []),
        *(["## Questions answered wrongly", _listed(subject.wrong)] if subject.wrong else []),
        "## Error against float64",
        *(_error(name, subject) for name in enabled),
        *(["## Shapes", "\n".join(shapes)] if shapes else []),
        "## To see it",
        *_reproduction(enabled, subject),
        "## Evidence",
        f"A server is bad above {result.threshold:.3g} times what is allowed: the larger of 1 and the prediction "
        f"bound from {len(result.floors)} runs without any operator ({_numbers(result.floors)}), at "
        f"{result.alpha:.2g} a server.",
        steps_table(result),
        *([f"Contradictions: {'; '.join(result.contradictions)}."] if result.contradictions else []),
    ]
    return "\n\n".join(parts) + "\n"


def _error(name: str, subject: Subject) -> str:
    found = subject.checked.get(name)
    if found is None:
        command = subject.check.get(name)
        if command is None:
            return f"`{name}` is none of the operators that FlagRelease has a reference for."
        return f"`{name}` was not checked with these versions and sizes. This does:\n\n{_fenced('shell', command)}"
    where = f"on {found.device}"
    if found.device == "cpu":
        where = "in Triton's interpreter, which shows its arithmetic and nothing of a compiler or device"
    versions = ", ".join(f"{package} {version}" for package, version in found.versions.items())
    row = (found.case, _number(found.error), _number(found.tolerance), found.device, found.outcome)
    table = _table(("worst case", "error", "tolerance", "device", "outcome"), [row])
    reason = f"\n\n{_fenced('text', found.reason)}" if found.reason else ""
    return (
        f"`{name}` with the model's sizes and edge cases, {where} ({versions}), against torch's operator in float64: "
        f"{found.faults} of {found.cases} cases differ, raise or crash.\n\n{table}{reason}"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _listed(questions: Sequence[str]) -> str:
    more = len(questions) - QUESTIONS
    return "\n".join([*(f"- {one}" for one in questions[:QUESTIONS]), *([f"- and {more} more"] if more > 0 else [])])


def _happens(result: BisectResult, culprit: Culprit, subject: Subject) -> str:
    whole = result.steps[0]
    without = next(
        step for step in result.steps if step.outcome is Outcome.GOOD and step.removed == sorted(result.remove)
    )
    others = [name for name in result.remove if name != culprit.operator]
    lines = [
        _asked(result, subject),
        f"- all {len(result.operators)} operators of FlagGems that this model uses: {said(whole)}",
        f"- `{culprit.operator}` as the only one: {_outcome(culprit) if not culprit.partners else 'good'}",
    ]
    if culprit.partners:
        together = ", ".join(f"`{name}`" for name in culprit.partners)
        lines.append(f"- together with {together}, which alone may be as guilty: {_outcome(culprit)}")
    beside = f" and {', '.join(f'`{name}`' for name in others)}" if others else ""
    lines.append(f"- all but `{culprit.operator}`{beside}: {said(without)}")
    return "\n".join((lines[0], "", *lines[1:]))


def _asked(result: BisectResult, subject: Subject) -> str:
    judging = result.judging
    if judging.by is JudgedBy.CANARY:
        return (
            "The model reads texts that the reference wrote; the log-probabilities of their tokens are compared with "
            f"the reference's (baseline `{subject.baseline_id}`). 1 is the largest distance that is allowed."
        )
    return (
        f"The model is asked {judging.asked} questions that the reference (baseline `{subject.baseline_id}`) answered "
        "rightly, and the model with these operators wrongly. 1 is the number of wrong answers that is allowed, "
        f"{judging.allowed:.3g}."
    )


def _outcome(culprit: Culprit) -> str:
    return "the server crashes" if culprit.statistic is None else f"{culprit.statistic:.3g} times what is allowed"


def said(step: Step) -> str:
    """What a step showed, in words."""
    if step.statistic is None:
        return "the server crashes"
    return f"{step.statistic:.3g} times what is allowed, {step.outcome}"


def _reproduction(enabled: Sequence[str], subject: Subject) -> list[str]:
    lines, names = [], [function for name in enabled for function in subject.functions.get(name, [name])]
    if subject.engine != "torch_reference":
        only = ",".join(names)
        lines += [
            "Serve the model through vllm-plugin-FL with these operators only, and again with none, and compare:",
            _fenced("shell", f"export VLLM_PLUGINS=fl VLLM_FL_PREFER_ENABLED=1 VLLM_FL_FLAGOS_WHITELIST={only}"),
            "Where the model's own code calls the operator through torch, this shows it without a server (a fused "
            "operator that only the engine calls is not reached this way):",
        ]
    tokens = subject.text or [1, 2, 3, 4]
    script = REPRODUCTION.format(model=subject.model, tokens=tokens, include=names)
    return [*lines, _fenced("python", script)]


REPRODUCTION = """\
import flag_gems, torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({model!r}, dtype="auto", attn_implementation="eager")
model.to(flag_gems.device).eval()
tokens = torch.tensor([{tokens}], device=flag_gems.device)
with torch.no_grad():
    native = model(tokens).logits.cpu().double().log_softmax(-1)
    with flag_gems.use_gems(include={include}):
        found = model(tokens).logits
    found = found.cpu().double().log_softmax(-1)
print("largest difference of a log-probability:", (native - found).abs().max().item())
"""


def steps_table(result: BisectResult) -> str:
    """All server starts as a Markdown table."""
    count = len(result.operators)
    rows = [
        (
            str(step.number),
            step.purpose.value,
            _short_list(step.removed, count),
            "" if step.statistic is None else f"{step.statistic:.3g}",
            f"{step.threshold:.3g}",
            step.outcome.value,
            f"{step.seconds:.0f}",
        )
        for step in result.steps
    ]
    return _table(("start", "why", "removed", "found", "allowed", "outcome", "seconds"), rows)


def _short_list(removed: Sequence[str], count: int) -> str:
    names = ", ".join(removed)
    if len(removed) in (0, count):
        return "none" if not removed else f"all {count}"
    return names if len(names) <= NARROW else f"{len(removed)} of {count}: {names[:NARROW]}…"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _fenced(language: str, text: str) -> str:
    # What a server wrote may hold a fence itself.
    fence = FENCE
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
