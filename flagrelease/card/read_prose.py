"""Values that stand in the prose of a card, in the wordings that published cards use, and in our own."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from flagrelease.card.data import LicenceLine
from flagrelease.card.inline import plain_text
from flagrelease.card.read_own import own_values
from flagrelease.records import Stack

_LONGEST = 4000
"""Characters of a paragraph in which values are looked for; no sentence of a card is longer."""

_NAME = r"\**(?P<name>[^\s*]{1,200})\**"
_CHIP = r"\**(?P<chip>[^\s*,.，。][^*,.，。\n]{0,40}?)\**"
_BOLD = r"\*\*(?P<name>[^\n]{1,300}?)\*\*"
_IDENTITY = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bthe {_BOLD} model (?:is|has been) (?:adapted|ported|migrated) (?:for|to) the {_CHIP} chips?\b",
        rf"\bthe {_NAME} model (?:is|has been) (?:adapted|ported|migrated) (?:for|to) the {_CHIP} chips?\b",
        rf"\b(?:adaptation and launch|adaptation|launch) of {_NAME} (?:on|for|to) (?:the )?{_CHIP} chips?\b",
        rf"^{_NAME} +provides an all-in-one deployment solution, enabling execution of \S{{1,200}} on {_CHIP} GPUs\b",
    )
]
_CONTAINER = re.compile(
    r"\breleased (?:\*\*(?P<bold>[^\n*]{1,100})\*\*|(?P<image>[^\s*]{1,100}))(?P<rest>[^\s*]{0,100}) container image",
    re.IGNORECASE,
)
_ENGINE = re.compile(r"\bintegration with the open-source \[?(?P<engine>FlagScale)\b", re.IGNORECASE)
_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&'()+,;=%-]{1,500}")
_LINK = re.compile(r"\[([^\[\]]{0,200})\]\((https?://[^()\s]{1,500})\)")
_HYPHEN = "[ \N{HYPHEN}\N{NON-BREAKING HYPHEN}-]?"
_TERMS = r"\**(?P<terms>[^\s，。;；*][^，。;；*]{0,80}?)\**"
_END = r"(?=\s*(?:[:：,，。;；(（<]|https?://|\.?\s*$|\.\s))"
_OPENED = rf"(?:open{_HYPHEN}sourced?|released|licen[cs]ed|distributed|available|published)"
_LICENCE = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"权重(?:文件)?\s*(?:来源于|来自|源自)\s*(?P<source>[^，,。；\s]{{1,300}})[，,。；\s]*"
        rf"(?:并)?(?:以|遵循|采用|基于|使用|按照?)\s*{_TERMS}\s*(?:协议|许可)",
        rf"\bweights?(?: files?)?(?: of this model)? (?:are |is )?"
        rf"(?:(?:derived |sourced |taken |obtained )?(?:comes? )?from|based on) "
        rf"`?(?P<source>[^\s`]{{1,300}}?)`?[,，.;]? (?:and |they )?(?:are |is )?"
        rf"(?:{_OPENED} )?(?:with|under|by) (?:the )?{_TERMS}(?:\s*licen[cs]e)?{_END}",
        rf"(?:以|遵循|采用|基于|使用)\s*{_TERMS}\s*(?:协议|许可)",
        rf"\b{_OPENED} under (?:the )?{_TERMS}(?:\s*licen[cs]e)?{_END}",
        # Nothing but the licence's name.
        r"^\W*(?:licen[cs]e\W{1,3})?(?P<terms>(?:apache|mit|bsd|[al]?gpl|mpl|cc[- ]by|gemma|llama|openrail)"
        rf"[\w .+-]{{0,40}}?)(?:\s*licen[cs]e)?{_END}",
    )
]


class Value(NamedTuple):
    """A value that was found: the card's field, what it holds, and where in the text it stands."""

    field: str
    value: str | Stack | LicenceLine
    begin: int
    end: int


def values(text: str, *, licence: bool) -> list[Value]:
    """The card's values in a paragraph; a licence is looked for only where `licence` says that it may stand there."""
    if len(text) > _LONGEST:
        return []
    own = own_values(text)
    if own:
        return [Value(field, value, 0, len(text)) for field, value in own.items()]
    found: list[Value] = []
    if match := next((match for pattern in _IDENTITY if (match := pattern.search(text))), None):
        found += [Value("release_name", plain_text(match["name"]), *match.span())]
        found += [Value("chip", plain_text(match["chip"]), *match.span())]
    if match := _CONTAINER.search(text):
        found.append(
            Value("container_release", plain_text(match["bold"] or match["image"]) + match["rest"], *match.span())
        )
    if match := _ENGINE.search(text):
        found.append(Value("engine", match["engine"], *match.span()))
    return found + (_licence(text) if licence else [])


def letters(line: str) -> str:
    """The letters of a line alone: what stays the same where marks, links, spaces, numbers and case differ."""
    return "".join(filter(str.isalpha, _LINK.sub(r"\1", line).casefold()))


def known(text: str) -> bool:
    """Whether the text is a sentence that published cards share, and that says nothing of the release."""
    return line_hash(text) in _known_lines()


def line_hash(text: str) -> str:
    """What known_lines.txt holds of a line: the begin of its hash."""
    return hashlib.sha256(letters(text).encode()).hexdigest()[:16]


@cache
def _known_lines() -> frozenset[str]:
    text = (files("flagrelease.card") / "known_lines.txt").read_text()
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def _licence(text: str) -> list[Value]:
    unlinked = _LINK.sub(r"\1: \2 ", text)
    for pattern in _LICENCE:
        match = pattern.search(unlinked)
        if match is None:
            continue
        source = match.groupdict().get("source")
        url = _URL.search(unlinked, match.end("terms"))
        return [
            Value(
                "licence",
                LicenceLine(
                    repository=plain_text(source) if source else None,
                    name=plain_text(match["terms"]),
                    url=url[0].rstrip(".,;:)'") if url else None,
                ),
                0,
                len(text),
            )
        ]
    return []
