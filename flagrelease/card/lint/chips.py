"""Which chips a card names, and which one it is about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flagrelease.card.lint.subject import Subject

_ARCHITECTURE = re.compile(r"(?i)arm64|aarch64|x86_64|amd64")
_CHIP_ROWS = re.compile(r"(?i)(?:chip|gpu|accelerator|device)\b(?!.*driver)")
_NAME = re.compile(r"[A-Za-z][\w.-]*")

IMAGE, COMMAND = "image", "start command"


class ChipClaim(NamedTuple):
    """Chips that one place of the card names."""

    place: str
    text: str
    chips: frozenset[str]


def claims(subject: Subject) -> list[ChipClaim]:
    """What every place of the card says of the chip; places that name none are left out."""
    return [claim for claim in _claims(subject) if claim.chips]


def marked_words(subject: Subject) -> dict[str, list[str]]:
    """Words of the commands that start container and server that belong to chips, with the keys of those."""
    words = dict.fromkeys(
        [*subject.facts.run_options, *(word for line in subject.facts.serve for word in line.split())]
    )
    text = "\n".join(words)
    marks = [(mark, chip.key) for chip in subject.knowledge.chips.values() for mark in chip.marks if mark in text]
    found: dict[str, list[str]] = {}
    for word in words:
        for mark, key in marks:
            # An option is only itself, not the begin of another one.
            if word.partition("=")[0] == mark if mark.startswith("-") else mark in word:
                found.setdefault(word, []).append(key)
    return found


def _claims(subject: Subject) -> Iterator[ChipClaim]:
    said, known = subject.facts, subject.knowledge
    printed = frozenset({key} if said.chip and (key := known.chip_of(said.chip)) else ())
    yield ChipClaim("introduction", said.chip or "", printed)
    names = [("release name", said.release_name), ("container image", subject.card.container_release)]
    names += [("candidate column", said.candidate_column)]
    names += [("request of the client", client.model) for client in said.clients]
    for place, name in dict.fromkeys(names):
        last = (name or "").rstrip("/").rpartition("/")[2]
        if _NAME.fullmatch(last):
            # The first word is the model's.
            yield ChipClaim(place, last, _named(subject, re.split(r"[-_]", last)[1:]))
    counted = Counter(word for chip in known.chips.values() for word in chip.sdk)
    # `cuda` is what several call their software.
    own = {word for word, count in counted.items() if count == 1}
    for image in subject.images:
        path = _ARCHITECTURE.sub("", image.partition("@")[0].partition("/")[2])
        words = [word for word in re.findall(r"[a-z]+", path.casefold()) if word in own or word not in counted]
        yield ChipClaim(IMAGE, image, _named(subject, words) | _software(subject, own.intersection(words)))
    for item, value in said.environment.items():
        words = re.findall(r"[a-z]+", f"{item} {value}".casefold())
        chips = _named(subject, re.findall(r"[A-Za-z]+", value)) if _CHIP_ROWS.search(item) else frozenset[str]()
        yield ChipClaim("environment table", item, chips | _software(subject, own.intersection(words)))
    for word, owners in marked_words(subject).items():
        yield ChipClaim(COMMAND, word, frozenset(owners))


def _named(subject: Subject, words: list[str]) -> frozenset[str]:
    return frozenset(key for word in words if (key := subject.knowledge.chip_of(word)))


def _software(subject: Subject, words: set[str]) -> frozenset[str]:
    return frozenset(key for key, chip in subject.knowledge.chips.items() if words.intersection(chip.sdk))
