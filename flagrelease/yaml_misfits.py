"""What of a file does not fit its model, in words and with its line."""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flagrelease.entry import KEY_PATTERN, SHA256_PATTERN
from flagrelease.yaml_text import Positions, Problem, Where, name_of, short

MAX_WORDED = 100
"""Problems that are put in words. Suggestions take time, and a file can be wrong in a hundred thousand places."""

_MAPPING = "a mapping (`key: value` lines)"
_NOUNS = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "`true` or `false`",
    "list": "a list",
    "tuple": "a list",
    "dict": _MAPPING,
    "model": _MAPPING,
}
_PATTERNS = {
    KEY_PATTERN: "only small letters, digits, `.`, `_` and `-`, and begin with a letter or digit",
    SHA256_PATTERN: "64 hexadecimal digits (0-9, a-f)",
}


def problems_of(
    error: ValidationError, model: type[BaseModel], data: Mapping[str, Any], positions: Positions, at: Where = ()
) -> list[Problem]:
    """What keeps `data`, which stands at `at` in the file, from being a `model`, in the order of the lines."""
    details = []
    for detail in error.errors(include_url=False):
        where = _place(data, detail["loc"], missing=detail["type"] == "missing")
        details.append((_line(positions, at + where), where, detail))
    details.sort(key=lambda each: each[0])
    worded, rest = details[:MAX_WORDED], details[MAX_WORDED:]
    # A misspelt key is one mistake, though it is unknown and the right one missing.
    misspelt = {
        (*where[:-1], nearest(str(where[-1]), _known_keys(model, where[:-1])))
        for _, where, detail in worded
        if detail["type"] == "extra_forbidden"
    }
    problems = [
        problem(positions, at + where, _in_words(model, where, detail))
        for _, where, detail in worded
        if detail["type"] != "missing" or where not in misspelt
    ]
    return [*dict.fromkeys(problems), *(problem(positions, at + where, detail["type"]) for _, where, detail in rest)]


def problem(positions: Positions, where: Where, text: str) -> Problem:
    """`text` on the value at `where`, with the line of the nearest thing around it that the file has."""
    return _line(positions, where), f"{name_of(where)}: {text}" if where else text


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that was probably meant by `word`."""
    names = {name.casefold(): name for name in sorted(known, reverse=True)}
    close = difflib.get_close_matches(word.casefold(), names, 1)
    return names[close[0]] if close else None


def suggest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that was probably meant by `word`; all of them where none is near."""
    names = sorted(known)
    close = nearest(word, names)
    return f"did you mean `{close}`?" if close else f"known are: {', '.join(names) or 'none'}"


def found(value: Any) -> str:
    """What stands in the file where something else is expected."""
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"the number {short(str(value))}"
    return f"the text `{short(str(value))}`"


def _line(positions: Positions, where: Where) -> int:
    while where not in positions:
        where = where[:-1]
    return positions[where]


def _place(value: Any, loc: Where, *, missing: bool) -> Where:
    """Where in the file pydantic's `loc` is: without the names of types and tags that it holds besides keys.

    `missing`: the last part is a key that the file lacks.
    """
    if not loc:
        return ()
    first, *rest = loc
    if missing and not rest:
        return loc if isinstance(value, dict) else ()
    without = _place(value, tuple(rest), missing=missing)
    is_key = isinstance(value, dict) and first in value
    is_index = isinstance(value, list) and isinstance(first, int) and first < len(value)
    if not is_key and not is_index:
        return without
    taken = (first, *_place(value[first], tuple(rest), missing=missing))
    return max(taken, without, key=lambda where: (where[-1:] == loc[-1:], len(where)))


def _in_words(model: type[BaseModel], where: Where, detail: ErrorDetails) -> str:
    """One of pydantic's errors as a person would say it."""
    kind, context = detail["type"], detail.get("ctx", {})
    noun, _, rest = kind.partition("_")
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key; {suggest(str(where[-1]), _known_keys(model, where[:-1]))}"
    if kind == "value_error":
        return str(context["error"])
    if noun in _NOUNS and rest in {"type", "parsing", "from_float"}:
        wanted = f"expected {_NOUNS[noun]}"
    elif kind in {"literal_error", "enum"}:
        wanted = "expected " + context["expected"].replace("'", "`")
    elif kind == "string_pattern_mismatch":
        wanted = f"must be {_PATTERNS.get(context['pattern'], 'text that matches ' + context['pattern'])}"
    else:
        wanted = re.sub(r"^[A-Z][a-z]+ should", "must", detail["msg"])
    return f"{wanted}, found {found(detail['input'])}{_hint(kind, detail)}"


def _hint(kind: str, detail: ErrorDetails) -> str:
    """How to mend it, where that is known."""
    value = detail["input"]
    if kind in {"literal_error", "enum"}:
        close = nearest(str(value), re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
        return f"; did you mean `{close}`?" if close else ""
    if kind == "string_type" and isinstance(value, bool):
        return "; YAML takes yes, no, on and off for true and false: put the text in quotes"
    if kind == "string_type" and isinstance(value, int | float):
        return "; put it in quotes"
    if isinstance(value, str) and kind.startswith(("int_", "float_")):
        return _as_number(value, whole=kind.startswith("int_"))
    if isinstance(value, str) and kind == "list_type" and value.startswith("-"):
        return "; an entry of a list needs a space after its `-`"
    return ""


def _as_number(text: str, *, whole: bool) -> str:
    """How to write the number that a text is."""
    try:
        number = float(text)
    except ValueError:
        return ""
    if not math.isfinite(number) or (whole and not number.is_integer()):
        return ""
    return f"; write {int(number) if number.is_integer() else number} without quotes"


def _known_keys(model: type[BaseModel], where: Where) -> set[str]:
    """Keys that the mapping at `where` may have."""
    kinds: list[Any] = [model]
    for part in where:
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    return {name for kind in kinds if _is_model(kind) for name in kind.model_fields}


def _inside(kind: Any, part: str | int) -> list[Any]:
    """Types that the value at `part` of a value of type `kind` may have."""
    if _is_model(kind):
        field = kind.model_fields.get(part)
        return _alternatives(field.annotation) if field else []
    return _alternatives(get_args(kind)[-1]) if get_origin(kind) in {dict, list} else []


def _alternatives(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in {Union, types.UnionType}:
        return [kind for each in get_args(annotation) for kind in _alternatives(each)]
    return [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
