"""What is wrong with text that is no YAML, in the words of the person who wrote it.

The two parsers (libyaml and PyYAML's own) name the same fault at the same place in different words of their own.
"""

from __future__ import annotations

import re

import yaml

LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""What ends a line for YAML."""
_CONFLICT = re.compile(r"(?:<{7}|={7}|>{7})(?: |$)")


class YamlFault(Exception):  # noqa: N818 - a place and words for another error
    """What is wrong, and at which line and column (from 1)."""

    def __init__(self, line: int, column: int, words: str) -> None:
        super().__init__(words)
        self.line = line
        self.column = column
        self.words = words


def in_words(error: yaml.MarkedYAMLError, text: str) -> YamlFault:
    """The fault that a parser found in `text`, where a person would look for it."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return YamlFault(1, 1, f"not valid YAML: {error.problem}")
    # A fault at the end of the text may lie behind its last line.
    lines = [*LINE_BREAK.split(text), ""]
    began = error.context_mark or mark
    if any(_CONFLICT.match(lines[place.line]) for place in (mark, began)):
        first = next(number for number, line in enumerate(lines, start=1) if _CONFLICT.match(line))
        return YamlFault(first, 1, "a merge conflict stands here; resolve it and delete its marks")
    line, column = lines[mark.line], mark.column
    if "\t" in (line[column : column + 1], *re.findall(r"^ *(\t)", line)):
        words = "a tab stands where YAML wants spaces; replace it by spaces"
        return YamlFault(mark.line + 1, line.index("\t") + 1, words)
    said = f"{error.context or ''}: {error.problem or ''}"
    if "node content" in said and not any(each.strip() for each in (line[column:], *lines[mark.line + 1 :])):
        last = max(number for number, each in enumerate(lines) if each.strip())
        return YamlFault(last + 1, len(lines[last]) + 1, "the file ends where a value is missing; are brackets open?")
    for pattern, at_beginning, words in _FAULTS:
        if re.search(pattern, said):
            place = began if at_beginning else mark
            char, opening = (lines[each.line][each.column : each.column + 1] for each in (place, began))
            return YamlFault(
                place.line + 1, place.column + 1, words.format(char=char, opening=opening, began=began.line + 1)
            )
    if "mapping values are not allowed" in said:
        words = _stray_colon(line[:column])
    elif "block mapping" in said or "block collection" in said:
        words = _out_of_line(line[:column], line[column : column + 1], began.line + 1, is_list="collection" in said)
    else:
        words = f"not valid YAML: {said.removeprefix(': ')}"
    return YamlFault(mark.line + 1, column + 1, words)


# What a parser says, whether the cause stands where its context begins, and the fault in words.
_FAULTS = (
    ("cannot start any token", False, "a text that begins with `{char}` needs quotes"),
    ("scanning an? (?:alias|anchor)", True, "a text that begins with `{char}` needs quotes"),
    ("scanning a block scalar", True, "a text that begins with `{char}` needs quotes"),
    ("scanning a directive", True, "a line that begins with `{char}` is no `key: value`; put the text in quotes"),
    ("(?:scanning|parsing) a tag", True, "a text that begins with `{char}` needs quotes"),
    ("quoted scalar: found unexpected end of stream", True, "the quote ({char}) that opens here is never closed"),
    ("quoted scalar: found unexpected document", True, "the quote ({char}) that opens here is never closed"),
    ("quoted scalar", False, "in double quotes a backslash has a meaning of its own; use single quotes"),
    ("found unexpected ':'", False, "between brackets a text with a colon in it needs quotes"),
    ("mapping keys are not allowed", False, "a text that begins with `{char}` needs quotes"),
    ("could not find expected ':'", True, "this line is no `key: value`: it has no colon with a space after it"),
    ("flow (?:sequence|mapping)", False, "the `{opening}` of line {began} is not closed, or a comma is missing here"),
    ("sequence entries are not allowed", False, "a list begins on a line of its own; or put the text in quotes"),
    ("node content", False, "a value is missing before this `{char}`, or the text needs quotes"),
    ("document start", False, "the document has ended above (`...` or `---`); keep one document in the file"),
    ("incompatible YAML document", False, "this version of YAML is not known; delete the line that begins with `%`"),
)


def _stray_colon(before: str) -> str:
    """Why a colon cannot stand after `before`, the beginning of its line."""
    if re.search(r": |[\]}\"']\s*$", before):
        return "a text with a colon and a space in it needs quotes"
    return "this line is indented too far, or the one above lacks a space after its colon"


def _out_of_line(before: str, char: str, began: int, *, is_list: bool) -> str:
    """Why what begins with `char` after `before`, the beginning of its line, is no part of the block around it."""
    if char == ":":
        return "a key is missing before this colon"
    if re.search(r"[\"']\s*$", before):
        return "text goes on after its closing quote; put the whole of it in quotes"
    if is_list:
        return f"this is no entry (`- …`) of the list that begins on line {began}; indent it as what it belongs to"
    return f"this line is not indented as the others of the block that begins on line {began}"
