"""A release as text for people: the verdict's table, the stages, and where everything lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from flagrelease.evidence import EvidenceFolder
from flagrelease.records import CellImage, Publication, Stage
from flagrelease.settings import Settings
from flagrelease.store import Store
from flagrelease.store.approvals import WAITING
from flagrelease.store.publications import taken_back
from flagrelease.store.queries import ImportedFrom, ReleaseView, StageView, release_view
from flagrelease.store.times import in_utc
from flagrelease.verdicts import BenchmarkVerdict, GateResult

HEADER = ("Benchmark", "n", "Baseline", "Candidate", "Difference", "90 % interval", "Verdict")


def verdict_cells(row: BenchmarkVerdict) -> tuple[str, ...]:
    """One benchmark of the verdict as table cells; scores in percent, differences in points."""
    role = "" if row.role == "gated" else " (advisory)"
    return (
        row.display,
        f"{row.n}{f' of {row.stopped_of}' if row.stopped_of else ''} × {row.repeats}",
        f"{100 * row.baseline:.1f}",
        f"{100 * row.candidate:.1f}",
        f"{100 * row.difference:+.1f}",
        f"{100 * row.lower:+.1f} … {100 * row.upper:+.1f}",
        f"{row.verdict}{role}",
    )


def verdict_table(gate: GateResult) -> str:
    """The verdict as Markdown: the cell's, the table, the reasons."""
    lines = [f"**{gate.verdict}** against baseline `{gate.baseline_id}`", ""]
    lines += [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    lines += [f"| {' | '.join(verdict_cells(row))} |" for row in gate.benchmarks]
    lines += ["", *(f"- {reason}" for reason in said(gate))]
    return "\n".join(lines)


def said(gate: GateResult) -> list[str]:
    """Everything that the verdict says in words: why, the other tiers, what is the cell's own, what to note."""
    lines = list(gate.reasons)
    if gate.canary:
        found, bars = gate.canary.found, gate.canary.bars
        lines.append(
            f"canary {'passed' if gate.canary.passed else 'FAILED'}: mean |Δ log p| {found.mean_abs_logprob:.4f} "
            f"(allowed {bars.mean_abs_logprob:.4f}), same likeliest token {found.top1_agreement:.1%} "
            f"(at least {bars.top1_agreement:.1%}), on {found.positions} positions"
        )
    lines += [
        f"speed {point.workload}: {point.ratio:.2f} times the baseline's output throughput "
        f"({point.lower:.2f} to {point.upper:.2f}, floor {point.floor:g})"
        for point in gate.speed
    ]
    lines += [f"operators: {check.detail}" for check in gate.hygiene if check.name == "operators" and check.passed]
    lines += [f"tool calls, {call.benchmark}: {call.reason}" for call in gate.fidelity]
    lines += [f"threshold of its own: {override}" for override in gate.overrides]
    return [*lines, *(f"note: {warning}" for warning in gate.warnings)]


def release_report(release: int, host: Settings, reasons: Mapping[Stage, str] | None = None) -> str:
    """Stages, times, errors and places of a release as Markdown; `reasons`: why each stage was run or reused."""
    with closing(Store.open(host.store_url)) as store:
        view = release_view(store, release)
        image = _image(store, view)
        back = {place: older for (number, place), older in taken_back(store).items() if number == release}
    if view.imported:
        return _import_report(view, view.imported)
    header = ["Stage", "State", "Time", "From", *(["Why"] if reasons else [])]
    rows = [_stage_cells(stage) for stage in view.stages]
    reached = {stage.stage for stage in view.stages}
    rows += [[stage, "not reached", "", ""] for stage in reasons or () if stage not in reached]
    if reasons:
        rows = [[*row, _cell(reasons.get(Stage(row[0]), ""))] for row in rows]
    lines = [f"Release {view.id} of `{view.cell}` through {view.engine}: {view.state}", ""]
    lines += [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += _errors(view)
    where = {**({"image": image} if image else {}), **places(view, host)}
    decided = [f"- {decision}" for decision in map(_cell, map(str, view.decisions))]
    decided += [
        f"- taken back from `{to.target}` ({to.publisher}), where release {older} is" for to, older in back.items()
    ]
    return "\n".join([*lines, "", *(f"- {name}: `{place}`" for name, place in where.items()), *decided])


def _stage_cells(stage: StageView) -> list[str]:
    origin = f"release {stage.reused_from}" if stage.reused_from else "this release"
    time = f"{stage.seconds:.1f} s" if stage.seconds is not None and not stage.reused_from else ""
    return [stage.stage, stage.state, time, origin]


def _errors(view: ReleaseView) -> list[str]:
    """Why stages failed, in full; what failed outside of them as well."""
    failed = {f"The stage {stage.stage}": stage.error for stage in view.stages if stage.state == "failed"}
    if view.error and view.error not in failed.values():
        failed["The release"] = view.error
    became = "waits" if view.state == WAITING else "failed"
    return [
        line for what, error in failed.items() for line in ("", f"{what} {became}:", "", "```text", error or "", "```")
    ]


def _cell(text: str) -> str:
    """Text in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _image(store: Store, view: ReleaseView) -> str | None:
    """The image that the release was served from; none: a process of a host."""
    key = next((stage.key for stage in view.stages if stage.stage is Stage.BUILD), None)
    built = store.finished_stage(Stage.BUILD, key) if key else None
    return CellImage.model_validate(built.output["image"]).reference if built and "image" in built.output else None


def _import_report(view: ReleaseView, origin: ImportedFrom) -> str:
    """An imported release as Markdown: where it comes from, and that nobody here measured it."""
    return "\n".join(
        [
            f"Release {view.id} (`{view.cell}`): imported from a published card, not measured by FlagRelease",
            "",
            f"- source: `{origin.source}`",
            f"- SHA-256: `{origin.sha256}`",
            f"- lines that have no place on a card: {origin.unplaced}",
            f"- card: `flagrelease card render {view.id} --style classic --output FILE`",
        ]
    )


def places(view: ReleaseView, host: Settings) -> dict[str, str]:
    """Where the release's card, publications, evidence, results, and on this host its logs lie."""
    if view.imported:
        return {"results": f"flagrelease show {view.id}"}
    evidence = EvidenceFolder(host.evidence_url)
    found = {"card": str(host.output_path / view.cell / "README.md")}
    found |= {f"published ({p.publisher})": _place(p, host) for p in view.publications}
    found |= {f"evidence: {artefact.name}": evidence.path(artefact.sha256) for artefact in view.artefacts}
    found |= {name: str(path) for name, path in _logs(view, host) if path.exists()}
    found["results"] = f"flagrelease show {view.id}"
    return found


def _logs(view: ReleaseView, host: Settings) -> Iterator[tuple[str, Path]]:
    """What a release leaves in the work folder of its host, finished or not, where it was not removed since."""
    began = in_utc(view.started_at).timestamp()
    logs = sorted((host.work_path / "logs").glob(f"{view.cell}-{view.engine}-[0-9]*T[0-9]*.log"))
    if logs and logs[-1].stat().st_mtime >= began:
        yield "log of the server", logs[-1]
    speed = host.work_path / "speed" / f"{view.cell}-{view.engine}"
    if any(stage.stage is Stage.SPEED and not stage.reused_from for stage in view.stages):
        yield "runs of the load generator", speed
    for stage in view.stages:
        if stage.stage in (Stage.EVALUATE, Stage.ESCALATE):
            yield f"answers so far ({stage.stage})", host.work_path / "answers" / stage.key[:16]


def _place(publication: Publication, host: Settings) -> str:
    return str(Path(host.output_path) / "hub" / publication.target)
