"""Text that may stand on a card: what a line, a heading and a table's cell can hold, and values made into them."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator

_BREAKS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that could break a line or reorder the text around them."""

_BAR = re.compile(r"(?<!\\)\||\\\\\|")
"""A bar that some reader of Markdown takes for the end of a cell: how many backslashes escape one differs."""

# Entities and not backslashes: how many backslashes escape a bar differs between Markdown readers.
_ESCAPES = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "|": "&#124;",
        "`": "&#96;",
        "*": "&#42;",
        "[": "&#91;",
        "]": "&#93;",
        "\\": "&#92;",
    }
)
_LINE = 96
"""Length from which a shell command is continued on the next line."""


def printable(value: object) -> str:
    """One line of text: whatever breaks a line or reorders text becomes a space."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(" " if unicodedata.category(char) in _BREAKS else char for char in text)


def _line(text: str) -> str:
    if text != printable(text):
        msg = f"a character that breaks or reorders a line: {text!r}"
        raise ValueError(msg)
    return text


def _code_line(text: str) -> str:
    _line(text.replace("\t", " "))
    return text


def _inline(text: str) -> str:
    if "<" in text:
        msg = f"HTML where inline Markdown is expected: {text!r}"
        raise ValueError(msg)
    return _line(text)


def _cell(text: str) -> str:
    if _BAR.search(text) or text.endswith("\\"):
        msg = f"a bar that ends the table's cell: {text!r}"
        raise ValueError(msg)
    return _inline(text)


CellText = Annotated[str, AfterValidator(_cell)]
"""A table's cell: inline Markdown without HTML, as it stands between the bars."""

TitleText = Annotated[str, AfterValidator(_inline)]
"""A heading: inline Markdown without HTML."""

CodeLine = Annotated[str, AfterValidator(_code_line)]
"""A line of code as it stands; tabs are allowed."""


def escaped(value: object) -> str:
    """A value as text in a table's cell or a sentence: one line, no Markdown or HTML of its own."""
    return printable(value).strip().translate(_ESCAPES)


def code_span(value: object) -> str:
    """A value as a code span; as plain text if it holds anything that could end one, or a table's cell."""
    text = " ".join(printable(value).split())
    return f"`{text}`" if re.fullmatch(r"[\w .:/@+=,-]+", text) else escaped(text)


def link(value: str) -> str:
    """A web address as a link; anything else as plain text."""
    return f"<{value}>" if re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&'()+,;=%-]+", value) else escaped(value)


def shell_token(value: object) -> str:
    """A value as one shell token."""
    return shlex.quote(printable(value))


def fenced(language: str, lines: Iterable[str]) -> str:
    """Lines of code in a fence that none of them can close."""
    lines = list(lines)
    longest = max((len(run) for line in lines for run in re.findall("^ {0,3}(`{3,})", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])


def docker_run(options: Sequence[str], name: str, image: str, command: Sequence[str]) -> list[str]:
    """The lines of a container's `docker run`; an option and its value stay on one line."""
    groups: list[list[str]] = []
    for option in options:
        if option.startswith("-") or not groups:
            groups.append([])
        groups[-1].append(option)
    if "--name" not in options:
        groups.append(["--name", name])
    groups.append([image, *command])
    lines = ["docker run"]
    for group in groups:
        tokens = " ".join(shell_token(token) for token in group)
        if len(lines[-1]) + len(tokens) > _LINE:
            lines[-1] += " \\"
            lines.append(" " * len("docker run"))
        lines[-1] += f" {tokens}"
    return lines
