"""What changed between two inputs of a stage, in the words of the matrix, the most important first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from flagrelease.records import Record

SHOWN = 3
"""Changes of a stage that are named in words; the others are counted."""
HASH = 12
"""Letters of a hash that people compare."""
LONGEST = 60
"""Letters of a value in a sentence."""

# First key of a stage's inputs → what it is in words, the most important first.
_WHAT = {
    "weights": "weights",
    "format": "form of the weights",
    "converter": "converter of the weights",
    "image": "image inputs",
    "stack": "stack",
    "engine": "engine",
    "engine_version": "engine version",
    "engine_settings": "engine settings",
    "container": "container options",
    "benchmarks": "benchmark",
    "harnesses": "harness",
    "baseline": "baseline",
    "policy": "policy",
    "canary": "policy",
    "speed": "policy",
    "early_stop": "policy",
    "overrides": "policy",
    "load_generator": "load generator",
    "template": "card templates",
    "facts": "facts on the card",
    "conformance": "check of FlagGems' operators",
    "publisher": "publisher",
    "target": "publication's place",
    "publish": "whether it is published",
}
_RANK = {what: place for place, what in enumerate(_WHAT.values())}
_NO_FACTS = {
    ("cell", "tags"),
    ("cell", "schedule"),
    ("cell", "timeouts"),
    ("timeouts",),
    ("model", "reference", "revisions"),
}
"""What of a cell is no fact of a card: when it is released, how it is grouped, how long it may take, and what other
revisions are compared with.
"""
# Keys of the image's inputs that the matrix and the chip files call otherwise, or that are not theirs.
_IMAGE_WORDS = {"base": "base image", "chip_display": "the chip's name", "image": "container"}


class Change(Record):
    """One innermost value that changed."""

    what: str = Field(description="in words: image inputs, engine settings, policy, …")
    key: str = Field(description="innermost key, as the matrix calls it; empty where `what` says it all")
    old: Any = None
    new: Any = None
    text: str = Field(description="key and values in words, for example flaggems 3.0 → 3.1")


class Difference(NamedTuple):
    """Two JSON values that differ, and where; `_ABSENT` stands for one that is not there."""

    path: tuple[str, ...]
    old: Any
    new: Any


class _Absent:
    """There is no value."""


_ABSENT = _Absent()


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What differs between a stage's inputs then and now, the most important first."""
    found = [_change(difference) for difference in differences(_with_names(old), _with_names(new))]
    if old.get("speed", _ABSENT) is None or new.get("speed", _ABSENT) is None:
        # Where no load is put on the server, no generator is named.
        found = [change for change in found if change.what != _WHAT["load_generator"]]
    return sorted(_once(found), key=lambda each: _RANK.get(each.what, len(_RANK)))


def _with_names(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's inputs, with names for what weights of a hub are told by."""
    weights: Any = inputs.get("weights")
    named = (
        {"weights": dict(zip(("repository", "sha256", "revision"), weights, strict=False))} if _is_list(weights) else {}
    )
    return {**inputs, **named}


def no_facts() -> dict[str, Any]:
    """What of a cell is no fact of a card, as pydantic's `exclude` takes it."""
    found: dict[str, Any] = {}
    for *above, name in _NO_FACTS:
        inner = found
        for key in above:
            inner = inner.setdefault(key, {})
        inner[name] = True
    return found


def facts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What differs between a resolved cell (as JSON) then and now."""
    what = _WHAT["facts"]
    return [
        _worded(what, ".".join(path[1:] if path[0] == "cell" and len(path) > 1 else path), before, after)
        for path, before, after in differences(old, new)
        if not {path[:1], path[:2], path[:3]} & _NO_FACTS
    ]


def in_words(found: Sequence[tuple[str, str]]) -> str:
    """Changes (what, text) in one line, the first few by name: `image inputs changed: flaggems 3.0 → 3.1; …`."""
    groups: dict[str, list[str]] = {}
    for what, text in found[:SHOWN]:
        groups.setdefault(what, []).append(text)
    more = len(found) - SHOWN
    said = [f"{what} changed{': ' if any(texts) else ''}{', '.join(texts)}" for what, texts in groups.items()]
    return "; ".join(said) + (f"; and {more} more" if more > 0 else "")


def differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """The innermost places where two JSON values differ. Lists of things with names are compared by name."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, str(key)))
    elif _is_list(old) and _is_list(new):
        before, after = _named(old), _named(new)
        if before is not None and after is not None:
            yield from differences(before, after, path)
        elif all(map(_is_said, (*old, *new))):
            yield from _of_words(old, new, path)
        elif len(old) == len(new):
            for place, (one, other) in enumerate(zip(old, new, strict=True)):
                yield from differences(one, other, (*path, str(place)))
        else:
            yield Difference(path, old, new)
    elif old != new:
        yield Difference(path, old, new)


def _of_words(old: Sequence[Any], new: Sequence[Any], path: tuple[str, ...]) -> Iterator[Difference]:
    """Which words one list has and the other has not; where only their order differs, the lists as a whole."""
    gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
    yield from (Difference((*path, str(word)), word, _ABSENT) for word in gone)
    yield from (Difference((*path, str(word)), _ABSENT, word) for word in come)
    if old != new and not gone and not come:
        yield Difference(path, old, new)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _named(entries: Iterable[Any]) -> dict[str, Any] | None:
    """A list's entries by their names; none where they have no names, or not each its own."""
    found: dict[str, Any] = {}
    for entry in entries:
        name = _name(entry)
        if name is None or name in found:
            return None
        found[name] = entry
    return found


def _name(entry: Any) -> str | None:
    if not isinstance(entry, Mapping):
        return None
    if "component" in entry:
        # A pin: the matrix names most by what they are, the further ones by their package.
        return str(entry["package"] if entry["component"] == "packages" else entry["component"])
    return next((str(entry[key]) for key in ("benchmark", "key", "metric") if key in entry), None)


def _once(found: Iterable[Change]) -> list[Change]:
    return list({(change.what, change.key): change for change in found}.values())


def _change(difference: Difference) -> Change:
    (first, *rest), old, new = difference
    if first == "early_stop" and rest:
        # An evaluation that may be stopped early depends on what it is compared with.
        return _change(Difference(tuple(rest), old, new))
    what = _WHAT.get(first, first.replace("_", " "))
    if first == "image":
        return _worded(what, _image_key([first, *rest]), _version(old), _version(new))
    if first == "benchmarks" and rest[-1:] == ["definition"]:
        return Change(what=what, key=rest[0], old=old, new=new, text=f"{rest[0]} is asked or scored otherwise")
    if first == "overrides":
        return Change(
            what=what, key="overrides", old=_json(old), new=_json(new), text="overrides of the suite or model"
        )
    if first in ("canary", "speed"):
        rest = [first, *rest]
    if first in ("template", "facts", "conformance"):
        return Change(what=what, key="", old=old, new=new, text="")
    return _worded(what, ".".join(rest), old, new)


def _image_key(path: list[str]) -> str:
    match path:
        case ["image", "recipe", "pins", name, *_]:
            return name
        case ["image", "files", name]:
            return f"file {name}"
        case [*_, last]:
            return _IMAGE_WORDS.get(last, last)
    return ""


def _version(value: Any) -> Any:
    """Of a pin its version; other values are what they are."""
    return value["version"] if isinstance(value, Mapping) and "version" in value else value


def _worded(what: str, key: str, old: Any, new: Any) -> Change:
    name = f"{key} " if key else ""
    if isinstance(old, _Absent) or (old is None and not _is_said(new)):
        # Of a list's word the key says it all.
        text = f"{name}{_short(new)} added" if _is_said(new) and not key.endswith(str(new)) else f"{name}added"
    elif isinstance(new, _Absent) or (new is None and not _is_said(old)):
        text = f"{name}removed"
    elif _is_said(old) and _is_said(new):
        text = f"{name}{_short(old)} → {_short(new)}"
    else:
        text = key
    return Change(what=what, key=key, old=_json(old), new=_json(new), text=text)


def _json(value: Any) -> Any:
    return None if isinstance(value, _Absent) else value


def _is_said(value: Any) -> bool:
    """Whether a value can stand in a sentence."""
    return value is None or isinstance(value, str | int | float)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return f"{text[:HASH]}…"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
