"""Card in, Markdown out. The same card gives the same bytes: no clock, no environment, no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateNotFound

from flagrelease.card import figures
from flagrelease.card.compose import release_options
from flagrelease.card.data import Block, Card, Client, Code, Content, Section, Table
from flagrelease.card.front_matter import as_yaml
from flagrelease.card.names import card_names
from flagrelease.card.styles import Language
from flagrelease.card.text import code_span, escaped, fenced, link, printable, shell_token
from flagrelease.records import digest
from flagrelease.settings import data_path

PLOT = "differences.svg"
"""Name of the plot of the differences, beside the card."""

_PLACED = {Block.RESULTS, Block.VERIFICATION, Block.GUIDE, Block.PACKAGES, Block.SERVE}
"""Blocks whose template says where the contents stand; in all others they follow the prose."""


def render(card: Card) -> str:
    """The model card (README.md), front matter included."""
    context = _context(card)
    parts = [_section(card, section, context) for section in card.sections]
    head = as_yaml(card.front_matter) + "\n" if card.front_matter is not None else ""
    return head + "\n\n".join(parts) + "\n"


def shows_plot(card: Card) -> bool:
    """Whether the card shows the plot of the differences: where any were measured, and the style says how."""
    compared = card.measured is not None and bool(card.measured.gate.benchmarks)
    return compared and any(section.block is Block.VERIFICATION for section in card.sections)


def template_sha256() -> str:
    """Hash over all template files: a changed template is a new card."""
    folder = _folder()
    files = (path for path in folder.rglob("*") if path.is_file())
    return digest(
        {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    )


def _folder() -> Path:
    return data_path("templates") / "card"


def _section(card: Card, section: Section, context: Mapping[str, object]) -> str:
    heading = f"{'#' * section.level} {section.title}".rstrip()
    contents = "\n\n".join(_content(content) for content in section.contents)
    template = _template(section.block, card.language) if section.block else None
    if template:
        prose = template.render(context, contents=contents).strip("\n")
        placed = section.block in _PLACED or not contents
        contents = prose if placed else f"{prose}\n\n{contents}".lstrip("\n")
    return f"{heading}\n\n{contents}" if contents else heading


def _content(content: Content) -> str:
    match content:
        case Table():
            rows = [content.header, ["---"] * len(content.header), *content.rows]
            return "\n".join(f"| {' | '.join(row)} |" for row in rows)
        case Code():
            return fenced(content.language, content.lines)
        case Client():
            return fenced("python", snippet(content))


def snippet(client: Client) -> list[str]:
    """A chat request through the `openai` package. A string in JSON is one in Python too."""
    roles = [
        f'    {{"role": {_literal(message["role"])}, "content": {_literal(message["content"])}}}'
        for message in client.messages
    ]
    return [
        "import openai",
        'openai.api_key = "EMPTY"',
        f"openai.base_url = {_literal(client.base_url)}",
        f"model = {_literal(client.model)}",
        "messages = [",
        *",\n".join(roles).splitlines(),
        "]",
        "response = openai.chat.completions.create(",
        "    model=model,",
        "    messages=messages,",
        *(f"    {name}={_literal(value)}," for name, value in client.parameters.items()),
        ")",
        "for item in response:",
        "    print(item)",
    ]


def _literal(value: object) -> str:
    return json.dumps(printable(value), ensure_ascii=False) if isinstance(value, str) else repr(value)


@cache
def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_folder() / language),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - the output is Markdown; the filters below escape for it
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        text=escaped,
        code=code_span,
        link=link,
        sh=shell_token,
        percent=figures.percent,
        points=figures.points,
        number=figures.number,
        engine=figures.engine,
        settings=figures.settings,
        versions=figures.versions,
    )
    return environment


@cache
def _template(block: Block, language: Language) -> Template | None:
    """The block's prose in the language; none where the block has no prose."""
    try:
        return _environment(language).get_template(f"{block}.md.j2")
    except TemplateNotFound:
        return None


def _context(card: Card) -> dict[str, object]:
    """What the templates see, beside the section's `contents`; `data` is what was measured, or none."""
    data = card.measured
    clients = [content for content in card.contents(Block.CLIENT) if isinstance(content, Client)]
    context: dict[str, object] = {
        "card": card,
        "data": data,
        "verified": any(section.block is Block.VERIFICATION for section in card.sections),
        "client": clients[0] if clients else None,
    }
    if data:
        context |= {
            "cell": data.cell.cell,
            "model": data.cell.model,
            "policy": data.cell.policy,
            "plot": PLOT if shows_plot(card) else None,
            "gate": data.gate,
            "names": card_names(data.cell),
            "runs": [run for run in (data.baseline, data.candidate) if run],
            "options": release_options(data),
            "unanswered": [finding for finding in data.gate.benchmarks if finding.missing],
            "operators": [artefact for artefact in data.evidence if artefact.kind == "operators"],
        }
    return context
