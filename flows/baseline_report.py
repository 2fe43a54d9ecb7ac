"""A baseline as text for people, from the store or from its files: where it comes from, scores, noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Literal

from evaluation import baseline as baselines
from evaluation.catalogue import load_benchmarks
from evaluation.run import aggregate
from flagrelease.records import (
    BenchmarkRun,
    CanaryReference,
    Evaluation,
    ImportedBaseline,
    NoiseFloor,
    Provenance,
    Record,
    Result,
    Speed,
)
from flagrelease.settings import Settings
from flagrelease.store import Store
from flagrelease.store.queries import stored_baselines

Place = Literal["store", "files"]
HASH_SHOWN = 12
SCORES = ("Benchmark", "n", "Repeats", "Score", "95 % interval", "Changed when asked again")
ASKED = ("Benchmark", "Dataset", "Task", "Harness", "API", "Few-shot", "Generation")
PUBLISHED = ("Benchmark", "Score", "As printed", "n")


class MeasuredView(Record):
    """A measured baseline without its items."""

    id: str
    places: list[Place]
    provenance: Provenance
    benchmarks: list[BenchmarkRun]
    results: list[Result]
    floors: list[NoiseFloor]
    canary: CanaryReference | None
    speed: Speed | None

    def as_json(self) -> dict[str, Any]:
        """For programs; of the canary's texts only their number."""
        about = self.model_dump(mode="json")
        if self.canary is not None:
            about["canary"]["prompts"] = len(self.canary.prompts)
        return about


class ImportedView(Record):
    """Published scores that stand in for a baseline."""

    id: str
    places: list[Place]
    baseline: ImportedBaseline

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"id": self.id, "places": self.places, **self.baseline.model_dump(mode="json")}


BaselineView = MeasuredView | ImportedView


class BaselineEntry(Record):
    """A baseline in a list."""

    id: str
    places: list[Place]
    about: Provenance | ImportedBaseline | str
    """Where it comes from; in words why that cannot be read."""


def baseline_list(host: Settings) -> list[BaselineEntry]:
    """All baselines in the store and in the files that FlagRelease brings, by id."""
    with closing(Store.open(host.store_url)) as store:
        stored = stored_baselines(store)
    filed = baselines.listed()
    return [
        BaselineEntry(id=name, places=_places(stored=name in stored, filed=name in filed), about=about)
        for name, about in sorted((filed | stored).items())
    ]


def baseline_view(identifier: str, host: Settings) -> BaselineView:
    """The baseline with this id; raises BaselineError where there is none, or its files were changed."""
    with closing(Store.open(host.store_url)) as store:
        imported, stored = store.imported_baseline(identifier), store.evaluation_summary(baseline_id=identifier)
    filed = (baselines.SHIPPED / identifier).is_dir()
    places = _places(stored=(imported or stored) is not None, filed=filed)
    if baselines.is_imported(identifier):
        if filed or imported is None:
            imported = baselines.load_imported(identifier)
        return ImportedView(id=identifier, places=places, baseline=imported)
    # Files are read where there are any, so that a changed one is noticed.
    found = baselines.load(identifier) if filed or stored is None else stored
    return MeasuredView(
        id=identifier,
        places=places,
        provenance=found.provenance,
        benchmarks=found.benchmarks,
        results=aggregate(found) if isinstance(found, Evaluation) else found.results,
        floors=found.floors,
        canary=found.canary,
        speed=found.speed,
    )


def _places(*, stored: bool, filed: bool) -> list[Place]:
    places: list[Place] = ["store"] if stored else []
    return [*places, "files"] if filed else places


def facts(view: BaselineView) -> dict[str, str]:
    """Where the baseline comes from and what it has, by name."""
    kept = " and ".join(view.places)
    if isinstance(view, ImportedView):
        return {
            "kind": "published scores without items: a comparison is unpaired, and never CONSISTENT by itself",
            "model": view.baseline.model,
            "column": view.baseline.label,
            "source": view.baseline.source,
            "kept in": kept,
        }
    about = view.provenance
    canary, speed = view.canary, view.speed
    return {
        "kind": "measured",
        "model": f"{about.model} on {about.chip} ({about.stack}), weights {about.weights_sha256[:HASH_SHOWN]}",
        "engine": f"{about.engine} {about.engine_version}, {_json(about.engine_settings)}",
        "platform": about.platform,
        "image": about.image_digest or "none, served as a process",
        "harness": ", ".join(f"{name} {version}" for name, version in about.harnesses.items()),
        "measured": f"{about.created}, by FlagRelease {about.code_version}",
        "noise": "; ".join(dict.fromkeys(floor.how for floor in view.floors)) or "not measured",
        "canary": f"yes, {len(canary.prompts)} texts ({canary.how})" if canary else "no",
        "speed": f"yes, {len(speed.points)} workloads by {speed.tool}" if speed else "no",
        "kept in": kept,
    }


def score_rows(view: BaselineView) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the scores; of a measurement in percent."""
    shown = {benchmark.key: benchmark.display for benchmark in load_benchmarks().values()}
    if isinstance(view, ImportedView):
        return PUBLISHED, [
            (shown.get(row.benchmark, row.benchmark), f"{100 * row.score:.2f}", row.printed, str(row.n or "not told"))
            for row in view.baseline.scores
        ]
    floors = {floor.benchmark: floor for floor in view.floors}
    return SCORES, [
        (
            shown.get(row.benchmark, row.benchmark),
            str(row.n),
            str(row.repeats),
            f"{100 * row.score:.2f}",
            f"{100 * row.lower:.1f} … {100 * row.upper:.1f}",
            _floor(floors.get(row.benchmark)),
        )
        for row in view.results
    ]


def asked_rows(view: MeasuredView) -> list[tuple[str, ...]]:
    """How each benchmark was asked; hashes by their first digits."""
    return [
        (
            run.benchmark,
            run.dataset_sha256[:HASH_SHOWN] or "by the harness",
            run.task_sha256[:HASH_SHOWN],
            run.harness,
            run.api,
            str(run.few_shot),
            _json(run.generation),
        )
        for run in view.benchmarks
    ]


def markdown(view: BaselineView) -> str:
    """All of it as Markdown."""
    lines = [f"Baseline `{view.id}`", "", *(f"- {name}: {value}" for name, value in facts(view).items())]
    tables = [score_rows(view)]
    if isinstance(view, MeasuredView):
        tables.append((ASKED, asked_rows(view)))
    for header, rows in tables:
        lines += ["", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _floor(floor: NoiseFloor | None) -> str:
    return f"{floor.flips} of {floor.n} (ψ {floor.discordance:.3g})" if floor else "not measured"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
