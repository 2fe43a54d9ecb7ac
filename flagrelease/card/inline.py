"""Inline Markdown from outside, made safe to print on a card: no HTML, no images, no links but to the web."""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_right
from collections import defaultdict

from flagrelease.card.text import escaped

_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_BREAKS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_AUTOLINK = re.compile(r"(?i)<(https?://[^<>\s]*)>")
# A run of backslashes is matched from its begin only, so that a long one is looked at once.
_ANGLE = re.compile(r"(?<!\\)(\\*)<")
_IMAGE = re.compile(r"(?<!\\)(\\*)!\[")
_BAR = re.compile(r"(?<!\\)(\\*)\|")
_LAST = re.compile(r"(?<!\\)\\+\Z")
_LINK = re.compile(r"(?i)\]\((?!\s*https?://)")
_CLOSING = re.compile(r"(?:(?<=\s)|\A)#+\Z")


def clean(line: str) -> str:
    """A line without control characters and those that reorder or hide text; tabs stay."""
    if line.isprintable():
        return line
    return "".join(
        " " if char in _BREAKS else char
        for char in line
        if char == "\t" or char in _BREAKS or unicodedata.category(char) not in _UNPRINTABLE
    )


def safe_title(text: str) -> str:
    """A heading's text; a `#` at its end stays part of it."""
    title = _safe(" ".join(line.strip() for line in text.split("\n")))
    return _CLOSING.sub(lambda match: f"\\{match[0]}", title)


def safe_cell(text: str) -> str:
    """The text of a table's cell, whose bars came without the backslash that escapes them."""
    cell = _BAR.sub(lambda match: "&#92;" * (len(match[1]) // 2) + r"\|", _safe(text))
    return _LAST.sub(lambda match: "&#92;" * ((len(match[0]) + 1) // 2), cell)


def plain_text(inline: str) -> str:
    """Inline Markdown as the text that a reader sees, in one line: no escapes, and no marks around the whole of it."""
    text = inline.strip()
    for mark in ("**", "__", "`", "*"):
        inner = text[len(mark) : -len(mark)]
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark) and mark not in inner:
            text = inner
    return clean(html.unescape(_ESCAPED.sub(r"\1", text))).replace("\t", " ").strip()


def _safe(text: str) -> str:
    text = _ENTITY.sub(_printable_entity, text.replace("\t", " ")).strip()
    text = _AUTOLINK.sub(r"\1", _without_code(text) if "`" in text else text)
    text = _ANGLE.sub(lambda match: match[1][: len(match[1]) // 2 * 2] + "&lt;", text)
    text = _IMAGE.sub(lambda match: match[0] if len(match[1]) % 2 else f"{match[1]}&#33;[", text)
    return _LINK.sub("]&#40;", text)


def _printable_entity(match: re.Match[str]) -> str:
    """The entity as it stands; a space for one that stands for a character which `clean` removes."""
    body = match[0][1:-1]
    if body.startswith("#"):
        number = int(body[2:], 16) if body[1] in "xX" else int(body[1:])
        chars = chr(number) if number < 0x110000 else ""  # noqa: PLR2004 - the end of Unicode
    else:
        chars = html.unescape(match[0])
    return " " if any(unicodedata.category(char) in _UNPRINTABLE for char in chars) else match[0]


def _without_code(text: str) -> str:
    """`text` with the code spans as plain text that hold what must be escaped: entities mean nothing in code."""
    runs = [(match.start(), match.end()) for match in re.finditer("`+", text)]
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, (begin, end) in enumerate(runs):
        by_length[end - begin].append(index)
    parts, done, index = [], 0, 0
    while index < len(runs):
        begin, end = runs[index]
        same = by_length[end - begin]
        place = bisect_right(same, index)
        if place == len(same):
            index += 1
            continue
        closing = same[place]
        code = text[end : runs[closing][0]]
        if "<" in code or "![" in code or "](" in code:
            parts += [text[done:begin], escaped(code)]
            done = runs[closing][1]
        index = closing + 1
    return "".join([*parts, text[done:]])
