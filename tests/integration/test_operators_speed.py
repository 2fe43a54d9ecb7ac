"""What is timed, and that the native kernels which FlagGems is held against compute the same; no device is needed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flagrelease.operators.cases import OPERATORS
from flagrelease.settings import CHECKOUT

pytestmark = pytest.mark.needs("operators")
PROGRAM = Path(__file__).with_name("timed_operators.py")


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(CHECKOUT))
        patch.setenv("OMP_NUM_THREADS", "1")
        done = subprocess.run(
            [CHECKOUT / ".venv-operators/bin/python", PROGRAM], capture_output=True, text=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_native_kernel_of_every_operator_answers_as_the_reference_and_changes_no_input(
    told: dict[str, Any],
) -> None:
    assert told["native"].keys() == OPERATORS.keys()
    assert {name: each for name, each in told["native"].items() if each["furthest"] > 1 or each["changed"]} == {}


def test_what_matches_in_a_models_size_is_timed_and_nothing_else(told: dict[str, Any]) -> None:
    for operator in ("mm", "fused_add_rms_norm"):
        lines = told["lines"][operator]
        assert {line["outcome"] for line in lines} == {"matches"}
        times = {line["group"]: (line.get("native_ms"), line.get("flaggems_ms")) for line in lines}
        assert times == {"model": (3.0, 2.0), "edge": (None, None)}
    assert all("native_ms" not in line and "no_speed" not in line for line in told["lines"]["abs"])
    assert {line["outcome"] for line in told["lines"]["abs"]} >= {"differs"}


def test_every_repetition_is_asked_the_same_where_the_operator_writes_over_its_inputs(told: dict[str, Any]) -> None:
    assert set(told["repetitions are alike"]) == {True}


def test_a_timing_that_fails_is_no_verdict_and_says_why(told: dict[str, Any]) -> None:
    lines = [line for line in told["lines"]["neg"] if line["group"] == "model"]
    assert {(line["outcome"], line["no_speed"]) for line in lines} == {
        ("matches", "OutOfMemoryError: no room for the cache")
    }
    assert not any("native_ms" in line for line in lines)


def test_nothing_is_timed_on_a_cpu(told: dict[str, Any]) -> None:
    assert told["on a CPU"]["outcome"] == "matches"
    assert not {"native_ms", "flaggems_ms", "no_speed"} & told["on a CPU"].keys()
