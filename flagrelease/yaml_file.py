"""Reads YAML files into pydantic models. Whatever is wrong is said with file and line, all of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flagrelease.errors import MatrixError
from flagrelease.yaml_faults import YamlFault
from flagrelease.yaml_misfits import found, nearest, problem, problems_of, suggest
from flagrelease.yaml_text import Positions, Problem, Where, read, short

__all__ = [
    "Positions",
    "Problem",
    "Where",
    "invalid",
    "load_yaml",
    "nearest",
    "parse_yaml",
    "problem",
    "problems_of",
    "suggest",
    "validate",
]

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_BYTES = 4_000_000
MAX_PROBLEMS = 10
MAX_WORDS = 1000


def load_yaml(path: Path) -> tuple[dict[str, Any], Positions]:
    """The mapping in the file at `path`, and the line of each value in it (the key's line for a key).

    Refused beside what is no plain YAML: values that YAML takes for something else than they look like (`010`, `1:30`),
    numbers that are not finite, hidden characters.
    """
    return _mapping(_read(path), path, exact=True)


def parse_yaml(text: str, path: Path) -> tuple[dict[str, Any], Positions]:
    """The mapping in `text`, which stands in the file at `path`, and the line of each value in it; as YAML has it."""
    return _mapping(text, path, exact=False)


def validate(model: type[ModelT], path: Path, data: Mapping[str, Any], positions: Positions) -> ModelT:
    """`data` as `model`; whatever does not fit is reported with its line in `path`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error, model, data, positions)
    raise invalid(path, problems)


def invalid(path: Path, problems: Iterable[Problem]) -> MatrixError:
    """The error that lists `problems` of the file at `path`, in the order of their lines."""
    ordered = sorted(problems, key=lambda each: each[0] or 0)
    lines = [f"{path}{'' if line is None else f':{line}'}: {_shown(text)}" for line, text in ordered[:MAX_PROBLEMS]]
    return _error(path, lines, len(ordered) - len(lines))


def _error(path: Path, lines: list[str], more: int = 0) -> MatrixError:
    what = "what is named above" if len(lines) == 1 else "each line named above"
    message = "\n".join(lines + ([f"and {more} more"] if more else []))
    return MatrixError(message, remedy=f"correct {what} in {path.name}, then run the command again")


def _mapping(text: str, path: Path, *, exact: bool) -> tuple[dict[str, Any], Positions]:
    try:
        reading = read(text)
    except YamlFault as fault:
        raise _error(path, [f"{path}:{fault.line}:{fault.column}: {_shown(fault.words)}"]) from None
    if problems := reading.problems + (reading.surprises if exact else []):
        raise invalid(path, problems)
    if reading.data is None:
        raise invalid(path, [(None, "the file is empty")])
    if not isinstance(reading.data, dict):
        words = f"expected a mapping (`key: value` lines), found {found(reading.data)}"
        raise invalid(path, [(reading.positions[()], words)])
    return reading.data, reading.positions


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
        msg = f"{path}: the file is larger than {MAX_BYTES:,} bytes"
        raise MatrixError(msg, remedy="give the right file; a matrix of a thousand cells is smaller")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        words = f"byte {content[error.start]:#04x} is not UTF-8 text; save the file as UTF-8"
        raise _error(path, [f"{path}:{line}:{column}: {words}"]) from None


def _shown(text: str) -> str:
    """`text` as a terminal can show it: without control and other hidden characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short(text, MAX_WORDS))
