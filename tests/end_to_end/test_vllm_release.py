"""The same cell through vLLM: the code path that a GPU host takes, log-likelihood benchmarks included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.commands import environment, flagrelease, servers_below
from tests.end_to_end.short import short_matrix

pytestmark = pytest.mark.needs("vllm", "llama_cpp")


@pytest.mark.timeout(1500)
def test_the_small_cell_through_vllm(tmp_path: Path) -> None:
    matrix = short_matrix(tmp_path, ["addition", "hellaswag_100"])
    env = environment(tmp_path, FLAGRELEASE_MATRIX=str(matrix))
    released = flagrelease("release", "smollm2-cpu", "--engine", "vllm", env=env, timeout=1400)
    assert released.returncode == 0
    assert servers_below(tmp_path) == []
    view = json.loads(flagrelease("show", "smollm2-cpu", "--json", env=env).stdout)
    assert view["engine"] == "vllm"
    assert view["gate"]["verdict"] == "CONSISTENT"
    counts = {row["benchmark"]: (row["n"], row["role"]) for row in view["gate"]["benchmarks"]}
    assert counts == {
        "addition": (225, "gated"),
        "hellaswag_100": (100, "advisory"),
    }
    card = (tmp_path / "output" / "smollm2-cpu" / "README.md").read_text()
    assert "flagrelease release smollm2-cpu --engine vllm" in card
    assert "vLLM 0.32.0+cpu" in card
