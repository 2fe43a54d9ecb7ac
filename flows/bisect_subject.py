"""What the report of a bisect says of what was bisected: versions, texts, and what checks found of the culprits."""

from __future__ import annotations

from typing import Any

from flagrelease import __version__
from flagrelease.bisect.checked import checked, versions_said
from flagrelease.bisect.journal import Journal
from flagrelease.bisect.records import BisectResult, Culprit
from flagrelease.bisect.report import Subject
from flagrelease.operators.cases import OPERATORS
from flagrelease.records import CanaryReference, CellImage
from flagrelease.settings import Settings
from flows.job import Job
from runtime import operators

TEXT_SHOWN = 256
"""Tokens of the text that a report carries, at most."""


def _involved(culprit: Culprit) -> list[str]:
    return [culprit.operator, *culprit.partners]


def about_it(job: Job, baseline_id: str, image: CellImage | None, host: Settings, result: BisectResult) -> Subject:
    """What was bisected, with what checks on this host found of the culprits and of those they are wrong with."""
    key, source = job.cell.cell.model, job.cell.model.source
    folder, own = source.local_dir, source.repository.rpartition("/")[2]
    involved = {name for culprit in result.culprits for name in _involved(culprit)}
    served = job.version_in(image)
    versions = image.versions if image else versions_said(served)
    names = [key, source.repository, own, *([folder] if folder else [])]
    found = {name: checked(host.work_path / "operators", name, names, versions) for name in involved}
    model = key if folder else f"FOLDER/{own}/config.json"
    return Subject(
        model=source.repository,
        chip=job.cell.chip.display,
        engine=job.engine.name,
        baseline_id=baseline_id,
        versions={job.engine.display: served, **(image.versions if image else {}), "FlagRelease": __version__},
        functions={name: operators.functions([name]) for name in involved},
        checked={name: each for name, each in found.items() if each},
        shapes={name: each.sizes for name, each in found.items() if each and each.sizes},
        check={
            name: f"flagrelease operators check --operator {name} --model {model}"
            for name in involved
            if name in OPERATORS
        },
    )


def shown_by(
    culprit: Culprit, result: BisectResult, journal: Journal, reference: CanaryReference | None
) -> dict[str, list[Any]]:
    """What the culprit, or it with its partners, showed, as fields of a `Subject`; empty where it crashed.

    The beginning of the text that differs most, or the questions that were answered wrongly and any text.
    """
    measured = journal.measured[frozenset(result.operators) - set(_involved(culprit)), 0]
    texts = measured.canary.worst[:1] if measured.canary else [0] if measured.wrong else []
    worst = [reference.prompts[number] for number in texts] if reference else []
    return {
        "text": [token for text in worst for token in [*text.prompt, *text.continuation]][:TEXT_SHOWN],
        "wrong": [f"{name}: `{item}`" for name, items in (measured.wrong or {}).items() for item in items],
    }
