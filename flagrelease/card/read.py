"""Reading a card back: Markdown in, the same typed card out that `render` takes, and what could not be placed."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from flagrelease.card.data import Block, Card, Code, Content, LicenceLine, Origin, Section, Table
from flagrelease.card.inline import clean, safe_cell, safe_title
from flagrelease.card.names import understand
from flagrelease.card.read_blocks import Blocks, CodeBlock, Heading, Paragraph, TableBlock, blocks, separator
from flagrelease.card.read_client import plain_client
from flagrelease.card.read_front_matter import front_matter
from flagrelease.card.read_prose import Value, known, values
from flagrelease.card.render import render
from flagrelease.card.sections import block_of
from flagrelease.card.styles import Language
from flagrelease.errors import CardFileError
from flagrelease.records import Record

MAX_BYTES = 4_000_000
MAX_LINES = 20_000
MAX_COLUMNS = 200
LONGEST_TITLE = 200
"""Characters up to which a title may be one that we know."""

_MARK = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s")
_REMEDY = "give the README.md of a model, or a folder that holds some"


class Line(Record):
    """A line of the source that has no place on the card."""

    number: int = Field(description="from 1")
    text: str
    reason: str


class Reading(Record):
    """A card that was read, and where in its source everything stands. Lines count from 1."""

    card: Card
    source: str
    unplaced: list[Line]
    heading_lines: list[int] = Field(description="of each section")
    content_lines: list[list[int]] = Field(description="of each section's contents: the table's header, the fence")
    value_lines: dict[str, int] = Field(
        description="of each field of the card that stands in prose, where it was found"
    )

    def line_of(self, section: int, content: int, row: int | None = None) -> int:
        """Line of a content of a section, or of a row of its table or a line of its code, counted from 0."""
        begin = self.content_lines[section][content]
        if row is None:
            return begin
        return begin + row + (2 if isinstance(self.card.sections[section].contents[content], Table) else 1)


def read_card(text: str, *, source: str) -> Reading:
    """The card that `text` is, from a file called `source`.

    Raises CardFileError where the text is larger, or has more lines or columns, than any card.
    """
    sha256 = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    lines = _lines(text, source)
    reader = _Reader(source)
    cleaned = [clean(line) for line in lines]
    reader.unplace(
        (number for number, line in enumerate(lines) if cleaned[number] != line),
        lines,
        "control characters, or such as reorder or hide text, were removed from this line",
    )
    body, front_matter = reader.front_matter(cleaned)
    found = blocks([""] * body + cleaned[body:])
    sections = reader.sections(found)
    card = Card(
        origin=Origin(kind="imported", source=source, sha256=sha256),
        front_matter=front_matter,
        language=_language(sections),
        sections=sections,
        **reader.values(found.prose, sections),
    )
    reader.unplace(found.html, cleaned, "HTML has no place on a card")
    reader.prose(found.prose, cleaned, card)
    return Reading(
        card=card,
        source=source,
        unplaced=sorted(reader.unplaced, key=lambda line: line.number),
        heading_lines=reader.heading_lines,
        content_lines=reader.content_lines,
        value_lines=reader.value_lines,
    )


def read_card_file(path: Path, *, source: str | None = None) -> Reading:
    """The card in the file at `path`; raises CardFileError where it cannot be read, or is no text in UTF-8."""
    name = clean(source or path.name)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CardFileError(f"{clean(str(path))}: cannot be read: {error.strerror}", remedy=_REMEDY) from None
    if len(content) > MAX_BYTES:
        raise CardFileError(f"{clean(str(path))}: larger than {MAX_BYTES:,} bytes, so not a model card", remedy=_REMEDY)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CardFileError(
            f"{clean(str(path))}:{line}: byte {content[error.start]:#04x} is not UTF-8 text",
            remedy="convert the file to UTF-8, for example with iconv, and import it again",
        ) from None
    reading = read_card(text, source=name)
    origin = reading.card.origin.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    return reading.model_copy(update={"card": reading.card.model_copy(update={"origin": origin})})


def _lines(text: str, source: str) -> list[str]:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(text) > MAX_BYTES:
        raise CardFileError(f"{source}: larger than {MAX_BYTES:,} bytes, so not a model card", remedy=_REMEDY)
    if len(lines) > MAX_LINES:
        raise CardFileError(f"{source}: more than {MAX_LINES:,} lines, so not a model card", remedy=_REMEDY)
    for number, line in enumerate(lines, 1):
        if line.count("|") > MAX_COLUMNS and separator(line):
            msg = f"{source}:{number}: a table of more than {MAX_COLUMNS} columns"
            raise CardFileError(msg, remedy=f"correct line {number}, or {_REMEDY}")
    return lines


class _Reader:
    """Collects what is read: line numbers, and what has no place."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.unplaced: list[Line] = []
        self.heading_lines: list[int] = []
        self.content_lines: list[list[int]] = []
        self.value_lines: dict[str, int] = {}
        self.placed: set[int] = set()
        self.second: dict[int, str] = {}

    def unplace(self, numbers: Iterable[int], lines: list[str], reason: str) -> None:
        """Report lines, given by their numbers from 0."""
        self.unplaced += [Line(number=n + 1, text=clean(lines[n]), reason=reason) for n in numbers]

    def front_matter(self, lines: list[str]) -> tuple[int, dict[str, Any] | None]:
        """The line after the front matter, and what stands in it."""
        found = front_matter(lines)
        if found.fault:
            inside = (n for n in range(found.begin + 1, found.end - 1) if lines[n].strip())
            self.unplace(inside, lines, f"front matter that is no plain YAML: {found.fault}")
        self.value_lines |= {f"front_matter.{key}": line + 1 for key, line in found.lines.items()}
        return found.end, found.data

    def sections(self, found: Blocks) -> list[Section]:
        """The sections with their contents; what stands before the first heading is reported."""
        sections: list[tuple[Heading, list[Content]]] = []
        for piece in found.pieces:
            if isinstance(piece, Heading):
                sections.append((piece, []))
                self.heading_lines.append(piece.line + 1)
                self.content_lines.append([])
            elif sections:
                sections[-1][1].append(self.content(piece))
                self.content_lines[-1].append(piece.line + 1)
            else:
                self.before(piece)
        titles = [safe_title(heading.text) for heading, _ in sections]
        return [
            Section(
                level=heading.level,
                title=title,
                block=block_of(title) if len(title) <= LONGEST_TITLE else None,
                contents=contents,
            )
            for title, (heading, contents) in zip(titles, sections, strict=True)
        ]

    def content(self, piece: TableBlock | CodeBlock) -> Content:
        if isinstance(piece, CodeBlock):
            language = re.match(r"[\w+#.-]*", piece.language)
            return plain_client(piece.lines) or Code(language=language[0] if language else "", lines=piece.lines)
        for line, text in piece.cut:
            self.unplaced.append(
                Line(number=line + 1, text=text, reason="this row has more cells than its table has columns")
            )
        header, *rows = ([safe_cell(cell) for cell in row] for row in piece.rows)
        return Table(header=header, rows=rows)

    def before(self, piece: TableBlock | CodeBlock) -> None:
        """Report what stands before the first heading, where a card has no place for contents."""
        if isinstance(piece, TableBlock):
            header, *rows = (" | ".join(row) for row in piece.rows)
            numbered = [(piece.line, header), *enumerate(rows, piece.line + 2)]
        else:
            numbered = list(enumerate(piece.lines, piece.line + 1))
        reason = "a table or code before the first heading"
        self.unplaced += [Line(number=n + 1, text=text, reason=reason) for n, text in numbered if text.strip()]

    def values(self, prose: list[Paragraph], sections: list[Section]) -> dict[str, Any]:
        """The card's fields that stand in prose. The first of each kind counts; a second one is reported.

        Only a card without a section on its licence may name it elsewhere.
        """
        found: dict[str, Any] = {"release_name": None, "chip": None, "container_release": None}
        blocks = [None, *(section.block for section in sections)]
        for paragraph in prose:
            block = blocks[bisect_right(self.heading_lines, paragraph.line + 1)]
            licence = block is Block.LICENCE or Block.LICENCE not in blocks
            for value in values(" ".join(paragraph.lines), licence=licence):
                if isinstance(value.value, LicenceLine) and not value.value.repository and block is not Block.LICENCE:
                    continue
                lines = list(_lines_of(paragraph, value))
                if found.get(value.field) is None:
                    found[value.field] = value.value
                    self.value_lines[value.field] = lines[0] + 1
                    self.placed.update(lines)
                elif found[value.field] == value.value:
                    self.placed.update(lines)
                else:
                    what = f"another {value.field.replace('_', ' ')} than on line {self.value_lines[value.field]}"
                    self.second |= dict.fromkeys(lines, what)
        if "stack" not in found and found["release_name"]:
            stack = understand(found["release_name"], {}, {}).stack
            found |= {"stack": stack} if stack else {}
        return found

    def prose(self, paragraphs: list[Paragraph], lines: list[str], card: Card) -> None:
        """Report the prose that gave no value, is no sentence that cards share, and stands not on the rendered card."""
        ours: set[str] | None = None
        for paragraph in paragraphs:
            numbered = list(enumerate(paragraph.lines, paragraph.line))
            shared = known(" ".join(paragraph.lines))
            for number, line in numbered:
                if number in self.second:
                    self.unplace([number], lines, self.second[number])
                elif number not in self.placed and not shared and _says(line) and not known(line):
                    ours = ours or set(map(_says, render(card).split("\n")))
                    if _says(line) not in ours:
                        self.unplace([number], lines, "prose that has no place on a card")


def _says(line: str) -> str:
    """What a line says, without the marks of lists, spaces and case."""
    mark = _MARK.match(line)
    return "".join(filter(str.isalnum, line[mark.end() if mark else 0 :].casefold()))


def _lines_of(paragraph: Paragraph, value: Value) -> Iterator[int]:
    """Numbers of the lines of the paragraph that the value stands on."""
    begin = 0
    for number, line in enumerate(paragraph.lines, paragraph.line):
        if begin < value.end and value.begin < begin + len(line) + 1:
            yield number
        begin += len(line) + 1


def _language(sections: list[Section]) -> Language:
    """Chinese where most headings are."""
    chinese = sum(any("\u4e00" <= char <= "\u9fff" for char in section.title) for section in sections)
    return "zh" if 2 * chinese > len(sections) else "en"
