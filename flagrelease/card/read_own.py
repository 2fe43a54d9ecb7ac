"""Values in the prose of our own cards. The sentences are those of the templates, so no wording stands here."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from flagrelease.card.data import Block, Card, LicenceLine, Origin, Section
from flagrelease.card.inline import plain_text
from flagrelease.card.render import render
from flagrelease.card.styles import Language
from flagrelease.records import Stack

_LANGUAGES: tuple[Language, ...] = ("en", "zh")
_NAME, _CHIP, _IMAGE, _ENGINE, _SOURCE, _TERMS = (
    f"X{part}X" for part in ("name", "chip", "image", "engine", "source", "terms")
)
_URL = "https://url.invalid/"
_NOTHING: dict[str, Any] = {"release_name": None, "chip": None, "container_release": None}
# What `escaped`, `code_span` and `link` make of a value: whatever is Markdown stands in it as an entity.
_TEXT = r"[^\s*<>`|\[\]\\](?:[^*<>`|\[\]\\]{0,3000}?[^\s*<>`|\[\]\\])?"
_GROUPS = {
    _NAME: f"(?P<release_name>{_TEXT})",
    _CHIP: f"(?P<chip>{_TEXT})",
    _IMAGE: f"(?P<container_release>{_TEXT})",
    _ENGINE: f"(?P<engine>{_TEXT})",
    f"`{_SOURCE}`": rf"(?P<repository>`[\w .:/@+=,-]+`|{_TEXT})",
    _TERMS: f"(?P<name>{_TEXT})",
    f"<{_URL}>": rf"(?P<url><https?://[^\s<>]+>|{_TEXT})",
}

# Cards that have only some values. Of two that could match the same sentence the one with more values comes first.
_VARIANTS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"release_name": _NAME, "chip": _CHIP}, {}),
    ({"release_name": _NAME, "chip": _CHIP, "stack": Stack.NATIVE}, {"stack": Stack.NATIVE}),
    ({"release_name": _NAME}, {}),
    ({"release_name": _NAME, "stack": Stack.NATIVE}, {"stack": Stack.NATIVE}),
    ({"chip": _CHIP}, {}),
    ({"container_release": _IMAGE}, {}),
    ({"engine": "FlagScale"}, {"engine": "FlagScale"}),
    ({"engine": _ENGINE}, {}),
    ({"licence": LicenceLine(repository=_SOURCE, name=_TERMS, url=_URL)}, {}),
    ({"licence": LicenceLine(repository=_SOURCE, name=_TERMS)}, {}),
    ({"licence": LicenceLine(repository=None, name=_TERMS, url=_URL)}, {}),
    ({"licence": LicenceLine(repository=None, name=_TERMS)}, {}),
)


class _Sentence(NamedTuple):
    pattern: re.Pattern[str]
    given: dict[str, Any]


def own_values(text: str) -> dict[str, Any]:
    """Fields of the card that a paragraph gives, where it is a sentence of our templates; else none."""
    for sentence in _sentences():
        if match := sentence.pattern.fullmatch(text):
            found = {name: _plain(value) for name, value in match.groupdict().items()}
            if "name" in found:
                return {"licence": LicenceLine(**({"repository": None} | found))}
            return {**found, **sentence.given}
    return {}


def _plain(value: str) -> str:
    """The value that a template printed: as text, as a code span or as a link."""
    return plain_text(value[1:-1] if value[:1] + value[-1:] in {"``", "<>"} else value)


@cache
def _sentences() -> list[_Sentence]:
    """The sentences that stand on a card with a value, and not on one without any."""
    found = []
    for language in _LANGUAGES:
        plain = set(_prose({}, language))
        for values, given in _VARIANTS:
            for line in _prose(values, language):
                if line not in plain and (given or any(mark in line for mark in _GROUPS)):
                    found.append(_Sentence(_pattern(line), given))
    return found


def _prose(values: dict[str, Any], language: Language) -> list[str]:
    blocks = (Block.INTRODUCTION, Block.DEPLOYMENT, Block.LICENCE)
    card = Card(
        origin=Origin(kind="imported"),
        language=language,
        sections=[Section(level=1, title="-", block=block) for block in blocks],
        **(_NOTHING | values),
    )
    return [line.removeprefix("- ") for line in render(card).split("\n") if line and not line.startswith("#")]


def _pattern(line: str) -> re.Pattern[str]:
    pattern = re.escape(line)
    for mark, group in _GROUPS.items():
        pattern = pattern.replace(re.escape(mark), group)
    return re.compile(pattern)
