"""A matrix with a mistake is answered with one message: the place, the cause, the next step. Never with a traceback."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flagrelease import settings as host
from flagrelease import yaml_text
from flagrelease.errors import MatrixError
from flagrelease.loading import load_matrix
from tests.unit.command_line import Run

FOLDER = Path(__file__).parent / "bad_matrices"
GOOD = (FOLDER / "good.yaml").read_text()
CASES = [
    *(
        tuple(case[key] for key in ("from", "to", "told"))
        for case in yaml.safe_load((FOLDER / "cases.yaml").read_text())
    ),
    # Too long to write out.
    ("threads: 1", f"deep: {'[' * 40}{']' * 40}", "30:59: more than 30 levels; nothing in this file goes so deep"),
    ("threads: 1", f"deep: {'[' * 100_000}", "30:59: more than 30 levels; nothing in this file goes so deep"),
    ("quick: [", f"quick: [{'x,' * 10_001}", "16:20011: more than 10,000 entries; nothing in this file has so many"),
    ("version: 1", "version: 1\n" * 10_001, "10001:1: more than 10,000 entries; nothing in this file has so many"),
    (
        "model: tiny",
        f"model: {'x' * 65}",
        f"26: cells.0.model: must have at most 64 characters, found the text `{'x' * 60}…`",
    ),
    (
        "port: 9010",
        f"port: {'9' * 5000}",
        f"31: cells.0.port: `{'9' * 60}…` is not a number that can be read; put it in quotes if it is text",
    ),
    (
        "alpha: 0.05",
        f"alpha: {'9' * 400}",
        f"3: policy.alpha: `{'9' * 60}…` is too large a number; put it in quotes if it is text",
    ),
    (
        "alpha: 0.05",
        f"alpha: 1{':59' * 300}.5",
        f"3: policy.alpha: `1{':59' * 19}:5…` is not a number that can be read; put it in quotes if it is text",
    ),
    (
        "version: 1",
        "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n or ''}, *a{n or ''}]\n" for n in range(40)) + "version: 1",
        "1:4: anchors (&) and aliases (*) are not allowed; write the value out, or quote it if it is text",
    ),
]
FILES = [
    (b"", ": the file is empty"),
    (b"# nothing but a comment\n", ": the file is empty"),
    (b"---\n", ": the file is empty"),
    (b"\xef\xbb\xbf", ": the file is empty"),
    (b"- version: 1\n", ":1: expected a mapping (`key: value` lines), found a list"),
    (b"# the matrix\nversion 1\n", ":2: expected a mapping (`key: value` lines), found the text `version 1`"),
    (b"version: 1\nname: \xff\n", ":2:7: byte 0xff is not UTF-8 text; save the file as UTF-8"),
    (GOOD.encode("utf-16"), ":1:1: byte 0xff is not UTF-8 text; save the file as UTF-8"),
    (b"version: 1\n\0\n", ":2:1: the character U+0000 is not allowed; delete it"),
    (GOOD.replace("\n", "\r\n").replace("9010", "x").encode(), ":31: cells.0.port: expected a whole number, found"),
]
LEGAL = [
    ("version: 1\n", "\ufeffversion: 1\n"),  # as some editors begin a file
    ("version: 1\n", "%YAML 1.2\n---\nversion: 1\n"),
    ("Asia/Shanghai\n", "Asia/Shanghai\n...\n"),
    ("reference: {", "reference: {baseline: tiny-published-0123456789ab, "),  # whether it is there is said by a release
    (
        "cells:\n",
        "cells:\n  - {model: tiny, chip: arm, launcher: process, engine: vllm, engines: {vllm: {}}, port: 9010}\n",
    ),
    ("port: 9010", "port: 9010\n    tags: [nightly, large]"),
    ("0 3 * * mon-fri", "'*/15,50-59/3 0,12 1-31/2 jan-mar,12 5-7'"),
    ("0 3 * * mon-fri", "0 3 29 2 *"),
    ("      timezone: Asia/Shanghai\n", ""),
    ("display: Tiny", "display: 'no'"),
    ("threads: 1", "threads: +1"),
    ("alpha: 0.05", "alpha: 5.0e-2"),
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


@pytest.fixture
def matrix(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the matrix of this test lies."""
    path = home / "matrix.yaml"
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
    host.settings.cache_clear()
    return path


@pytest.mark.parametrize(("old", "new", "told"), CASES, ids=[told[:60] for _, _, told in CASES])
def test_a_mistake_is_told_once_with_place_cause_and_next_step(
    old: str, new: str, told: str, matrix: Path, run: Run
) -> None:
    assert GOOD.count(old) == 1
    matrix.write_text(GOOD.replace(old, new))
    assert run("matrix", "check") == MatrixError.exit_code
    remedy = "correct what is named above in matrix.yaml, then run the command again"
    assert (run.out, run.err) == ("", f"error: {matrix}:{told}\n  -> {remedy}\n")


@pytest.mark.parametrize(("content", "told"), FILES)
def test_a_file_that_is_no_matrix_is_told_so(content: bytes, told: str, matrix: Path, run: Run) -> None:
    matrix.write_bytes(content)
    assert run("matrix", "check") == MatrixError.exit_code
    assert run.err.startswith(f"error: {matrix}{told}")
    assert run.err.count("\n") == 2


def test_a_file_of_ten_megabytes_is_not_read(matrix: Path, run: Run) -> None:
    with matrix.open("wb") as file:
        file.truncate(10_000_000)
    assert run("matrix", "check") == MatrixError.exit_code
    remedy = "give the right file; a matrix of a thousand cells is smaller"
    assert run.err == f"error: {matrix}: the file is larger than 4,000,000 bytes\n  -> {remedy}\n"


def test_the_matrix_that_the_others_are_made_of_is_valid(matrix: Path, run: Run) -> None:
    for content in (GOOD, GOOD.replace("\n", "\r\n"), GOOD.replace("\n", "\r")):
        matrix.write_bytes(content.encode())
        assert run("matrix", "check") == 0
        assert run.out == f"{matrix} is valid: 1 models, 1 cells, 1 suites, {run.out.split()[-2]} benchmarks\n"


@pytest.mark.parametrize(("old", "new"), LEGAL)
def test_what_only_looks_wrong_is_legal(old: str, new: str, matrix: Path, run: Run) -> None:
    assert GOOD.count(old) == 1
    matrix.write_text(GOOD.replace(old, new))
    assert run("matrix", "check") == 0, run.err


def test_two_mistakes_are_two_lines_in_the_order_of_the_file(matrix: Path, run: Run) -> None:
    matrix.write_text(GOOD.replace("9010", "x").replace("kind: text", "kind: txt"))
    assert run("matrix", "check") == MatrixError.exit_code
    first, second, remedy = run.err.splitlines()
    assert first.startswith(f"error: {matrix}:20: models.tiny.kind: expected")
    assert second.startswith(f"{matrix}:31: cells.0.port: expected")
    assert remedy == "  -> correct each line named above in matrix.yaml, then run the command again"


def test_a_file_that_is_wrong_in_thousands_of_places_is_told_in_ten(matrix: Path, run: Run) -> None:
    matrix.write_text(GOOD + "".join(f"key{number}: 1\n" for number in range(3000)))
    assert run("matrix", "check") == MatrixError.exit_code
    *shown, more, _ = run.err.splitlines()
    assert [line.split(": ")[-2] for line in shown] == ["unknown key; known are"] * 10
    assert more == "and 2990 more"


def told_of(content: str, folder: Path) -> list[str]:
    """What is said of a matrix; nothing if it is valid."""
    path = folder / "matrix.yaml"
    path.write_text(content, newline="")
    try:
        load_matrix(path)
    except MatrixError as error:
        return error.message.splitlines()
    return []


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="this PyYAML was built without libyaml")
@pytest.mark.parametrize(("old", "new", "told"), CASES, ids=[told[:60] for _, _, told in CASES])
def test_both_parsers_tell_the_same(
    old: str, new: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = GOOD.replace(old, new)
    monkeypatch.setattr(yaml_text, "_PARSER", yaml.SafeLoader)
    slow = told_of(content, tmp_path)
    monkeypatch.setattr(yaml_text, "_PARSER", yaml.CSafeLoader)
    fast = told_of(content, tmp_path)
    # They count the column of a wrong escape from its backslash, or from what follows it.
    assert slow == fast or "backslash" in told


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, len(GOOD)),
    gone=st.integers(0, 12),
    typed=st.text(st.sampled_from("\t\n -:,[]{}&*!|>%@?'\"\\#a0.~\ufeff\x85"), max_size=6),
)
def test_whatever_is_typed_into_it_is_a_matrix_or_told(at: int, gone: int, typed: str, tmp_path: Path) -> None:
    told = told_of(GOOD[:at] + typed + GOOD[at + gone :], tmp_path)
    assert all(re.match(rf"({tmp_path}/matrix.yaml(:\d+){{1,2}}: \S|and \d+ more$)", line) for line in told), told


def test_no_two_cases_are_the_same() -> None:
    assert [case for case, times in Counter(case[:2] for case in CASES).items() if times > 1] == []
