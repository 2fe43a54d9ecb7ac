"""The blocks of a Markdown text with their lines: headings, tables, code, prose."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_SEPARATOR = frozenset("|:- \t")
_WITHIN = re.compile(r"(?:\s*(?:>|[-*+]\s|\d{1,9}[.)]\s))*")
"""Marks of the quotes and lists that a table's line may stand in."""
_BAR = re.compile(r"\\.|(\|)")
_PROGRAMS = re.compile(
    r"\s*(?:\$ )?(?:sudo |[A-Z_0-9]+=\S+ )*"
    r"(?:docker|podman|pip3?|modelscope|huggingface-cli|hf|flagscale|vllm|python3?|curl|cd|source|export|bash|import)\s"
)
"""What the lines of an indented block begin with, where it is code; otherwise it is prose that was indented."""


class Heading(NamedTuple):
    """A heading: its level and its raw inline text."""

    line: int
    level: int
    text: str


class TableBlock(NamedTuple):
    """A table: raw cells, its header first, each row as long as the header; lines with more cells, numbered."""

    line: int
    rows: list[list[str]]
    cut: list[tuple[int, str]]


class CodeBlock(NamedTuple):
    """A fenced or indented block: the line of its fence (before its first line), language and lines."""

    line: int
    language: str
    lines: list[str]


class Paragraph(NamedTuple):
    """Lines of prose that belong together, without the marks of lists and quotes."""

    line: int
    lines: list[str]


class Blocks(NamedTuple):
    """What a text is made of. Lines count from 0."""

    pieces: list[Heading | TableBlock | CodeBlock]
    prose: list[Paragraph]
    html: list[int]


def blocks(lines: list[str]) -> Blocks:
    """The blocks of the text, as CommonMark with tables has them; each list in the order of lines."""
    pieces: list[Heading | TableBlock | CodeBlock] = []
    prose: list[Paragraph] = []
    html: list[int] = []
    tokens = _parser().parse("\n".join(lines))
    index = 0
    while index < len(tokens):
        token = tokens[index]
        begin, end = token.map or (0, 0)
        if token.type == "heading_open":
            pieces.append(Heading(begin, int(token.tag[1]), tokens[index + 1].content))
        elif token.type == "table_open":
            index, table = _table(tokens, index, lines)
            pieces.append(table)
        elif token.type == "fence":
            # A fence that the end of the file closes has no newline after its last line.
            code = token.content.removesuffix("\n").split("\n") if token.content else []
            pieces.append(CodeBlock(begin, token.info.strip(), code))
        elif token.type == "code_block":
            content = token.content.rstrip("\n").split("\n")
            if any(map(_PROGRAMS.match, content)):
                pieces.append(CodeBlock(begin - 1, "", content))
            else:
                prose.append(Paragraph(begin, content))
        elif token.type == "html_block":
            html += (line for line in range(begin, end) if lines[line].strip())
        elif token.type == "paragraph_open":
            _paragraph(begin, tokens[index + 1].content.split("\n"), pieces, prose)
        index += 1
    return Blocks(sorted(pieces, key=lambda piece: piece.line), prose, html)


def separator(line: str) -> bool:
    """Whether the line is the one between a table's header and its rows."""
    return "|" in line and "-" in line and _SEPARATOR.issuperset(line)


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table").disable("reference")
    # Inline text is kept as it stands, and parsing it is the slow part.
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _table(tokens: list[Token], index: int, lines: list[str]) -> tuple[int, TableBlock]:
    """The table that begins at token `index`, and the index of its last token."""
    begin = (tokens[index].map or (0, 0))[0]
    rows: list[list[str]] = []
    while tokens[index].type != "table_close":
        if tokens[index].type == "tr_open":
            rows.append([])
        elif tokens[index].type == "inline":
            rows[-1].append(tokens[index].content)
        index += 1
    places = [begin, *range(begin + 2, begin + 1 + len(rows))]
    columns = len(rows[0])
    cut = [(n, lines[n]) for n in places if any(_cells(_WITHIN.sub("", lines[n], count=1))[columns:])]
    return index, TableBlock(begin, rows, cut)


def _paragraph(
    begin: int, lines: list[str], pieces: list[Heading | TableBlock | CodeBlock], prose: list[Paragraph]
) -> None:
    """A paragraph, less the tables in it whose separator has another number of columns than their header."""
    rest = 0
    place = 0
    while place + 1 < len(lines):
        if lines[place].lstrip().startswith("|") and _cells(lines[place]) and separator(lines[place + 1]):
            end = next((i for i in range(place + 2, len(lines)) if "|" not in lines[i]), len(lines))
            rows = [_cells(line) for line in (lines[place], *lines[place + 2 : end])]
            columns = max(map(len, rows))
            rows = [[cell.strip() for cell in row] + [""] * (columns - len(row)) for row in rows]
            pieces.append(TableBlock(begin + place, rows, []))
            if place > rest:
                prose.append(Paragraph(begin + rest, lines[rest:place]))
            rest = place = end
        else:
            place += 1
    if rest < len(lines):
        prose.append(Paragraph(begin + rest, lines[rest:]))


def _cells(line: str) -> list[str]:
    """The cells of a table's line; bars escaped by a backslash do not divide."""
    text = line.strip()
    ends = [match.start() for match in _BAR.finditer(text) if match[1]]
    starts = [-1, *ends]
    cells = [text[start + 1 : end] for start, end in zip(starts, [*ends, len(text)], strict=True)]
    if cells and not cells[0].strip():
        cells = cells[1:]
    if cells and not cells[-1].strip():
        cells = cells[:-1]
    return [cell.replace(r"\|", "|").strip() for cell in cells]
