"""On a CPU: sound kernels match, planted faults are found, a crash is an outcome, nothing is asked twice."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from flagrelease.operators.cases import OPERATORS
from flagrelease.operators.catalogue import KNOWN_VERSION, read_catalogue
from flagrelease.operators.check import Plan, make_plan, run
from flagrelease.operators.environment import environment, with_flag_gems
from flagrelease.operators.results import read_lines
from flagrelease.operators.shapes import Shapes

pytestmark = pytest.mark.needs("operators")

SMALL = Shapes("small", 160, 192, 4, 2, 32, 1000, experts=8, experts_per_token=2, epsilon=1e-6, dtype="float16")
# As models are, and what Triton's interpreter by itself cannot compute with.
MODEL = replace(SMALL, dtype="bfloat16")
# Reductions as long as those of a model, where a narrow accumulator shows.
LONG = Shapes("long", 2048, 192, 2, 1, 32, 32, dtype="float16")
KERNELS = ("sum_dim", "rms_norm", "mm", "apply_rotary_pos_emb")


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.delenv("PLANTED_FAULT", raising=False)


def plan(*operators: str, shapes: Shapes = SMALL, module: str = "planted_kernels") -> Plan:
    return make_plan(environment(), shapes, operators, "cpu", module)


def test_sound_kernels_match(tmp_path: Path) -> None:
    results = run(plan(*KERNELS), tmp_path)
    assert {result.operator: (result.verdict, result.reason) for result in results} == dict.fromkeys(
        KERNELS, ("matches", "")
    )
    assert all(result.matching == result.cases > 5 for result in results)
    (long,) = run(plan("mm", shapes=LONG), tmp_path)
    assert long.verdict == "matches", long.reason


@pytest.mark.parametrize(
    ("fault", "operator", "shapes"),
    [
        ("tail", "sum_dim", SMALL),
        ("epsilon", "rms_norm", SMALL),
        ("float16", "mm", LONG),
        ("halves", "apply_rotary_pos_emb", SMALL),
    ],
)
def test_a_planted_fault_is_found(
    fault: str, operator: str, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_FAULT", fault)
    (result,) = run(plan(operator, shapes=shapes), tmp_path)
    assert result.verdict == "differs"
    assert result.worst is None or result.worst > 1
    assert "expected" in result.reason


def test_a_crash_is_an_outcome_and_nothing_is_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_FAULT", "crash")
    asked = plan("add", "rms_norm")
    crashed, after = run(asked, tmp_path)
    assert (crashed.verdict, crashed.matching) == ("crashed", 2)
    assert "SIGABRT" in crashed.reason
    third = asked.cases("add")[2].name
    assert third in crashed.reason
    assert after.verdict == "matches"

    # What was killed in the middle: some lines are missing, the last one is broken off.
    file = tmp_path / asked.key() / "rms_norm.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]) + lines[4][:20])
    said: list[str] = []
    again = run(asked, tmp_path, said.append)
    assert [result.verdict for result in again] == ["crashed", "matches"]
    assert said == ["1 of 2, add: crashed (kept)", "2 of 2, rms_norm: matches"]
    assert file.read_text().startswith("".join(lines[:4]))
    names = [line["case"] for line in read_lines(file)]
    assert sorted(names) == sorted(case.name for case in asked.cases("rms_norm"))


def test_flag_gems_matches_in_the_interpreter(tmp_path: Path) -> None:
    plain = ("add", "mul", "gelu", "softmax", "sum_dim", "argmax", "mm", "rms_norm", "index_select")
    fused = ("silu_and_mul", "apply_rotary_pos_emb", "scaled_dot_product_attention", "topk_softmax", "moe_sum")
    names = (*plain, *fused)
    results = {result.operator: result for result in run(plan(*names, shapes=MODEL, module="flag_gems"), tmp_path)}
    assert {name: (result.verdict, result.reason) for name, result in results.items()} == dict.fromkeys(
        names, ("matches", "")
    )


def test_what_needs_a_device_says_so(tmp_path: Path) -> None:
    (result,) = run(plan("mul"), tmp_path)
    assert (result.verdict, result.matching) == ("not runnable here", 0)
    assert "tensors on a device are needed" in result.reason


def test_every_operator_has_a_reference_and_is_flag_gems() -> None:
    found = environment()
    code = "import json, flagrelease.operators.reference as r; print(json.dumps(sorted(r.QUESTIONS)))"
    answer = subprocess.run([found.python, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == sorted(OPERATORS)
    catalogue = read_catalogue(*with_flag_gems(found))
    assert catalogue.version == KNOWN_VERSION
    assert catalogue.notes == ()
    known = {each.name: each for each in catalogue.operators}
    assert set(OPERATORS) - set(known) == {"scaled_dot_product_attention"}
    assert (len(known), sum(len(each.keys) for each in known.values())) == (442, 433)
    assert known["mm"].keys == ("mm",)
    assert "metax" in {own.vendor for own in known["mm"].overrides}
    assert known["topk"].unused_by == ("kunlunxin",)
