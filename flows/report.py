"""A release as text for people: the verdict's table, the stages, and where everything lies."""

from __future__ import annotations

from pathlib import Path

from flagrelease.evidence import EvidenceFolder
from flagrelease.records import BenchmarkVerdict, GateResult, Publication
from flagrelease.settings import Settings
from flagrelease.store import Store
from flagrelease.store.queries import ImportedFrom, ReleaseView, release_view

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
    lines += [f"tool calls, {call.benchmark}: {call.reason}" for call in gate.fidelity]
    lines += [f"threshold of its own: {override}" for override in gate.overrides]
    return [*lines, *(f"note: {warning}" for warning in gate.warnings)]


def release_report(release: int, host: Settings) -> str:
    """Stages, times and places of a release as Markdown."""
    store = Store.open(host.store_url)
    try:
        view = release_view(store, release)
    finally:
        store.close()
    if view.imported:
        return _import_report(view, view.imported)
    lines = [f"Release {view.id} of `{view.cell}` through {view.engine}: {view.state}", ""]
    lines += ["| Stage | State | Time | From |", "|---|---|---|---|"]
    for stage in view.stages:
        origin = f"release {stage.reused_from}" if stage.reused_from else "this release"
        time = f"{stage.seconds:.1f} s" if stage.seconds is not None and not stage.reused_from else ""
        lines.append(f"| {stage.stage} | {stage.state} | {time} | {origin} |")
    lines += ["", *(f"- {name}: `{place}`" for name, place in places(view, host).items())]
    return "\n".join(lines)


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
    """Where the release's card, publications, evidence and results lie."""
    if view.imported:
        return {"results": f"flagrelease show {view.id}"}
    evidence = EvidenceFolder(host.evidence_url)
    found = {"card": str(host.output_path / view.cell / "README.md")}
    found |= {f"published ({p.publisher})": _place(p, host) for p in view.publications}
    found |= {f"evidence: {artefact.name}": evidence.path(artefact.sha256) for artefact in view.artefacts}
    found["results"] = f"flagrelease show {view.id}"
    return found


def _place(publication: Publication, host: Settings) -> str:
    return str(Path(host.output_path) / "hub" / publication.target)
