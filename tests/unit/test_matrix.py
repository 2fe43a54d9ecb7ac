"""The shipped matrix resolves; test_bad_matrices.py has the broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from flagrelease import loading, yaml_misfits
from flagrelease.errors import MatrixError, UnknownNameError
from flagrelease.matrix import Matrix, ResolvedCell
from flagrelease.settings import data_path

ROOT = Path(__file__).parents[2]
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


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"none\.yaml: there is no such file"):
        loading.load_matrix(tmp_path / "none.yaml")
    with pytest.raises(MatrixError, match="cannot be read: Is a directory"):
        loading.load_matrix(tmp_path)


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
    place = yaml_misfits._place
    assert place(data, ("dataset", "package", "fille"), missing=False) == ("dataset", "fille")
    assert place(data, ("dataset", "package", "package"), missing=False) == ("dataset", "package")
    assert place(data, ("dataset", "package", "file"), missing=True) == ("dataset", "file")
    assert place({"cells": [{"tags": ["a", 1]}]}, ("cells", 0, "tags", 1), missing=False) == ("cells", 0, "tags", 1)


def test_the_schema_accepts_the_shipped_matrix_and_refuses_what_is_not_known() -> None:
    schema = loading.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    data: dict[str, Any] = yaml.safe_load(data_path("matrix.yaml").read_text())
    assert list(validator.iter_errors(data)) == []
    for wrong in (
        {"portt": 1},
        {"cells": [{**data["cells"][0], "chip": "nvidea"}]},
        {"cells": [{**data["cells"][0], "portt": 1}]},
        {"suites": {"smoke": ["adition"]}},
        {"models": {"tiny": {**data["models"]["qwen3"], "kind": "txt"}}},
    ):
        assert not validator.is_valid({**data, **wrong}), wrong


def test_the_schema_that_editors_read_is_the_one_in_force() -> None:
    text = data_path("matrix.yaml").read_text()
    path = Path(text.splitlines()[0].removeprefix("# yaml-language-server: $schema="))
    # To make it anew: flagrelease matrix schema > docs/matrix.schema.json
    assert json.loads((ROOT / path).read_text()) == loading.json_schema()
