"""A baseline of one real model, killed in either pass; then the model released: unharmed, coarser, and damaged."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.baseline import SHIPPED, load
from flagrelease.loading import load_matrix
from runtime import weights
from tests.damage import damaged
from tests.end_to_end.commands import BIN, MATRIX, ROOT, environment, flagrelease, run, said, servers_below

pytestmark = [pytest.mark.needs("llama_cpp"), pytest.mark.timeout(1800)]
CELL = "smollm2-cpu"
ITEMS = 225
ANSWERED = 120
Change = Callable[[dict[str, Any]], None]

# `<answers> <time> ARGUMENTS…`: runs the command, and kills it when it has so many answers for the so-manieth time.
KILLED = """
import os, signal, sys
from flagrelease import cli
from flows import serving

count, left = int(sys.argv[1]), int(sys.argv[2])

def die(self, benchmark, answered, total):
    global left
    left -= answered == count
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

serving.SaidProgress.__call__ = die
sys.argv = ["flagrelease", *sys.argv[3:]]
cli.main()
"""
# The flow, as a worker runs it; the server of Prefect is one for this run.
FLOW = """
import sys
from pathlib import Path
from flows.baseline import baseline
from flows.local_server import prefect_server

with prefect_server(Path(sys.argv[1]), print):
    print("returned", baseline(cell="smollm2", engine="llama_cpp", output=sys.argv[2]))
"""


def short_matrix(folder: Path, change: Change = lambda _: None) -> Path:
    """The shipped matrix with one benchmark of 225 sums, which knows no baseline yet."""
    matrix = yaml.safe_load(MATRIX.read_text())
    matrix["suites"]["smoke"] = ["addition"]
    matrix["policy"]["suites"]["smoke"]["canary"] |= {"prompts": 12, "tokens": 24}
    # In the A/A pass it is served with another setting, one that changes no answer.
    matrix["models"]["smollm2"]["reference"] |= {"baseline": None, "again": {"ready_timeout_s": 500}}
    change(matrix)
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True, sort_keys=False))
    return path


class Place:
    """A home with a baseline that llama.cpp measured in three runs, in which the cell is released."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.baselines = folder, folder / "baselines"
        matrix = short_matrix(folder)
        self.env: Mapping[str, str] = environment(folder, FLAGRELEASE_MATRIX=str(matrix), PYTHONPATH=str(ROOT))
        command = ("baseline", "run", "smollm2", "--engine", "llama_cpp", "--output", self.baselines)
        # The second run takes up the first pass with what it has, so the count is reached in the A/A pass.
        self.killed = [
            run(BIN / "python", "-c", KILLED, str(ANSWERED), str(time), *command, env=self.env) for time in (1, 2)
        ]
        self.too_early = list(self.baselines.iterdir())
        self.done = run(BIN / "python", "-c", FLOW, folder / "prefect", self.baselines, env=self.env)
        assert self.done.returncode == 0
        (found,) = self.baselines.iterdir()
        self.baseline = found.name

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


def test_a_baseline_that_was_killed_in_both_passes_goes_on_and_ends_as_it_should(place: Place) -> None:
    for killed, reached in zip(place.killed, ("evaluate: Addition", "A/A: the same questions again"), strict=True):
        assert killed.returncode == -signal.SIGKILL
        assert reached in said(killed)
    assert place.too_early == []
    assert "first pass: kept from an earlier run" in said(place.done)
    assert f"addition: {ANSWERED} answers kept from an earlier run" in said(place.done)
    assert f"returned {place.baseline}" in place.done.stdout
    assert servers_below(place.folder) == []

    whole = load(place.baseline, place.baselines)
    assert (whole.provenance.model, whole.provenance.engine) == ("smollm2", "llama_cpp")
    assert len({item.item for item in whole.items}) == len(whole.items) == ITEMS
    (floor,) = whole.floors
    assert (floor.n, floor.flips, floor.how) == (ITEMS, 0, "served again with ready_timeout_s=500")
    shown = flagrelease("baseline", "show", place.baseline, "--json", env=place.env)
    assert json.loads(shown.stdout)["places"] == ["store"]
    assert place.baseline in flagrelease("baseline", "list", env=place.env).stdout
    assert list((place.folder / "state/work/answers").iterdir()) == []


def test_the_same_model_is_consistent_with_itself(place: Place) -> None:
    out, verdict = place.release()
    assert (verdict["verdict"], verdict["rule"]) == ("CONSISTENT", "pooled")
    assert verdict["canary"]["passed"]
    assert verdict["canary"]["found"]["top1_agreement"] == 1
    (row,) = verdict["benchmarks"]
    assert (row["lost"], row["won"], row["n"]) == (0, 0, ITEMS)
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
    assert "evaluate: Addition" not in out
    card = (place.folder / "output" / CELL / "README.md").read_text()
    assert "FAILED" in card
    assert "publish: not published, the verdict is REGRESSED" in out


def test_the_baselines_that_are_shipped_have_their_noise_floor() -> None:
    for folder in SHIPPED.glob("smollm2-vllm-*"):
        shipped = load(folder.name)
        assert {floor.benchmark for floor in shipped.floors} == {run.benchmark for run in shipped.benchmarks}
        assert shipped.canary is not None
        assert shipped.canary.floor.positions > 0
