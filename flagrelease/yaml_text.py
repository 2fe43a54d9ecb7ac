"""YAML text as plain values, each with its line. What a person would not expect of YAML is refused, not guessed."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import yaml

from flagrelease.yaml_faults import LINE_BREAK, YamlFault, in_words

Where = tuple[str | int, ...]
"""Keys and indices (from 0) that lead to a value."""
Positions = dict[Where, int]
"""The line (from 1) of each value; of a value in a mapping, the line of its key."""
Problem = tuple[int | None, str]
"""Line, and what is wrong there; no line where it is the whole file."""

MAX_DEPTH = 30
MAX_ENTRIES = 10_000
"""Of one list or mapping. A file that is no matrix at all can hold a million, each wrong in several ways."""

_TOO_MANY = f"more than {MAX_ENTRIES:,} entries; nothing in this file has so many"
# libyaml is some ten times as fast; Python's own parser gives the same events.
_PARSER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+][0-9]+)?|[-+]?\.[0-9]+(?:[eE][-+][0-9]+)?")
_LARGEST = 2**63 - 1  # what programs and databases that read it as JSON can hold
# Beside YAML's own list: a byte order mark in the middle of a text.
_NO_TEXT = re.compile(f"{yaml.reader.Reader.NON_PRINTABLE.pattern}|\ufeff")
# What escapes in double quotes can hold besides: control characters, marks that turn text around, half characters.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_KEYS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}


class Reading(NamedTuple):
    """What a text holds."""

    data: Any
    positions: Positions
    problems: list[Problem]
    """Keys that are there twice or are no text."""
    surprises: list[Problem]
    """Values that YAML takes for something else than they look like, and text that hides something."""


def read(text: str) -> Reading:
    """The values in `text`, one document of plain YAML: without anchors, aliases and tags, which could make a small
    file expand without end or run code. Raises YamlFault where it is none.
    """
    if found := _NO_TEXT.search(text):
        before = LINE_BREAK.split(text[: found.start()])
        words = f"the character U+{ord(found.group()):04X} is not allowed; delete it"
        raise YamlFault(len(before), len(before[-1]) + 1, words)
    reader = _Reader(text)
    try:
        data = reader.document()
    except yaml.MarkedYAMLError as error:
        raise in_words(error, text) from None
    return Reading(data, reader.positions, reader.problems, reader.surprises)


def name_of(where: Where) -> str:
    """`where` as people read it: models.tiny.port."""
    return ".".join(short(str(part)) for part in where)


def short(text: str, longest: int = 60) -> str:
    """`text`, cut where it is longer than that."""
    return text if len(text) <= longest else f"{text[:longest]}…"


class _Reader:
    """Makes values of the parser's events, as they come: nothing is read beyond what is refused."""

    def __init__(self, text: str) -> None:
        self._parser = _PARSER(text)
        self.positions: Positions = {}
        self.problems: list[Problem] = []
        self.surprises: list[Problem] = []

    def document(self) -> Any:
        """The value of the text; none where there is nothing but comments."""
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        data = self._value(self._next(), (), 0)
        self._next()
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise _refused(event, "a second document begins here (`---`); keep one of them in the file")
        return data

    def _next(self) -> yaml.Event:
        event: yaml.Event = self._parser.get_event()
        return event

    def _value(self, event: yaml.Event, where: Where, depth: int) -> Any:
        self.positions.setdefault(where, _line(event))
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            words = "anchors (&) and aliases (*) are not allowed; write the value out, or quote it if it is text"
            raise _refused(event, words)
        if getattr(event, "tag", None) is not None:
            raise _refused(event, "tags (!) are not allowed; delete it, or quote the value if it is text")
        if depth > MAX_DEPTH:
            raise _refused(event, f"more than {MAX_DEPTH} levels; nothing in this file goes so deep")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, where)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(where, depth)
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            if len(items) == MAX_ENTRIES:
                raise _refused(event, _TOO_MANY)
            items.append(self._value(event, (*where, len(items)), depth + 1))
        return items

    def _mapping(self, where: Where, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        entries = 0
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if (entries := entries + 1) > MAX_ENTRIES:
                raise _refused(event, _TOO_MANY)
            if not isinstance(event, yaml.ScalarEvent):
                raise _refused(event, "this is no key; a text that begins with `{`, `[` or `*` needs quotes")
            line, key = _line(event), event.value
            here = (*where, key)
            wrong = self._wrong_key(event, where, result)
            if wrong is None:
                self._look_for_hidden(key, line, here)
                self.positions[here] = line
            else:
                self.problems.append((line, f"{name_of(here)}: {wrong}"))
            value = self._value(self._next(), here, depth + 1)
            if wrong is None:
                result[key] = value
        return result

    def _wrong_key(self, event: yaml.ScalarEvent, where: Where, known: dict[str, Any]) -> str | None:
        if event.anchor is not None or event.tag is not None:
            raise _refused(event, "anchors (&) and tags (!) are not allowed; put the key in quotes if it is text")
        if event.value in known:
            return f"this key is there twice, first on line {self.positions[*where, event.value]}; delete one"
        kind = self._kind(event)
        if kind == "merge":
            return "merging (`<<`) is not allowed; write the keys out"
        if kind in _KEYS:
            return f"YAML takes this key for {_KEYS[kind]}; put it in quotes"
        return None

    def _kind(self, event: yaml.ScalarEvent) -> str:
        """What YAML takes a scalar for: str, int, bool, …"""
        if not event.implicit[0]:
            return "str"
        tag: str = self._parser.resolve(yaml.ScalarNode, event.value, event.implicit)
        return tag.removeprefix(_TAG)

    def _scalar(self, event: yaml.ScalarEvent, where: Where) -> Any:
        text, kind, line = event.value, self._kind(event), self.positions[where]
        if kind == "null":
            return None
        if kind == "bool":
            return self._parser.bool_values[text.lower()]
        if kind not in {"int", "float"}:
            self._look_for_hidden(text, line, where)
            return text  # dates stay text: a schema says what they are
        try:
            make = self._parser.construct_yaml_int if kind == "int" else self._parser.construct_yaml_float
            number = make(yaml.ScalarNode(f"{_TAG}{kind}", text))
        except (ValueError, OverflowError):
            self._say(line, where, f"`{short(text)}` is not a number that can be read; put it in quotes if it is text")
            return None
        if isinstance(number, float) and not math.isfinite(number):
            self._say(line, where, f"must be a finite number, found `{short(text)}`")
        elif isinstance(number, int) and abs(number) > _LARGEST:
            self._say(line, where, f"`{short(text)}` is too large a number; put it in quotes if it is text")
        elif not _DECIMAL.fullmatch(text):
            meant = f"write {number} if that is meant, or put it in quotes if it is text"
            self._say(line, where, f"`{short(text)}` is the number {number} to YAML; {meant}")
        return number

    def _look_for_hidden(self, text: str, line: int, where: Where) -> None:
        if found := _HIDDEN.search(text):
            self._say(line, where, f"the text holds the hidden character U+{ord(found.group()):04X}; delete it")

    def _say(self, line: int, where: Where, words: str) -> None:
        self.surprises.append((line, f"{name_of(where)}: {words}"))


def _line(event: yaml.Event) -> int:
    mark: Any = event.start_mark  # never none in what a parser gives
    return int(mark.line) + 1


def _refused(event: yaml.Event, words: str) -> YamlFault:
    mark: Any = event.start_mark
    return YamlFault(mark.line + 1, mark.column + 1, words)
