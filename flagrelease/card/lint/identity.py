"""Rules on what the card is about: the same model, chip, weights and licence everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from flagrelease.card.lint.chips import COMMAND, IMAGE, ChipClaim
from flagrelease.card.lint.findings import Hit, Rule, Severity, listed
from flagrelease.card.lint.knowledge import licence_words
from flagrelease.card.lint.model_names import could_mean, family_of, same_model
from flagrelease.card.lint.subject import Claim, Subject, shortened

_MODEL_LIKE = re.compile(r"(?=.*\d).*[-.]")
"""A free name that is made as models' are, with a number and parts: not `default`, not `disk1`."""


def _models(subject: Subject) -> Iterator[Hit]:
    model = subject.model
    if model is None:
        return
    odd = [claim for claim in subject.full_names if not _is(subject, claim, model)]
    for name in dict.fromkeys(client.model for client in subject.facts.clients):
        word = subject.knowledge.stem(name)
        if _MODEL_LIKE.search(word) and not name.startswith("/") and not could_mean(word, model):
            odd.append(Claim("request of the client", name))
    if odd:
        said = [f"the {claim.place} says `{claim.name}`" for claim in odd]
        cause = f"elsewhere the card is about `{model}`, but {listed(said)}"
        yield Hit(odd[0].place, cause, subject.line(odd[0].name))


def _is(subject: Subject, claim: Claim, model: str) -> bool:
    """Whether a full name means the model; an introduction may speak of its family."""
    word = subject.knowledge.stem(claim.name)
    family = claim.place == "introduction" and word == claim.name.casefold() and family_of(word, model)
    return family or same_model(word, model)


def _repeated(subject: Subject) -> Iterator[Hit]:
    for claim in dict.fromkeys(subject.full_names):
        words = [word.casefold() for word in re.split(r"[-_]", claim.name)]
        twice = [one for one, two in pairwise(words) if one == two and one.isalpha()]
        if twice:
            yield Hit(claim.place, f"`{claim.name}` says `{twice[0]}` twice", subject.line(claim.name))


def _chips(subject: Subject) -> Iterator[Hit]:
    chip = subject.chip
    if chip is None:
        return
    odd: list[ChipClaim] = []
    for claim in subject.chip_claims:
        # A name may hold the word of another chip besides (`RoboBrain2.5-8B-NV-ascend`), an image may not.
        others = claim.chips - {chip}
        # What the start command uses is another rule's.
        if others and claim.place != COMMAND and (chip not in claim.chips or claim.place == IMAGE):
            odd.append(claim._replace(chips=others))
    if odd:
        said = [f"the {claim.place} (`{shortened(claim.text)}`) {_displays(subject, claim.chips)}" for claim in odd]
        cause = f"most of the card {_displays(subject, {chip})}, but {listed(said)}"
        yield Hit(odd[0].place, cause, subject.line(odd[0].text))


def _displays(subject: Subject, keys: Iterable[str]) -> str:
    known = subject.knowledge.chips
    return "says " + " and ".join(sorted(known[key].display if key in known else key for key in keys))


def _weights(subject: Subject) -> Iterator[Hit]:
    download, model = subject.facts.download, subject.model
    if download is None or model is None:
        return
    known = subject.knowledge
    line = subject.line(download.repository)
    if not same_model(known.stem(download.repository), model):
        cause = f"the card is about `{model}`, but downloads `{download.repository}`"
        yield Hit("download command", cause, line)
    elif _MODEL_LIKE.search(folder := known.stem(download.directory or "")) and not could_mean(folder, model):
        cause = f"the card is about `{model}`, but its weights go to `{download.directory}`"
        yield Hit("download command", cause, line)


def _licence_source(subject: Subject) -> Iterator[Hit]:
    licence, model = subject.facts.licence, subject.model
    if licence is None or licence.repository is None or model is None:
        return
    source = subject.knowledge.stem(re.sub(r"(?:\.git|/files|/tree/.*|/summary)/?$", "", licence.repository))
    if source and not same_model(source, model) and not family_of(source, model):
        cause = f"the card is about `{model}`, but the licence is that of `{licence.repository}`"
        yield Hit("licence", cause, subject.line(licence.repository))


def _licence(subject: Subject) -> Iterator[Hit]:
    said = []
    if subject.facts.licence:
        said.append(Claim("licence", subject.facts.licence.name))
    front = subject.card.front_matter or {}
    if isinstance(name := front.get("license"), str):
        other = front.get("license_name")
        said.append(Claim("front matter", other if name == "other" and isinstance(other, str) else name))
    real = subject.knowledge.licence(subject.facts.model_key, subject.model or "")
    for claim in said:
        words = licence_words(claim.name)
        if real and words and not any(word in words for word in real.words):
            cause = f"says `{claim.name}`, but the model is under {real.name}"
            yield Hit(claim.place, cause, subject.line(claim.name))
    if not real and len({licence_words(claim.name) for claim in said}) > 1:
        cause = " and ".join(f"the {claim.place} says `{claim.name}`" for claim in said)
        yield Hit("licence", cause, subject.line(said[0].name))


RULES = (
    Rule(
        "identity-mismatch",
        Severity.ERROR,
        "release name, columns, headings or the request name different models",
        "make every name say the model that was released",
        _models,
    ),
    Rule(
        "repeated-name-part",
        Severity.WARNING,
        "a name says a part twice, as in `…-FlagOS-FlagOS`",
        "leave the second one out",
        _repeated,
    ),
    Rule(
        "chip-mismatch",
        Severity.ERROR,
        "introduction, names, images or environment are about different chips",
        "find out which chip it was, and correct the other places",
        _chips,
    ),
    Rule(
        "weights-of-another-model",
        Severity.ERROR,
        "the download command fetches another model, or into another model's folder",
        "download the weights that were released",
        _weights,
    ),
    Rule(
        "licence-of-another-model",
        Severity.ERROR,
        "the licence line names the repository of another model",
        "name the repository that the weights come from, and its licence",
        _licence_source,
    ),
    Rule(
        "wrong-licence",
        Severity.ERROR,
        "the licence is not the model's, or licence line and front matter differ",
        "copy the licence from the model's own repository",
        _licence,
    ),
)
