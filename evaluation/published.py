"""Published scores, read from a cell's `published` table in the matrix or from a file, as an imported baseline.

What was printed is kept as it was printed, and nothing is added: cards do not say how many questions were asked, so
neither does a baseline that was read from one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from evaluation.catalogue import Benchmark
from flagrelease.entry import Entry
from flagrelease.errors import BaselineError, UnknownNameError
from flagrelease.loading import load_matrix
from flagrelease.records import ImportedBaseline, Published
from flagrelease.yaml_file import Positions, Problem, Where, invalid, load_yaml, problem, suggest, validate

Scale = Literal["percent", "ratio"]
NOT_RUN = "-"


class ScoreFile(Entry):
    """A file of published scores."""

    label: str = Field(min_length=1, description="of the column they stood in, for example H100-CUDA")
    source: str | None = Field(default=None, min_length=1, description="where they were published")
    scale: Scale
    scores: dict[str, str | int | float] = Field(
        min_length=1, description="of each benchmark; in quotes to keep final zeros"
    )
    n: dict[str, int] = Field(default_factory=dict, description="items of each benchmark, where they are known")


class Row(NamedTuple):
    """One published score, and where in the file it stands."""

    metric: str
    printed: str
    where: Where
    n: int | None = None


def read_published(
    name: str, matrix_path: Path, benchmarks: Mapping[str, Benchmark], *, file: Path | None, source: str | None
) -> ImportedBaseline:
    """The published scores of a model (or of a cell's), from `file` or from the card's table in the matrix.

    `source` stands instead of what is named there. Raises UnknownNameError; BaselineError where the matrix has no such
    table or several; MatrixError where a score is wrong, with its line.
    """
    matrix = load_matrix(matrix_path)
    cells = {cell.id: (index, cell) for index, cell in enumerate(matrix.cells)}
    if name not in matrix.models and name not in cells:
        known = [*matrix.models, *cells]
        raise UnknownNameError(f"there is no model or cell `{name}`", remedy=suggest(name, known))
    model = name if name in matrix.models else cells[name][1].model
    if file is not None:
        return _from_file(model, file, source, benchmarks)
    found = [
        (index, cell.id, cell.published)
        for index, cell in cells.values()
        if cell.published and name in (cell.id, cell.model)
    ]
    if len(found) != 1:
        several = f"published tables in several cells: {', '.join(cell for _, cell, _ in found)}"
        raise BaselineError(
            f"{name} has {several if found else 'no published table'} in {matrix_path}",
            remedy="name one of the cells" if found else "give a file of scores: --from FILE",
        )
    ((index, _, published),) = found
    rows = [
        Row(row.metric, row.baseline, ("cells", index, "published", "rows", number))
        for number, row in enumerate(published.rows)
    ]
    _, positions = load_yaml(matrix_path)
    return ImportedBaseline(
        model=model,
        label=matrix.models[model].reference.label,
        source=source or published.source,
        scores=_scores(rows, published.scale, benchmarks, matrix_path, positions),
    )


def _from_file(model: str, path: Path, source: str | None, benchmarks: Mapping[str, Benchmark]) -> ImportedBaseline:
    data, positions = load_yaml(path)
    file = validate(ScoreFile, path, data, positions)
    origin = source or file.source
    if origin is None:
        raise invalid(path, [(None, "source: is missing: where were these scores published? (or give --source)")])
    if stray := [name for name in file.n if name not in file.scores]:
        raise invalid(path, [problem(positions, ("n", name), "has no score") for name in stray])
    rows = [Row(name, str(score), ("scores", name), file.n.get(name)) for name, score in file.scores.items()]
    return ImportedBaseline(
        model=model,
        label=file.label,
        source=origin,
        scores=_scores(rows, file.scale, benchmarks, path, positions),
    )


def _scores(
    rows: Sequence[Row], scale: Scale, benchmarks: Mapping[str, Benchmark], path: Path, positions: Positions
) -> list[Published]:
    """The rows as shares in [0, 1] of known benchmarks; a row of `-` was not run. MatrixError names every wrong one."""
    names = _names(benchmarks.values())
    found: dict[str, Published] = {}
    problems: list[Problem] = []
    for row in rows:
        key = names.get(row.metric.casefold())
        score = None if row.printed == NOT_RUN else _share(row.printed, scale)
        if key is None:
            text = f"no benchmark is called `{row.metric}`; {_nearest(row.metric, benchmarks.values())}"
        elif key in found:
            text = f"`{row.metric}` is {key}, which has a score already"
        elif isinstance(score, str):
            text = f"{row.metric}: {score}"
        else:
            if score is not None:
                found[key] = Published(benchmark=key, score=score, printed=row.printed, n=row.n)
            continue
        problems.append(problem(positions, row.where, text))
    if problems:
        raise invalid(path, problems)
    if not found:
        raise invalid(path, [(None, "holds no score")])
    return list(found.values())


def _names(benchmarks: Iterable[Benchmark]) -> dict[str, str]:
    """Key of the benchmark by each of its names, in small letters."""
    return {name.casefold(): benchmark.key for benchmark in benchmarks for name in _called(benchmark)}


def _called(benchmark: Benchmark) -> list[str]:
    return [*benchmark.aliases, benchmark.display, benchmark.key]


def _nearest(metric: str, benchmarks: Iterable[Benchmark]) -> str:
    """What was probably meant."""
    close = difflib.get_close_matches(metric, [name for benchmark in benchmarks for name in _called(benchmark)], 1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    return f"{hint}They are listed by: flagrelease benchmarks (another name of one goes into its `aliases`)"


def _share(printed: str, scale: Scale) -> float | str:
    """The score as a share, or what is wrong with it."""
    try:
        value = Decimal(printed)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        return f"`{printed}` is not a number, and not `{NOT_RUN}` (not run)"
    if scale == "percent":
        value /= 100
    if not 0 <= value <= 1:
        return f"{printed} is not a score as a {scale}: it must lie between 0 and {100 if scale == 'percent' else 1}"
    return float(value)
