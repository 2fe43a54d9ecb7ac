"""The five source cards, rendered `classic` from the facts in matrix.yaml, against facts kept as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagrelease.card.compose import published_card
from flagrelease.card.render import render
from flagrelease.card.styles import Style
from flagrelease.loading import load_chips, load_matrix, resolve
from tests.unit.outline import outline

# Headings, tables, commands (as tokens), snippet values and links of each card, in their order; no prose.
SOURCES: dict[str, list[list[Any]]] = json.loads(Path(__file__).with_name("source_cards.json").read_text())
MATRIX = load_matrix(Path(__file__).parents[2] / "matrix.yaml")
# What they say in prose: release, chip, container release, where the weights come from.
PROSE = {
    "qwen3-metax": ("Qwen3-8B-Metax", "Metax", "FlagOS-Metax", "Qwen/Qwen3-8B"),
    "minimax-nvidia": ("MiniMax-M2-FlagOS", "Nvidia", "FlagOS-Nvidia", "MiniMax/MiniMax-M2"),
    "minicpmv4-metax": ("MiniCPM-V-4-metax-FlagOS", "Metax", "FlagOS", "OpenBMB/MiniCPM-V-4"),
    "robobrain2-7b-metax": ("RoboBrain2.0-7B-metax-FlagOS", "Metax", "FlagOS", "BAAI/RoboBrain2.0-7B"),
    "step3-nvidia": ("step3-FlagOS", "Nvidia", "FlagOS", "stepfun-ai/step3"),
}


@pytest.mark.parametrize("cell", SOURCES)
def test_classic_equals_the_source_card(cell: str) -> None:
    card = published_card(resolve(MATRIX, load_chips(), cell), Style.CLASSIC)
    text = render(card)
    assert card.licence is not None
    assert (card.release_name, card.chip, card.container_release, card.licence.repository) == PROSE[cell]
    assert all(value in text for value in PROSE[cell])
    assert json.loads(json.dumps(outline(text))) == SOURCES[cell]


@pytest.mark.parametrize("cell", SOURCES)
def test_verified_says_that_nothing_is_verified(cell: str) -> None:
    text = render(published_card(resolve(MATRIX, load_chips(), cell)))
    assert "they are **not verified**" in text
    classic = [part for part in SOURCES[cell] if part[0] == "heading"]
    found = [list(part) for part in outline(text) if part[0] == "heading"]
    assert [part for part in found if part != ["heading", "## How this was verified"]] == classic
