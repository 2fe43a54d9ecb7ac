"""The shipped matrix resolves; a broken one is refused with file, line and reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from flagrelease import loading, yaml_file
from flagrelease.errors import MatrixError, UnknownNameError
from flagrelease.matrix import Matrix, ResolvedCell
from flagrelease.settings import data_path

CONTAINERS = ["minimax-nvidia", "minicpmv4-metax", "robobrain2-7b-metax", "qwen3-metax", "step3-nvidia"]


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return loading.load_matrix(data_path("matrix.yaml"))


def test_the_shipped_matrix_holds_its_cells_in_order(matrix: Matrix) -> None:
    cells = loading.resolve_all(matrix, loading.load_chips())
    assert [cell.id for cell in cells] == matrix.cell_ids() == ["smollm2-cpu", *CONTAINERS]
    assert [len(suite) for suite in matrix.suites.values()] == [5, 5, 9, 10]
    assert cells[0].policy.pooled_margin_points == 2.0
    assert (
        cells[0]
        .overrides[0]
        .startswith("suite smoke: pooled_margin_points 1 → 2, canary of its own, without speed (725")
    )
    assert cells[0].policy.speed is None
    assert (cells[1].policy.pooled_margin_points, cells[1].overrides) == (1.0, [])


def test_a_resolved_cell_survives_json(matrix: Matrix) -> None:
    for cell in loading.resolve_all(matrix, loading.load_chips()):
        assert ResolvedCell.model_validate_json(cell.model_dump_json()) == cell


def test_the_cpu_cell_can_be_served_by_two_engines(matrix: Matrix) -> None:
    cell = loading.resolve(matrix, loading.load_chips(), "smollm2-cpu")
    assert cell.engine_settings("llama_cpp")["weights"] == "float16"
    assert cell.engine_settings("vllm")["dtype"] == "float32"
    assert cell.served_name == "SmolLM2-135M-Instruct-cpu"
    assert cell.model.weights is not None
    assert cell.suite == ["last_word", "number_sequence", "addition", "hellaswag_100", "truthfulqa_mc1_100"]


THRESHOLDS = "alpha margin_points margin_points_small large_n min_items pooled_margin_points max_missing power"
REASONS = ", ".join(f"{name}: chosen for a test" for name in (*THRESHOLDS.split(), "max_length_shift"))
# Every line number below counts from the first line of this text.
GOOD = """\
version: 1
policy:
  alpha: 0.05
  margin_points: 2.0
  margin_points_small: 3.0
  large_n: 700
  min_items: 200
  pooled_margin_points: 1.0
  max_missing: 0.01
  power: 0.8
  max_length_shift: 0.1
  reasons: {REASONS}
  suites:
    quick: {pooled_margin_points: 2.0, reason: few questions}
suites:
  quick: [addition]
models:
  tiny:
    display: Tiny
    kind: text
    source: {hub: huggingface, repository: some/tiny}
    licence: {spdx: MIT, url: "https://example.org/licence"}
    suite: quick
    reference: {label: H100, description: reference}
cells:
  - model: tiny
    chip: cpu
    launcher: process
    engine: llama_cpp
    engines: {llama_cpp: {threads: 1}}
    port: 9010
    schedule:
      cron: 0 3 * * mon-fri
      timezone: Asia/Shanghai
""".replace("REASONS", REASONS)
SECOND_CELL = "  - {model: tiny, chip: cpu, launcher: process, engine: vllm, engines: {vllm: {}}}\n"


def broken(folder: Path, content: str | bytes, name: str = "matrix.yaml") -> MatrixError:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MatrixError) as caught:
        loading.load_matrix(path)
    assert caught.value.remedy
    return caught.value


def test_the_matrix_that_the_others_are_broken_from_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text("\ufeff" + GOOD)
    assert loading.load_matrix(path).cell_ids() == ["tiny-cpu"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("port: 9010", "portt: 9010", 31, "cells.0.portt: unknown key; did you mean `port`?"),
        ("port: 9010", "zzz: 9010", 31, "cells.0.zzz: unknown key; known are: chip, container,"),
        ("hub: huggingface", "hubb: huggingface", 21, "models.tiny.source.hubb: unknown key; did you mean `hub`?"),
        ("    display: Tiny\n", "", 18, "models.tiny.display: is missing"),
        ("port: 9010", "port: 9010x", 31, "cells.0.port: expected a whole number, found the text `9010x`"),
        ("port: 9010", "port: true", 31, "cells.0.port: expected a whole number, found `true`"),
        ("port: 9010", "port: 0x_", 31, "cells.0.port: not a number"),
        ("port: 9010", "port: 99999", 31, "cells.0.port: must be less than or equal to 65535, found the number 99999"),
        ("port: 9010", "port:", 31, "cells.0.port: expected a whole number, found nothing"),
        ("alpha: 0.05", "alpha: .nan", 3, "policy.alpha: must be a finite number, found the number nan"),
        ("display: Tiny", "display: 3.0", 19, "expected text, found the number 3.0; put it in quotes"),
        ("display: Tiny", "display: [Tiny]", 19, "models.tiny.display: expected text, found a list"),
        ("quick: [addition]", "quick: addition", 16, "expected a list, found the text `addition`"),
        ("quick: [addition]", "quick:\n   - addition\n   - Big Sums", 18, "suites.quick.1: must be only small letters"),
        ("kind: text", "kind: txt", 20, "expected `text`, `vision` or `embodied`, found the text `txt`; did you mean"),
        ("{llama_cpp: {", "{llamacpp: {", 30, "cells.0.engines.llamacpp: expected `llama_cpp`, `vllm` or `flag"),
        ("reason: few questions", "reason: few", 14, "policy.suites.quick.reason: must have at least 10 characters"),
        ("launcher: process", "launcher: container", 26, "a cell with launcher `container` needs the key `contai"),
        ("engine: llama_cpp", "engine: vllm", 26, "cells.0: engine vllm has no settings under `engines`"),
        ("model: tiny", "model: tny", 26, "cells.0.model: unknown model `tny`; did you mean `tiny`?"),
        ("chip: cpu", "chip: nvidea", 27, "cells.0.chip: unknown chip `nvidea`; did you mean `nvidia`?"),
        ("suite: quick", "suite: quik", 23, "models.tiny.suite: unknown suite `quik`; did you mean `quick`?"),
        ("    quick: {", "    quack: {", 14, "policy.suites.quack: unknown suite; did you mean `quick`?"),
        ("cells:\n", f"cells:\n{SECOND_CELL}", 27, "cells.1: cell `tiny-cpu` is there twice, first on line 26"),
        ("0 3 * * mon-fri", "0 25 * * *", 33, "cells.0.schedule.cron: `0 25 * * *`: the hour `25` is not"),
        ("0 3 * * mon-fri", "0 3 * * fri-mon", 33, "the weekday `fri-mon` is not made of 0 to 7"),
        ("0 3 * * mon-fri", "0 3 * *", 33, "has 4 fields; cron wants five"),
        ("0 3 * * mon-fri", "'*/0 3 * * *'", 33, "the minute `*/0` is not"),
        ("Asia/Shanghai", "Asia/Shangai", 34, "unknown time zone `Asia/Shangai`; did you mean `Asia/Shanghai`?"),
        ("Asia/Shanghai", "/etc/passwd", 34, "unknown time zone `/etc/passwd`"),
        ("Asia/Shanghai", "Asia", 34, "unknown time zone `Asia`"),
        ("port: 9010", "port: 9010\n    port: 9011", 32, "cells.0.port: this key is there twice, first on line 31"),
        ("version: 1", "version: 1\non: 1", 2, "on: a key must be text; put it in quotes"),
        ("port: 9010", "\tport: 9010", 31, "found character '\\t' that cannot start any token"),
        ("display: Tiny", "display: 'Tiny", 35, "scalar that begins on line 19: found unexpected end of stream"),
        ("port: 9010", "port: &port 9010", 31, ": anchors (&) and aliases (*) are not allowed"),
        ("port: 9010", "port: *port", 31, ": anchors (&) and aliases (*) are not allowed"),
        ("port: 9010", "port: !!python/name:os.system 1", 31, "tags (!) are not allowed"),
        ("version: 1\n", "version: 1\n---\n", 2, "but found another document"),
        ("threads: 1", f"deep: {'[' * 40}{']' * 40}", 30, "more than 30 levels"),
        ("Tiny", "Ti\x07ny", 19, "the character 0x07 is not allowed"),
        ("{alpha: chosen for a test, ", "{", 2, "policy: a reason is missing for alpha: say under `reasons` why it is"),
        (
            "quick: {pool",
            "quick: {margin_points: -1, pool",
            14,
            "policy.suites.quick.margin_points: must be greater than 0",
        ),
        (", reason: few questions", "", 14, "policy.suites.quick.reason: is missing"),
        ("version: 1", "version: 2", 1, "version: expected 1, found the number 2"),
    ],
)
def test_a_broken_matrix_is_refused_with_file_line_and_reason(
    old: str, new: str, line: int, words: str, tmp_path: Path
) -> None:
    assert GOOD.count(old) == 1
    error = broken(tmp_path, GOOD.replace(old, new))
    start = f"{tmp_path / 'matrix.yaml'}:{line}: "
    assert [each for each in error.message.splitlines() if each.startswith(start) and words in each], error.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "matrix.yaml: the file is empty"),
        (b"# nothing but a comment\n", "matrix.yaml: the file is empty"),
        (b"- version: 1\n", "matrix.yaml:1: expected a mapping (`key: value` lines), found a list"),
        (b"version: 1\nname: \xff\n", "matrix.yaml:2: byte 0xff is not UTF-8 text"),
        (b"#" * 1_000_001, "matrix.yaml: the file is larger than 1,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_matrix_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    assert words in broken(tmp_path, content).message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"none\.yaml: there is no such file"):
        loading.load_matrix(tmp_path / "none.yaml")
    with pytest.raises(MatrixError, match="cannot be read: Is a directory"):
        loading.load_matrix(tmp_path)


def test_all_errors_come_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = GOOD.replace("alpha: 0.05", "alpha: 2").replace("kind: text", "kind: txt").replace("9010", "x")
    lines = broken(tmp_path, text).message.splitlines()
    assert [int(line.removeprefix(f"{tmp_path}/matrix.yaml:").split(":")[0]) for line in lines] == [3, 20, 31]


def test_of_many_errors_ten_are_shown(tmp_path: Path) -> None:
    lines = broken(tmp_path, GOOD + "".join(f"extra{n}: 1\n" for n in range(14))).message.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "and 4 more"


def test_an_unknown_cell_is_answered_with_the_nearest(matrix: Matrix) -> None:
    chips = loading.load_chips()
    with pytest.raises(UnknownNameError) as caught:
        loading.resolve(matrix, chips, "smolm2-cpu")
    assert caught.value.message == "unknown cell `smolm2-cpu`"
    assert caught.value.remedy == "did you mean `smollm2-cpu`? All cells: flagrelease matrix show"
    with pytest.raises(UnknownNameError, match="All cells: flagrelease matrix show"):
        loading.resolve(matrix, chips, "?")
    with pytest.raises(UnknownNameError, match="unknown chip `cpu`"):
        loading.resolve(matrix, {"nvidia": chips["nvidia"]}, "smollm2-cpu")


def test_the_chips_are_read_one_from_each_file(tmp_path: Path) -> None:
    chips = loading.load_chips()
    displays = {key: chip.display for key, chip in chips.items()}
    assert displays.items() >= {"cpu": "CPU", "metax": "Metax", "nvidia": "Nvidia"}.items()
    assert chips["metax"].devices == ["/dev/mxcd", "/dev/dri"]
    assert (chips["nvidia"].smi, chips["cpu"].smi) == ("nvidia-smi", None)
    with pytest.raises(MatrixError, match="no chip files"):
        loading.load_chips(tmp_path)
    (tmp_path / "ascend.yaml").write_text("vendor: Huawei\nkey: metax\ndisplay: Ascend\n")
    with pytest.raises(MatrixError, match=r"ascend\.yaml:2: key: is `metax`, but the file's name says `ascend`"):
        loading.load_chips(tmp_path)


class Square(BaseModel):
    """One of two shapes."""

    model_config = ConfigDict(extra="forbid")
    kind: str = Field(pattern="^square$")
    side: int


class Drawing(BaseModel):
    """A file other than the matrix, with a choice of types."""

    model_config = ConfigDict(extra="forbid")
    shape: Square | list[Square] | None = None
    title: dict[str, int] | str = ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shape:\n  kind: square\n  sidde: 1\n", "drawing.yaml:3: shape.sidde: unknown key; did you mean `side`?"),
        ("shape:\n  kind: round\n  side: 1\n", "drawing.yaml:2: shape.kind: must be text that matches ^square$"),
        ("shape:\n  - kind: square\n", "drawing.yaml:2: shape.0.side: is missing"),
        ("title: 3\n", "drawing.yaml:1: title: expected text, found the number 3; put it in quotes"),
    ],
)
def test_other_files_with_choices_of_types_are_reported_by_the_same_means(
    text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "drawing.yaml"
    path.write_text(text)
    data, positions = loading.load_yaml(path)
    with pytest.raises(MatrixError) as caught:
        loading.validate(Drawing, path, data, positions)
    assert words in caught.value.message


def test_a_tag_that_is_called_like_a_key_is_no_part_of_the_place() -> None:
    data = {"dataset": {"kind": "package", "package": "x==1", "fille": "y"}}
    place = yaml_file._place
    assert place(data, ("dataset", "package", "fille"), missing=False) == ("dataset", "fille")
    assert place(data, ("dataset", "package", "package"), missing=False) == ("dataset", "package")
    assert place(data, ("dataset", "package", "file"), missing=True) == ("dataset", "file")


def test_the_schema_accepts_the_shipped_matrix_and_refuses_unknown_keys() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = loading.json_schema()
    assert {"models", "cells"} <= schema["properties"].keys()
    jsonschema.Draft202012Validator.check_schema(schema)
    data: dict[str, Any] = yaml.safe_load(data_path("matrix.yaml").read_text())
    jsonschema.validate(data, schema, jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError, match="portt"):
        jsonschema.validate({**data, "portt": 1}, schema, jsonschema.Draft202012Validator)
