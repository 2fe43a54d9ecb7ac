"""Finds what is released: matrix.yaml, the chip files and known issues, checked against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from flagrelease.chip import Chip
from flagrelease.entry import KEY_PATTERN
from flagrelease.errors import MatrixError, UnknownNameError
from flagrelease.matrix import TIMEOUTS, Cell, Matrix, ResolvedCell
from flagrelease.operators.known_issues import ANY, KnownIssue, KnownIssues
from flagrelease.schedules import Schedule, cron_fault, timezone_fault
from flagrelease.selection import fits
from flagrelease.settings import settings
from flagrelease.yaml_file import Positions, Where, invalid, load_yaml, nearest, problem, suggest, validate
from flagrelease.yaml_misfits import MAX_WORDED

__all__ = [
    "chip_named",
    "json_schema",
    "load_chips",
    "load_known_issues",
    "load_matrix",
    "load_yaml",
    "resolve",
    "resolve_all",
    "validate",
]


def load_matrix(path: Path) -> Matrix:
    """The matrix at `path`, valid in itself and naming only models, suites, benchmarks and chips that exist."""
    data, positions = load_yaml(path)
    matrix = validate(Matrix, path, data, positions)
    faults = islice(_cross_checks(matrix, positions), MAX_WORDED)
    if problems := [problem(positions, where, text) for where, text in faults]:
        raise invalid(path, problems)
    return matrix


def load_chips(folder: Path | None = None) -> dict[str, Chip]:
    """All chips by their key, from one file each in `folder`.

    By default those that FlagRelease brings, and those in the folder that the setting `chips` names.
    """
    paths = _chip_files() if folder is None else _files_in(folder)
    chips: dict[str, Chip] = {}
    for path in paths.values():
        data, positions = load_yaml(path)
        chip = validate(Chip, path, data, positions)
        if chip.key != path.stem:
            text = f"is `{chip.key}`, but the file's name says `{path.stem}`; they must be equal"
            raise invalid(path, [problem(positions, ("key",), text)])
        chips[chip.key] = chip
    return chips


def chip_named(key: str) -> Chip:
    """The chip of this key; raises UnknownNameError."""
    chips = load_chips()
    if key not in chips:
        raise UnknownNameError(f"unknown chip `{key}`", remedy=_chip_meant(key))
    return chips[key]


def load_known_issues() -> list[KnownIssue]:
    """What is known to be wrong with operators: what FlagRelease brings, then what the setting `known_issues` names."""
    further, chips = settings().known_issues, _chip_files()
    found: list[KnownIssue] = []
    places: dict[str, str] = {}
    for path in (Path(str(files("runtime") / "known_issues.yaml")), *([further.expanduser()] if further else [])):
        data, positions = load_yaml(path)
        issues = validate(KnownIssues, path, data, positions).issues
        problems = []
        for index, issue in enumerate(issues):
            where: Where = ("issues", index)
            if issue.id in places:
                text = f"`{issue.id}` is there already, at {places[issue.id]}; give this one another id"
                problems.append(problem(positions, (*where, "id"), text))
            places.setdefault(issue.id, f"{path}:{positions[where]}")
            problems += [
                problem(positions, (*where, "chips", at), f"unknown chip `{chip}`; {suggest(chip, {*chips, ANY})}")
                for at, chip in enumerate(issue.chips)
                if chip not in {*chips, ANY}
            ]
        if problems:
            raise invalid(path, problems)
        found += issues
    return found


def resolve(matrix: Matrix, chips: Mapping[str, Chip], cell_id: str) -> ResolvedCell:
    """The cell `cell_id` with its model, chip, suite and policy."""
    cell = next((cell for cell in matrix.cells if cell.id == cell_id), None)
    if cell is None:
        close = nearest(cell_id, matrix.cell_ids())
        guess = f"did you mean `{close}`? " if close else ""
        msg = f"unknown cell `{cell_id}`"
        raise UnknownNameError(msg, remedy=f"{guess}All cells: flagrelease matrix show")
    return _resolved(matrix, chips, cell)


def resolve_all(matrix: Matrix, chips: Mapping[str, Chip]) -> list[ResolvedCell]:
    """All cells, resolved, in the file's order."""
    return [_resolved(matrix, chips, cell) for cell in matrix.cells]


def json_schema() -> dict[str, Any]:
    """JSON Schema of matrix.yaml, for editors: with the chips and benchmarks that there are."""
    schema = Matrix.model_json_schema(schema_generator=_Schema)
    suite = {"type": "array", "items": {"enum": sorted(_names_of(_benchmarks()))}, "minItems": 1, "uniqueItems": True}
    schema["properties"]["suites"]["patternProperties"] = {KEY_PATTERN: suite}
    schema["$defs"]["Cell"]["properties"]["chip"]["enum"] = sorted(_names_of(_chips()))
    return {"$schema": _Schema.schema_dialect, **schema, "title": "FlagRelease matrix"}


class _Schema(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - a title would repeat the key
        return False


def _resolved(matrix: Matrix, chips: Mapping[str, Chip], cell: Cell) -> ResolvedCell:
    if cell.chip not in chips:
        msg = f"cell `{cell.id}`: unknown chip `{cell.chip}`"
        place = f"add {cell.chip}.yaml to runtime/chips, or to a folder that FLAGRELEASE_CHIPS names"
        raise UnknownNameError(msg, remedy=f"{place}; {suggest(cell.chip, chips)}")
    model = matrix.models[cell.model]
    policy, overrides = matrix.policy.of_cell(model.suite, cell.model)
    return ResolvedCell(
        cell=cell,
        model=model,
        chip=chips[cell.chip],
        suite=matrix.suites[model.suite],
        policy=policy,
        overrides=overrides,
        timeouts={**TIMEOUTS, **matrix.timeouts, **cell.timeouts},
    )


def _chips() -> Path:
    return Path(str(files("runtime") / "chips"))


def _benchmarks() -> Path:
    return Path(str(files("evaluation") / "benchmarks"))


def _chip_files() -> dict[str, Path]:
    """File of each chip by its key: those that FlagRelease brings, and those of the setting `chips`."""
    known, further = _files_in(_chips()), settings().chips
    if further is None:
        return known
    added = _files_in(further.expanduser())
    if twice := [f"{added[key]} and {known[key]}" for key in added if key in known]:
        msg = f"a chip has two files: {'; '.join(twice)}"
        raise MatrixError(msg, remedy="give your chip another key, and its file that name")
    return known | added


def _files_in(folder: Path) -> dict[str, Path]:
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not found:
        msg = f"{folder}: there are no chip files (<chip>.yaml) in this folder"
        remedy = "give the folder that holds them (FLAGRELEASE_CHIPS for your own), or install FlagRelease anew"
        raise MatrixError(msg, remedy=remedy)
    return found


def _names_of(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.yaml")}


def _cross_checks(matrix: Matrix, positions: Positions) -> Iterable[tuple[Where, str]]:
    """What each part of the matrix cannot know by itself."""
    for suite in matrix.policy.suites:
        if suite not in matrix.suites:
            yield ("policy", "suites", suite), f"unknown suite; {suggest(suite, matrix.suites)}"
    for model_key in matrix.policy.models:
        if model_key not in matrix.models:
            yield ("policy", "models", model_key), f"unknown model; {suggest(model_key, matrix.models)}"
    yield from _suite_faults(matrix.suites)
    for key, model in matrix.models.items():
        if model.suite not in matrix.suites:
            text = f"unknown suite `{model.suite}`; {suggest(model.suite, matrix.suites)}"
            yield ("models", key, "suite"), text
    chips = _chip_files()
    seen: dict[str, int] = {}
    for index, cell in enumerate(matrix.cells):
        where: Where = ("cells", index)
        if cell.id in seen:
            yield where, f"cell `{cell.id}` is there twice, first on line {seen[cell.id]}; delete one"
        seen.setdefault(cell.id, positions[where])
        if cell.model not in matrix.models:
            yield (*where, "model"), f"unknown model `{cell.model}`; {suggest(cell.model, matrix.models)}"
        if cell.chip not in chips:
            yield (*where, "chip"), f"unknown chip `{cell.chip}`; {_chip_meant(cell.chip)}"
        yield from _schedule_faults((*where, "schedule"), cell.schedule)
    yield from _sweep_faults(matrix)


def _schedule_faults(where: Where, schedule: Schedule | None) -> Iterable[tuple[Where, str]]:
    if schedule:
        faults = {"cron": cron_fault(schedule.cron), "timezone": timezone_fault(schedule.timezone)}
        yield from (((*where, key), text) for key, text in faults.items() if text)


def _sweep_faults(matrix: Matrix) -> Iterable[tuple[Where, str]]:
    """Sweeps whose schedule never comes, or that name what no cell has."""
    if not matrix.sweeps:
        return
    chips = load_chips()
    known = {
        "chips": {name for cell in matrix.cells if cell.chip in chips for name in chips[cell.chip].names},
        "models": {
            name
            for cell in matrix.cells
            if cell.model in matrix.models
            for name in (cell.model, matrix.models[cell.model].display.casefold())
        },
        "suites": {matrix.models[cell.model].suite for cell in matrix.cells if cell.model in matrix.models},
        "tags": {tag for cell in matrix.cells for tag in cell.tags},
    }
    for key, sweep in matrix.sweeps.items():
        yield from _schedule_faults(("sweeps", key, "schedule"), sweep.schedule)
        for kind, names in known.items():
            for index, pattern in enumerate(getattr(sweep, kind)):
                if not fits([pattern], names):
                    yield ("sweeps", key, kind, index), f"no cell has `{pattern}`; {suggest(pattern, names)}"


def _chip_meant(name: str) -> str:
    chips = load_chips()
    called_so = [key for key, chip in chips.items() if name in chip.names]
    return f"did you mean `{called_so[0]}`?" if called_so else suggest(name, chips)


def _suite_faults(suites: Mapping[str, list[str]]) -> Iterable[tuple[Where, str]]:
    benchmarks = _names_of(_benchmarks())
    for key, suite in suites.items():
        if not suite:
            yield ("suites", key), "names no benchmark, so it can decide nothing; name one or delete the suite"
        seen: set[str] = set()
        for index, benchmark in enumerate(suite):
            if benchmark not in benchmarks:
                text = f"unknown benchmark `{benchmark}`; {suggest(benchmark, benchmarks)}"
                yield ("suites", key, index), text
            elif benchmark in seen:
                yield ("suites", key, index), f"`{benchmark}` is there twice; delete one"
            seen.add(benchmark)
