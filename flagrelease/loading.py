"""Finds what is released: matrix.yaml and the chip files, checked against each other."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from flagrelease.errors import MatrixError, UnknownNameError
from flagrelease.matrix import Chip, Matrix, ResolvedCell, Schedule
from flagrelease.yaml_file import Positions, Where, invalid, load_yaml, problem, suggest, validate

__all__ = ["json_schema", "load_chips", "load_matrix", "load_yaml", "resolve", "resolve_all", "validate"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 7, _WEEKDAYS),
)


def load_matrix(path: Path) -> Matrix:
    """The matrix at `path`, valid in itself and naming only models, suites and chips that exist."""
    data, positions = load_yaml(path)
    matrix = validate(Matrix, path, data, positions)
    problems = [problem(positions, where, text) for where, text in _cross_checks(matrix, positions)]
    if problems:
        raise invalid(path, problems)
    return matrix


def load_chips(folder: Path | None = None) -> dict[str, Chip]:
    """All chips by their key, from one file each; by default those that FlagRelease brings."""
    folder = _chips_folder() if folder is None else folder
    chips: dict[str, Chip] = {}
    for path in sorted(folder.glob("*.yaml")):
        data, positions = load_yaml(path)
        chip = validate(Chip, path, data, positions)
        if chip.key != path.stem:
            text = f"is `{chip.key}`, but the file's name says `{path.stem}`; they must be equal"
            raise invalid(path, [problem(positions, ("key",), text)])
        chips[chip.key] = chip
    if not chips:
        msg = f"{folder}: there are no chip files (<chip>.yaml) in this folder"
        raise MatrixError(msg, remedy="give the folder that holds them, or install FlagRelease anew")
    return chips


def resolve(matrix: Matrix, chips: Mapping[str, Chip], cell_id: str) -> ResolvedCell:
    """The cell `cell_id` with its model, chip, suite and policy."""
    cell = next((cell for cell in matrix.cells if cell.id == cell_id), None)
    if cell is None:
        close = difflib.get_close_matches(cell_id, matrix.cell_ids(), 1)
        guess = f"did you mean `{close[0]}`? " if close else ""
        msg = f"unknown cell `{cell_id}`"
        raise UnknownNameError(msg, remedy=f"{guess}All cells: flagrelease matrix show")
    if cell.chip not in chips:
        msg = f"cell `{cell_id}`: unknown chip `{cell.chip}`"
        raise UnknownNameError(msg, remedy=f"add runtime/chips/{cell.chip}.yaml; {suggest(cell.chip, chips)}")
    model = matrix.models[cell.model]
    policy, overrides = matrix.policy.of_cell(model.suite, cell.model)
    return ResolvedCell(
        cell=cell,
        model=model,
        chip=chips[cell.chip],
        suite=matrix.suites[model.suite],
        policy=policy,
        overrides=overrides,
    )


def resolve_all(matrix: Matrix, chips: Mapping[str, Chip]) -> list[ResolvedCell]:
    """All cells, resolved, in the file's order."""
    return [resolve(matrix, chips, cell_id) for cell_id in matrix.cell_ids()]


def json_schema() -> dict[str, Any]:
    """JSON Schema of matrix.yaml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Matrix.model_json_schema()}


def _chips_folder() -> Path:
    from importlib.resources import files

    return Path(str(files("runtime") / "chips"))


def _cross_checks(matrix: Matrix, positions: Positions) -> Iterable[tuple[Where, str]]:
    """What each part of the matrix cannot know by itself."""
    for suite in matrix.policy.suites:
        if suite not in matrix.suites:
            yield ("policy", "suites", suite), f"unknown suite; {suggest(suite, matrix.suites)}"
    for model_key in matrix.policy.models:
        if model_key not in matrix.models:
            yield ("policy", "models", model_key), f"unknown model; {suggest(model_key, matrix.models)}"
    for key, model in matrix.models.items():
        if model.suite not in matrix.suites:
            text = f"unknown suite `{model.suite}`; {suggest(model.suite, matrix.suites)}"
            yield ("models", key, "suite"), text
    chips = {path.stem for path in _chips_folder().glob("*.yaml")}
    seen: dict[str, int] = {}
    for index, cell in enumerate(matrix.cells):
        where: Where = ("cells", index)
        if cell.id in seen:
            yield where, f"cell `{cell.id}` is there twice, first on line {seen[cell.id]}"
        seen.setdefault(cell.id, positions[where])
        if cell.model not in matrix.models:
            yield (*where, "model"), f"unknown model `{cell.model}`; {suggest(cell.model, matrix.models)}"
        if cell.chip not in chips:
            yield (*where, "chip"), f"unknown chip `{cell.chip}`; {suggest(cell.chip, chips)}"
        if cell.schedule:
            yield from (((*where, "schedule", key), text) for key, text in _schedule_faults(cell.schedule))


def _schedule_faults(schedule: Schedule) -> Iterable[tuple[str, str]]:
    if fault := _cron_fault(schedule.cron):
        yield "cron", fault
    try:
        ZoneInfo(schedule.timezone)
    except (ValueError, OSError, KeyError):
        close = difflib.get_close_matches(schedule.timezone, available_timezones(), 1)
        guess = f"did you mean `{close[0]}`?" if close else "write one like `Asia/Shanghai`"
        yield "timezone", f"unknown time zone `{schedule.timezone}`; {guess}"


def _cron_fault(expression: str) -> str | None:
    """What is wrong with a cron expression. Only what every cron knows is accepted: lists, ranges, steps, names."""
    fields = expression.split()
    if len(fields) != len(_CRON):
        return f"`{expression}` has {len(fields)} fields; cron wants five: minute hour day month weekday"
    for (name, low, high, names), field in zip(_CRON, fields, strict=True):
        for part in field.lower().split(","):
            match = re.fullmatch(r"(?:\*|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/0*([1-9][0-9]*))?", part)
            words = [word for word in match.groups()[:2] if word] if match else [""]
            numbers = [names.index(word) + low if word in names else _number(word) for word in words]
            if numbers != sorted(numbers) or not all(low <= number <= high for number in numbers):
                return f"`{expression}`: the {name} `{field}` is not made of {low} to {high}, `*`, `a-b`, `/n`"
    return None


def _number(word: str) -> int:
    return int(word) if word.isdecimal() and len(word) <= 2 else -1  # noqa: PLR2004
