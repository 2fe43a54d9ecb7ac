"""House styles and languages of cards, and the front matter that hubs read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from flagrelease.card.compose import in_language, in_style, measured_card
from flagrelease.card.data import Block, Card, CardData, Code, Origin, Section
from flagrelease.card.files import card_files, write_card
from flagrelease.card.render import render
from flagrelease.card.sections import HEADINGS, block_of
from flagrelease.card.styles import Language, Style
from flagrelease.errors import OutputError
from tests.unit import card_data
from tests.unit.outline import outline

TEMPLATES = Path(__file__).parents[2] / "templates" / "card"
CONTAINER = card_data.card(card_data.container_cell())
PROCESS = card_data.card(card_data.process_cell())
DATA = pytest.mark.parametrize("data", [CONTAINER, PROCESS], ids=["container", "process"])
LANGUAGES: tuple[Language, ...] = ("en", "zh")


def parts(data: CardData, style: Style, language: Language, *kinds: str) -> list[object]:
    found = outline(render(measured_card(data, style, language)))
    return [value for kind, value in found if kind in kinds]


@DATA
def test_classic_has_three_columns_and_nothing_about_verification(data: CardData) -> None:
    text = render(measured_card(data, Style.CLASSIC))
    table = parts(data, Style.CLASSIC, "en", "table")[0]
    assert isinstance(table, list)
    assert table[1:] == [["MMLU_5fewshot_@avg1", "82.400", "82.200"], ["AIME_0fewshot_@avg1", "82.400", "82.200"]]
    assert table[0][0] == "Metrics"
    assert "verified" not in text
    assert "Verdict" not in text
    assert list(card_files(measured_card(data, Style.CLASSIC))) == ["README.md"]


@DATA
def test_verified_adds_one_section_and_the_plot(data: CardData) -> None:
    classic = parts(data, Style.CLASSIC, "en", "heading")
    verified = parts(data, Style.VERIFIED, "en", "heading")
    assert [title for title in verified if title not in classic] == ["## How this was verified"]
    files = card_files(measured_card(data))
    assert list(files) == ["README.md", "differences.svg"]
    assert "](differences.svg)" in files["README.md"].decode()


@DATA
@pytest.mark.parametrize("style", Style)
def test_chinese_says_the_same_with_the_same_commands(data: CardData, style: Style) -> None:
    assert parts(data, style, "zh", "shell", "client") == parts(data, style, "en", "shell", "client")
    english, chinese = (parts(data, style, language, "heading") for language in LANGUAGES)
    assert [block_of(str(title)) for title in chinese] == [block_of(str(title)) for title in english]
    assert all(re.search("[\u4e00-\u9fff]", str(title)) for title in chinese)
    numbers = [
        [re.findall(r"\d+\.\d+", " ".join(row)) for table in parts(data, style, language, "table") for row in table]  # type: ignore[attr-defined]
        for language in LANGUAGES
    ]
    assert numbers[0] == numbers[1]


def test_every_block_has_prose_in_every_language() -> None:
    english, chinese = ({path.name for path in (TEMPLATES / language).iterdir()} for language in LANGUAGES)
    assert english == chinese
    assert {name.partition(".")[0] for name in english} <= set(Block)


def test_every_heading_is_understood() -> None:
    for block, heading in HEADINGS.items():
        for title in (heading.en, heading.zh, *heading.aliases, f"{heading.en} (version 2)", heading.en.upper()):
            assert block_of(title) is block
    assert block_of("Frequently Asked Questions") is None


@DATA
@pytest.mark.parametrize("language", LANGUAGES)
def test_hugging_face_reads_the_front_matter_that_was_meant(data: CardData, language: Language) -> None:
    card = measured_card(data, Style.VERIFIED, language)
    assert card.front_matter is not None
    read: dict[str, Any] = ModelCard(render(card)).data.to_dict()  # type: ignore[no-untyped-call]
    # The hub's client keeps results as objects and fills in what they leave out.
    meant = dict(card.front_matter)
    (index,) = meant.pop("model-index")
    (found,) = read.pop("model-index")
    assert read == meant
    assert found["name"] == index["name"]
    for ours, theirs in zip(index["results"], found["results"], strict=True):
        assert theirs["dataset"] == ours["dataset"]
        assert theirs["task"] == ours["task"]
        assert [{key: metric[key] for key in ("type", "value", "name")} for metric in theirs["metrics"]] == ours[
            "metrics"
        ]


def test_an_imported_card_says_that_it_is_not_verified() -> None:
    card = Card(
        origin=Origin(kind="imported", source="old.md", sha256="ab" * 32),
        release_name="Qwen3-8B-metax-FlagOS",
        chip="Metax",
        container_release=None,
        sections=[
            Section(level=1, title="Introduction", block=Block.INTRODUCTION),
            Section(level=2, title="Benchmark Result", block=Block.RESULTS),
            Section(level=2, title="Notes", contents=[Code(language="bash", lines=["echo 1"])]),
        ],
    )
    assert in_style(card, Style.CLASSIC) is card
    text = render(in_style(card, Style.VERIFIED))
    assert [value for kind, value in outline(text) if kind == "heading"] == [
        *("# Introduction", "## Benchmark Result", "## How this was verified", "## Notes")
    ]
    assert "read from `old.md` (SHA-256 `" + "ab" * 32 + "`)" in text
    assert not text.startswith("---")


def test_a_card_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_card(measured_card(PROCESS), tmp_path / "cell" / "README.md")
    assert sorted(file.name for file in path.parent.iterdir()) == ["README.md", "differences.svg"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the card"):
        write_card(measured_card(PROCESS), tmp_path / "file" / "README.md")


def test_an_imported_card_can_be_written_in_the_other_language() -> None:
    sections = [
        Section(level=1, title="Introduction", block=Block.INTRODUCTION),
        Section(level=2, title="Notes", contents=[Code(language="bash", lines=["echo 1"])]),
    ]
    card = Card(
        origin=Origin(kind="imported"), release_name="A", chip="Metax", container_release=None, sections=sections
    )
    assert in_language(card, "en") is card
    text = render(in_language(card, "zh"))
    assert "# 简介" in text
    assert "## Notes\n\n```bash\necho 1\n```" in text
    assert "模型 **A**" in text
