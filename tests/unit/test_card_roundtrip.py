"""Cards are read and rendered again: nothing of what they say beside prose changes."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from flagrelease.card.compose import measured_card, published_card
from flagrelease.card.data import Block, Card, Client, Code, LicenceLine, Origin, Section, Table
from flagrelease.card.facts import facts
from flagrelease.card.read import read_card
from flagrelease.card.render import render
from flagrelease.card.styles import Language, Style
from flagrelease.loading import load_chips, load_matrix, resolve
from tests.conftest import ROOT
from tests.unit import card_data
from tests.unit.card_texts import Source, nasty_texts, sources

PROSE = ("release_name", "chip", "container_release", "engine", "licence")
_CHARACTERS = "aZ09 é中文ß.,:;!?%#@'\"\\/+=~^×−<>|`*_[](){}$&😀"
FRAME = "# Introduction\n\n## Integrated Deployment\n\n# License\n\n"
exhaustively = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def again(card: Card) -> Card:
    """The card as it is read from its own rendering."""
    return read_card(render(card), source="again").card.model_copy(update={"origin": card.origin})


@pytest.mark.slow
@settings(exhaustively, max_examples=60)
@given(source=sources())
def test_everything_beside_prose_comes_back(source: Source) -> None:
    reading = read_card(source.text, source="card.md")
    card = reading.card
    assert [(section.level, section.title) for section in card.sections] == source.headings
    assert [[table.header, *table.rows] for table in _all(card, Table)] == source.tables
    assert [code.lines for code in _all(card, Code)] == source.codes
    assert (card.release_name, card.chip, card.container_release) == source[4:7]
    assert (card.licence and (card.licence.repository, card.licence.name, card.licence.url)) == source.licence
    assert _seen(render(card)) == _seen(source.text.removeprefix("\ufeff"))
    assert again(card) == card


@pytest.mark.slow
@settings(exhaustively, max_examples=150)
@given(text=nasty_texts)
def test_whatever_stands_in_a_file_is_read_into_a_safe_card(text: str) -> None:
    card = read_card(FRAME + text, source="card.md").card
    facts(card)
    assert again(card) == card
    assert "<script" not in _outside_code(card)
    assert "](javascript:" not in _outside_code(card)
    assert "![" not in _outside_code(card)
    assert not any(char in render(card) for char in "\u202e\0\x0b\u2028\u200d\ud800")


@settings(exhaustively, max_examples=60)
@given(
    base_url=st.sampled_from(["http://<server_ip>:9010/v1/", "http://127.0.0.1:8100/v1/"]),
    model=st.text(_CHARACTERS, min_size=1, max_size=30),
    content=st.text(_CHARACTERS, max_size=30),
    parameters=st.dictionaries(
        st.sampled_from(["temperature", "top_p", "stream", "max_tokens", "seed"]),
        st.one_of(st.booleans(), st.integers(-9, 10**6), st.floats(-5, 5), st.sampled_from(["auto"])),
    ),
)
def test_a_client_snippet_comes_back_with_its_values(
    base_url: str, model: str, content: str, parameters: dict[str, Any]
) -> None:
    client = Client(
        base_url=base_url, model=model, messages=[{"role": "user", "content": content}], parameters=parameters
    )
    card = Card(
        origin=Origin(kind="imported"),
        release_name=None,
        chip=None,
        container_release=None,
        sections=[Section(level=3, title="Invocation Script", block=Block.CLIENT, contents=[client])],
    )
    assert again(card).sections[0].contents == [client]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("style", Style)
@pytest.mark.parametrize("cell", [card_data.container_cell(), card_data.process_cell()], ids=["container", "process"])
def test_our_own_cards_are_understood(cell: Any, style: Style, language: Language) -> None:
    card = measured_card(card_data.card(cell), style, language)
    found = read_card(render(card), source="README.md").card
    for field in (*PROSE, "stack", "language", "front_matter"):
        assert getattr(found, field) == getattr(card, field), field
    known = [section for section in card.sections if section.block is not Block.VERIFICATION]
    assert [section for section in found.sections if section.block is not Block.VERIFICATION] == known


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_was_read_once_leaves_nothing_unplaced(language: Language) -> None:
    cell = resolve(load_matrix(ROOT / "matrix.yaml"), load_chips(), "qwen3-metax")
    first = read_card(render(published_card(cell, Style.CLASSIC, language)), source="card.md")
    assert first.unplaced == []
    assert read_card(render(first.card), source="card.md").unplaced == []


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"release_name": "a_b*c-FlagOS"},
        {"chip": "Moore & Threads <x>"},
        {"release_name": "[x](javascript:1)", "chip": "`N`", "container_release": "FlagOS|x", "engine": "vLLM \\ 1"},
        {"licence": LicenceLine(repository="a/b", name="MIT [x]")},
        {"licence": LicenceLine(repository="/data/my model", name="other", url="https://a.b/c?d=e&f")},
        {"licence": LicenceLine(repository=None, name="Gemma")},
        {"licence": LicenceLine(repository=None, name="Gemma", url="https://ai.google.dev/gemma/terms")},
    ],
)
def test_values_in_our_prose_come_back_whatever_they_hold(values: dict[str, Any], language: Language) -> None:
    titles = {"en": ("Introduction", "Integrated Deployment", "License"), "zh": ("简介", "集成部署", "许可协议")}
    blocks = (Block.INTRODUCTION, Block.DEPLOYMENT, Block.LICENCE)
    sections = [
        Section(level=1, title=title, block=block) for title, block in zip(titles[language], blocks, strict=True)
    ]
    nothing = {"release_name": None, "chip": None, "container_release": None}
    card = Card(origin=Origin(kind="imported"), language=language, sections=sections, **(nothing | values))
    assert again(card) == card


def _seen(text: str) -> list[tuple[str, ...]]:
    """Headings, cells and fenced lines as another reader of Markdown finds them."""
    body = re.sub(r"\A---\n.*?\n---\n", "", text.replace("\r\n", "\n"), flags=re.DOTALL)
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    seen: list[tuple[str, ...]] = []
    for before, token in pairwise(tokens):
        if token.type == "fence":
            seen.append(("code", token.content))
        elif token.type == "inline" and before.type in {"heading_open", "th_open", "td_open"}:
            seen.append((before.type, before.markup, token.content.strip()))
    return seen


def _all(card: Card, kind: Any) -> list[Any]:
    return [content for section in card.sections for content in section.contents if isinstance(content, kind)]


def _outside_code(card: Card) -> str:
    """The headings and cells of the card."""
    cells = [cell for table in _all(card, Table) for row in (table.header, *table.rows) for cell in row]
    return "\n".join([*(section.title for section in card.sections), *cells]).casefold()
