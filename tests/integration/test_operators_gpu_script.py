"""The script for a host with a GPU, run up to the device: a real model is served, real kernels are interpreted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flagrelease.settings import CHECKOUT
from tests.end_to_end.commands import servers_below

PYTHONS = ("--operators", ".venv-operators/bin/python", "--torch", ".venv-vllm/bin/python")
# Whatever the machine takes.
SMALL = ("--minutes", "60", "--prompts", "2", "--items", "2", "--operator", "neg")
STAND_IN = "a stand-in for FlagGems"


@pytest.mark.needs("operators", "llama_cpp", "vllm")
@pytest.mark.slow
def test_it_runs_up_to_the_device_and_says_what_that_does_not_show(tmp_path: Path) -> None:
    argv = ["benchmarks/gpu/operators.py", "--device", "cpu", "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    # As where FlagRelease is not installed from this checkout.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *argv, *PYTHONS, *SMALL],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert servers_below(tmp_path) == []

    found = json.loads((tmp_path / "operators.json").read_text())
    parts: dict[str, dict[str, Any]] = {part["name"].partition(",")[0]: part for part in found["parts"]}
    assert all(part["done"] for part in parts.values())
    assert (found["device"]["device"], found["interpreter"]) == ("cpu", True)
    assert {"flag_gems", "torch", "triton", "flagrelease", "served by"} <= found["versions"].keys()

    flagos = parts["flagos"]
    assert STAND_IN in flagos["name"]
    assert STAND_IN in flagos["found"]["flag_gems"]
    assert {"mm", "rsqrt", "silu"} <= set(flagos["found"]["operators"])
    # The stand-in's operators are torch's own.
    assert flagos["found"]["canary"]["passed"]
    assert flagos["found"]["evaluation"]["n"] == 2

    decided = parts["verdict"]["found"]
    assert STAND_IN in decided["of"]
    assert decided["verdict"]["verdict"] == "INCONCLUSIVE"
    (row,) = parts["operators"]["found"]["operators"]
    assert (row["operator"], row["verdict"], row["speed_ratio"], row["left_out"]) == ("neg", "matches", None, 0)
    assert not any("native_ms" in line for line in row["lines"])

    shown = (tmp_path / "operators.md").read_text()
    assert "Run up to the device only" in shown
    assert "FlagGems itself did not run there" in shown
    assert "| neg | " in shown
    assert "not measured on a CPU" in shown
    assert "**INCONCLUSIVE**" in shown


def test_what_is_missing_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    argv = ["benchmarks/gpu/operators.py", "--out", str(tmp_path / "out"), "--torch", str(tmp_path / "python")]
    done = subprocess.run(
        [sys.executable, *argv, "--operators", sys.executable],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{tmp_path / 'python'} cannot be run" in done.stderr
    assert "pip install -e '.[operators,gguf]' transformers" in done.stderr
    assert not (tmp_path / "out").exists()
