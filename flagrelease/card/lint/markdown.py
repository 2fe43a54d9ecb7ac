"""Rules on the text itself: what was left in it, cut off, or is not closed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from flagrelease.card.lint.findings import Edit, Hit, Rule, Severity
from flagrelease.card.lint.subject import Nested, Subject, heading_block

# `<server_ip>` and other addresses that a reader fills in are the cards' convention; `<chip + …>` is prose.
_PLACEHOLDER = re.compile(
    r"待定|待补充|待更新|敬请期待|\b(?:TODO|TBD|FIXME|Lorem ipsum|X{4,}|Model-X)\b"
    r"|<[^<>\n]{0,40}\b[Dd]ownload\b[^<>\n]{0,40}>"
    r"|<(?i:(?:your[ _-]?)?(?:model|chip|vendor|image|version|repo(?:sitory)?|name)(?:[ _-](?:name|url|id))?)>"
)
_TEMPLATE = re.compile(r"\{\{[^{}\n]*\}\}|\{%[^{}\n]*%\}")
_PENDING = re.compile(r"(?i)\|\s*(evaluating|pending|running|in progress|评测中|进行中)\s*(?=\|)")
_CUT = re.compile(r"(?i)\b(?:a|an|the|of|and|or|such as|including|multiple(?: public)?|various)[ \t]*[.。][ \t]*$")
_LINK = re.compile(r"!?\[[^\]\[\n]{0,500}\]\(\s{0,9}<?([^)\s<>]+)|\b(?:src|href)=[\"']([^\"'\s]+)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//|#")
_BOLD = re.compile(r"(?<!\d)\*\*|\*\*(?!\d)")
_BLOCK_BEGIN = re.compile(r"\s*(?:[-*+]\s|\d+[.)]\s|\||#{1,6}\s|>)")
_LIST_MARK = re.compile(r"\s*(?:[-*+]\s+|\d+[.)]\s+|>\s*)?")


def _placeholder(subject: Subject) -> Iterator[Hit]:
    for index, line in enumerate(subject.lines):
        if found := _PLACEHOLDER.search(line):
            yield Hit("text", f"`{found[0]}` was never filled in", index + 1)
    for index, line in subject.prose:
        if found := _TEMPLATE.search(line):
            yield Hit("text", f"`{found[0]}` was never filled in", index + 1)
        elif found := _PENDING.search(line):
            yield Hit("table", f"`{found[1]}` stands where a result belongs", index + 1)


def _empty_metadata(subject: Subject) -> Iterator[Hit]:
    for key, value in (subject.card.front_matter or {}).items():
        if _is_empty(value):
            yield Hit("front matter", f"`{key}` is empty", subject.line(f"{key}:"))


def _is_empty(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_empty(each) for each in value)
    return value is None or value == ""


def _dead_link(subject: Subject) -> Iterator[Hit]:
    if subject.folder is None:
        return
    for index, line in subject.prose:
        for found in _LINK.finditer(re.sub(r"`[^`]*`", "", line)):
            target = found[1] or found[2]
            path = unquote(re.split(r"[#?]", target)[0])
            if path and not _SCHEME.match(target) and not (subject.folder / path.lstrip("/")).exists():
                yield Hit("text", f"`{target}` does not lie beside the card", index + 1)


def _bold(subject: Subject) -> Iterator[Hit]:
    paragraph: list[tuple[int, int]] = []
    for index, line in [*subject.prose, (len(subject.lines), "")]:
        if (paragraph and index != paragraph[-1][0] + 1) or not line.strip() or _BLOCK_BEGIN.match(line):
            yield from _unbalanced(subject, paragraph)
            paragraph = []
        if line.strip():
            marks = len(_BOLD.findall(re.sub(r"`[^`]*`|\\.", "", line))) if "**" in line else 0
            paragraph.append((index, marks))


def _unbalanced(subject: Subject, paragraph: list[tuple[int, int]]) -> Iterator[Hit]:
    if sum(count for _, count in paragraph) % 2 == 0:
        return
    index = next(index for index, count in paragraph if count % 2)
    line = subject.lines[index]
    edit = None
    if len(paragraph) == 1 and line.count("**") == 1 and re.search(r"\S\*\*(?:\W|$)", line):
        # It only closes, so it opens where the text begins.
        mark = _LIST_MARK.match(line)
        begin = mark.end() if mark else 0
        if not line[begin:].startswith("**"):
            edit = Edit(line=index + 1, removed=1, lines=[f"{line[:begin]}**{line[begin:]}"])
    yield Hit("text", "`**` is opened or closed once too often", index + 1, edit)


def _fence(subject: Subject) -> Iterator[Hit]:
    for nested in subject.unclosed:
        opened = nested.opened + 1
        where = "another one opens" if nested.again is not None else "the file ends"
        cause = f"the code block that opens on line {opened} is not closed before {where}"
        yield Hit("text", cause, opened, _closing(subject, nested))


def _closing(subject: Subject, nested: Nested) -> Edit | None:
    """The line that closes a block: before the first heading of a card that stands in it; there must be one."""
    fence = re.match(r"\s*([`~]{3,})", subject.lines[nested.opened])
    end = nested.again if nested.again is not None else len(subject.lines)
    for index in range(nested.opened + 1, end):
        line = subject.lines[index]
        # A comment in a shell, such as `# Container startup`, follows other code.
        if fence and heading_block(line) is not None and not subject.lines[index - 1].strip():
            while not subject.lines[index - 1].strip():
                index -= 1  # noqa: PLW2901
            return Edit(line=index + 1, removed=0, lines=[fence[1]])
    return None


def _cut_sentence(subject: Subject) -> Iterator[Hit]:
    for index, line in subject.prose:
        if not line.lstrip().startswith(("|", "#")) and (found := _CUT.search(line)):
            yield Hit("text", f"a sentence ends in `{found[0].strip()}`", index + 1)


def _file_end(subject: Subject) -> Iterator[Hit]:
    if subject.text and not subject.text.endswith("\n"):
        end = len(subject.lines)
        edit = Edit(line=end, removed=1, lines=[subject.lines[-1], ""])
        yield Hit("end of file", "the last line does not end in a newline", end, edit)


RULES = (
    Rule(
        "placeholder",
        Severity.ERROR,
        "text that somebody meant to replace: `待定`, `Evaluating`, `<Download URL>`, `TODO`",
        "write what belongs there, or leave the row out",
        _placeholder,
    ),
    Rule(
        "empty-metadata",
        Severity.WARNING,
        "a key of the front matter has no value",
        "give the value, or leave the key out",
        _empty_metadata,
    ),
    Rule(
        "dead-link",
        Severity.ERROR,
        "a relative link or image leads to a file that is not beside the card",
        "publish the file with the card, or link to where it lies",
        _dead_link,
    ),
    Rule(
        "unbalanced-bold",
        Severity.WARNING,
        "`**` is opened without being closed, or closed without being opened",
        "put in the missing `**`",
        _bold,
    ),
    Rule(
        "unclosed-code",
        Severity.ERROR,
        "a fenced code block is not closed, so what follows is shown as code",
        "close it where the code ends",
        _fence,
    ),
    Rule(
        "cut-sentence",
        Severity.WARNING,
        "a sentence ends in a word that must be followed by another",
        "finish the sentence",
        _cut_sentence,
    ),
    Rule(
        "no-final-newline",
        Severity.NOTE,
        "the file does not end in a newline",
        "end the last line",
        _file_end,
    ),
)
