"""The YAML block at the head of a card. Hugging Face and ModelScope each read their keys and keep the other's."""

from __future__ import annotations

import re
from typing import Any

import yaml

from flagrelease.card.data import CardData
from flagrelease.card.figures import ENGINES
from flagrelease.card.names import card_names
from flagrelease.card.styles import Language
from flagrelease.card.text import printable
from flagrelease.matrix import ResolvedCell
from flagrelease.records import digest

SCHEMA = 1
"""Version of the `flagrelease` block."""

_PIPELINES = {"text": "text-generation", "vision": "image-text-to-text", "embodied": "image-text-to-text"}


def of_cell(cell: ResolvedCell, engine: str, language: Language, release: CardData | None) -> dict[str, Any]:
    """Front matter of a cell's card; with `release` what was measured stands in it too."""
    model = cell.model
    pipeline = _PIPELINES[model.kind]
    data: dict[str, Any] = {"license": printable(model.licence.spdx).lower()}
    if data["license"] == "other":
        data["license_name"] = re.sub(r"[^a-z0-9.]+", "-", (model.licence.name or "other").lower()).strip("-")
        data["license_link"] = printable(model.licence.url)
    data |= {
        "base_model": printable(model.source.repository),
        "pipeline_tag": pipeline,
        "library_name": model.weights.format if model.weights else "transformers",
        "language": [language],
        "tags": ["flagrelease", cell.cell.stack.value, cell.chip.key, engine]
        + (["robotics"] if model.kind == "embodied" else []),
        "frameworks": ["llama.cpp" if engine == "llama_cpp" else "PyTorch"],
        "tasks": [pipeline],
        "flagrelease": _own_block(cell, release),
    }
    if release and release.rows:
        data["model-index"] = _model_index(release, pipeline)
    return data


def _own_block(cell: ResolvedCell, release: CardData | None) -> dict[str, Any]:
    block: dict[str, Any] = {"schema": SCHEMA, "cell": cell.id, "chip": cell.chip.key}
    if cell.container and not release:
        block["image"] = printable(cell.container.image)
    if release:
        if release.image:
            block["image"] = printable(release.image.reference)
        block |= {
            "release": release.release,
            "verdict": release.gate.verdict.value,
            "baseline": printable(release.gate.baseline_id),
            "evidence_sha256": digest({artefact.name: artefact.sha256 for artefact in release.evidence}),
        }
    return block


def _model_index(release: CardData, pipeline: str) -> list[dict[str, Any]]:
    """The scores of this release. Hubs take every number here for the model's own, so the baseline's stay out."""
    engine = ENGINES.get(release.engine, release.engine)
    return [
        {
            "name": printable(card_names(release.cell).release),
            "results": [
                {
                    "task": {"type": pipeline},
                    "dataset": {"name": printable(row.display), "type": printable(row.benchmark)},
                    "metrics": [
                        {
                            "type": "score",
                            "value": round(100 * row.candidate, 3),
                            "name": f"percent, {row.n} items × {row.repeats}, "
                            f"{engine} on {printable(release.cell.chip.display)}",
                        }
                    ],
                }
                for row in release.rows
            ],
        }
    ]


def as_yaml(data: dict[str, Any]) -> str:
    """The block between its two marks, keys in their order."""
    return f"---\n{yaml.dump(data, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=1000)}---\n"


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
