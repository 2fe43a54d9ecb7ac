"""One real model, measured as a baseline, then released unharmed, coarser, and with a damaged matrix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.baseline import SHIPPED, load
from flagrelease.loading import load_matrix
from runtime import weights
from tests.damage import damaged
from tests.end_to_end.commands import MATRIX, environment, flagrelease, said

pytestmark = pytest.mark.needs("llama_cpp")
CELL = "smollm2-cpu"
Change = Callable[[dict[str, Any]], None]


def short_matrix(folder: Path, change: Change = lambda _: None) -> Path:
    """The shipped matrix with one benchmark of 225 sums, which knows no baseline yet."""
    matrix = yaml.safe_load(MATRIX.read_text())
    matrix["suites"]["smoke"] = ["addition"]
    matrix["policy"]["suites"]["smoke"]["canary"] |= {"prompts": 12, "tokens": 24}
    matrix["models"]["smollm2"]["reference"] |= {"baseline": None, "again": {}}
    change(matrix)
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True, sort_keys=False))
    return path


class Place:
    """A home with a baseline that llama.cpp measured, in which the cell is released."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: Mapping[str, str] = environment(folder, FLAGRELEASE_MATRIX=str(short_matrix(folder)))
        done = flagrelease("baseline", "run", CELL, "--output", folder / "baselines", env=self.env)
        assert done.returncode == 0
        (found,) = (folder / "baselines").iterdir()
        self.baseline = found.name
        self.about = json.loads((found / "baseline.json").read_text())

    def release(self, change: Change = lambda _: None) -> tuple[str, dict[str, Any]]:
        """Release the cell against the baseline; what was said, and the verdict."""

        def all_changes(matrix: dict[str, Any]) -> None:
            matrix["models"]["smollm2"]["reference"]["baseline"] = self.baseline
            change(matrix)

        short_matrix(self.folder, all_changes)
        done = flagrelease("release", CELL, env=self.env)
        verdict = json.loads(flagrelease("gate", CELL, "--json", env=self.env).stdout)
        assert done.returncode == {"REGRESSED": 1, "INVALID": 3}.get(verdict["verdict"], 0)
        return said(done), verdict

    @property
    def converted(self) -> Path:
        """The weights with float16 matrices that the engine reads."""
        model = load_matrix(MATRIX).models["smollm2"]
        return weights.float16(weights.check(model), self.folder / "state" / "work" / "weights")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("same"))


def test_the_same_model_is_consistent_with_itself(place: Place) -> None:
    assert [(floor["benchmark"], floor["flips"]) for floor in place.about["floors"]] == [("addition", 0)]
    out, verdict = place.release()
    assert (verdict["verdict"], verdict["rule"]) == ("CONSISTENT", "pooled")
    assert verdict["canary"]["passed"]
    assert verdict["canary"]["found"]["top1_agreement"] == 1
    (row,) = verdict["benchmarks"]
    assert (row["lost"], row["won"], row["n"]) == (0, 0, 225)
    assert "canary: passed" in out


def test_four_bit_matrices_are_caught_and_confirmed(place: Place) -> None:
    def coarser(matrix: dict[str, Any]) -> None:
        matrix["cells"][0]["engines"]["llama_cpp"]["weights"] = "as_is"
        # What the benchmarks say of it is the point here, whatever the canary would.
        matrix["policy"]["suites"]["smoke"]["without"] = ["canary"]

    out, verdict = place.release(coarser)
    assert (verdict["verdict"], verdict["rule"]) == ("REGRESSED", "benchmark")
    (row,) = verdict["benchmarks"]
    # Asked a second time before the loss stood, and judged on both.
    assert row["repeats"] == 2
    assert "escalate: asking again, in all: addition 2 times" in out
    assert any("without canary" in override for override in verdict["overrides"])


def test_a_damaged_matrix_is_stopped_by_the_canary(place: Place) -> None:
    whole = place.converted
    kept = whole.with_suffix(".kept")
    shutil.move(whole, kept)
    try:
        damaged(kept, whole, 0.5, "blk.15.ffn_down.weight")
        # Another setting makes it another release: the weights are the same by their source.
        out, verdict = place.release(
            lambda matrix: matrix["cells"][0]["engines"]["llama_cpp"].update({"ready_timeout_s": 601})
        )
    finally:
        shutil.move(kept, whole)
    assert (verdict["verdict"], verdict["rule"]) == ("REGRESSED", "canary")
    assert verdict["benchmarks"] == []
    assert verdict["canary"]["worst"]
    assert "evaluate: " not in out
    card = (place.folder / "output" / CELL / "README.md").read_text()
    assert "FAILED" in card
    assert "publish: not published, the verdict is REGRESSED" in out


def test_the_baselines_that_are_shipped_have_their_noise_floor() -> None:
    for folder in SHIPPED.glob("smollm2-vllm-*"):
        shipped = load(folder.name)
        assert {floor.benchmark for floor in shipped.floors} == {run.benchmark for run in shipped.benchmarks}
        assert shipped.canary is not None
        assert shipped.canary.floor.positions > 0
