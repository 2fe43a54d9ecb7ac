"""Reads YAML files into pydantic models. Whatever is wrong is said with file and line, all of it at once."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flagrelease.errors import MatrixError

Where = tuple[str | int, ...]
Positions = dict[Where, int]
Problem = tuple[int | None, str]
ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_BYTES = 1_000_000
MAX_DEPTH = 30
MAX_PROBLEMS = 10
MAX_SHOWN = 60

_YAML_TAG = "tag:yaml.org,2002:"
_NOUNS = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "`true` or `false`",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping (`key: value` lines)",
    "model": "a mapping (`key: value` lines)",
}
_PATTERNS = {
    r"^[a-z0-9][a-z0-9._-]*$": "only small letters, digits, `.`, `_` and `-`, and begin with a letter or digit",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits (0-9, a-f)",
}


def load_yaml(path: Path) -> tuple[dict[str, Any], Positions]:
    """The mapping in the file at `path`, and the line of each value in it (the key's line for a key)."""
    return parse_yaml(_read(path), path)


def parse_yaml(text: str, path: Path) -> tuple[dict[str, Any], Positions]:
    """The mapping in `text`, which stands in the file at `path`, and the line of each value in it."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise invalid(path, [_syntax_problem(error)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"the character {ord(text[error.position]):#04x} is not allowed in a text file"
        raise invalid(path, [(line, found)]) from None
    if node is None:
        raise invalid(path, [(None, "the file is empty")])
    data = loader.convert(node, ())
    if loader.problems:
        raise invalid(path, loader.problems)
    if not isinstance(data, dict):
        found = f"expected a mapping (`key: value` lines), found {_found(data)}"
        raise invalid(path, [(loader.positions[()], found)])
    return data, loader.positions


def validate(model: type[ModelT], path: Path, data: Mapping[str, Any], positions: Positions) -> ModelT:
    """`data` as `model`; whatever does not fit is reported with its line in `path`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = []
    for detail in details:
        where = _place(data, detail["loc"], missing=detail["type"] == "missing")
        problems.append(problem(positions, where, _in_words(model, where, detail)))
    raise invalid(path, dict.fromkeys(problems))


def problem(positions: Positions, where: Where, text: str) -> Problem:
    """`text` on the value at `where`, with the line of the nearest thing around it that the file has."""
    known = where
    while known not in positions:
        known = known[:-1]
    return positions[known], f"{'.'.join(map(str, where))}: {text}" if where else text


def invalid(path: Path, problems: Iterable[Problem]) -> MatrixError:
    """The error that lists `problems` of the file at `path`, in the order of their lines."""
    found = sorted(problems, key=lambda each: each[0] or 0)
    lines = [f"{path}: {text}" if line is None else f"{path}:{line}: {text}" for line, text in found]
    if len(lines) > MAX_PROBLEMS:
        lines[MAX_PROBLEMS:] = [f"and {len(lines) - MAX_PROBLEMS} more"]
    what = "what is named above" if len(found) == 1 else "each line named above"
    return MatrixError("\n".join(lines), remedy=f"correct {what} in {path.name}, then run the command again")


def suggest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that was probably meant by `word`; all of them where none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1)
    return f"did you mean `{close[0]}`?" if close else f"known are: {', '.join(names) or 'none'}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        msg = f"{path}: there is no such file"
        raise MatrixError(msg, remedy=f"give the path of {path.name}, or run where it lies") from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise MatrixError(msg, remedy="make it a file that this user may read") from None
    if len(content) > MAX_BYTES:
        raise invalid(path, [(None, f"the file is larger than {MAX_BYTES:,} bytes")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise invalid(path, [(line, f"byte {content[error.start]:#04x} is not UTF-8 text")]) from None


class _RefusedError(yaml.composer.ComposerError):
    """YAML that is valid, but more than a plain file needs."""


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    if isinstance(error, _RefusedError):
        return line, str(error.problem)
    began = f" that begins on line {error.context_mark.line + 1}" if error.context_mark else ""
    context = f"{error.context}{began}: " if error.context else ""
    return line, f"not valid YAML: {context}{error.problem}"


class _Loader(yaml.SafeLoader):
    """Plain YAML only, each value with its line. Aliases could make a small file expand without end."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.positions: Positions = {}
        self.problems: list[Problem] = []
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        refused = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            refused = "anchors (&) and aliases (*) are not allowed; write the value out"
        elif getattr(event, "tag", None) is not None:
            refused = "tags (!) are not allowed"
        elif self._depth == MAX_DEPTH:
            refused = f"more than {MAX_DEPTH} levels"
        if refused:
            raise _RefusedError(None, None, refused, event.start_mark)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def convert(self, node: yaml.Node, where: Where) -> Any:
        """The value of `node`; its lines go to `positions`, what is wrong with it to `problems`."""
        self.positions.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self.convert(child, (*where, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, where)
        if node.tag.removeprefix(_YAML_TAG) not in {"int", "float", "bool", "null"}:
            return node.value  # dates stay text: a schema says what they are
        try:
            return self.construct_object(node)
        except ValueError as error:
            self.problems.append(problem(self.positions, where, f"not a number: {error}"))
            return None

    def _convert_mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key, here = key_node.value, (*where, str(key_node.value))
            name = ".".join(map(str, here))
            if key_node.tag != f"{_YAML_TAG}str":
                self.problems.append((line, f"{name}: a key must be text; put it in quotes"))
            elif key in result:
                first = self.positions[here]
                self.problems.append((line, f"{name}: this key is there twice, first on line {first}"))
            else:
                self.positions[here] = line
                result[key] = self.convert(value_node, here)
        return result


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
    is_index = isinstance(value, list) and isinstance(first, int)
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
    return f"{wanted}, found {_found(detail['input'])}{_hint(kind, detail)}"


def _hint(kind: str, detail: ErrorDetails) -> str:
    if kind == "string_type" and isinstance(detail["input"], int | float):
        return "; put it in quotes"
    if kind in {"literal_error", "enum"}:
        known = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        close = difflib.get_close_matches(str(detail["input"]), known, 1)
        return f"; did you mean `{close[0]}`?" if close else ""
    return ""


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"the number {value}"
    text = str(value)
    return f"the text `{text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + '…'}`"


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
