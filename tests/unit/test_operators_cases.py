"""What operators are asked, from a model's config.json; what is said of their answers; what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import PreflightError, UnknownNameError, WeightsError
from flagrelease.operators.cases import ACCELERATOR, CPU, OPERATORS, Case, cases_of
from flagrelease.operators.check import Plan, make_plan
from flagrelease.operators.environment import Environment
from flagrelease.operators.results import judge_operator, read_lines
from flagrelease.operators.shapes import SMALL_MODEL, Shapes, read_shapes
from flagrelease.settings import settings
from tests.unit.command_line import Run

QWEN3_MOE = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "rms_norm_eps": 1e-06,
    "torch_dtype": "bfloat16",
}
HERE = Environment(Path(sys.executable), Path("flag_gems"), "5.0.2", "2.13.0", "3.5.1", "1.26.4", "0.1.0")


def config(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({name: value for name, value in {**QWEN3_MOE, **changes}.items() if value is not None}))
    return folder


def test_sizes_are_those_of_the_model(tmp_path: Path) -> None:
    shapes = read_shapes(config(tmp_path), "qwen3")
    assert shapes == Shapes("qwen3", 2048, 768, 32, 4, 128, 151936, 128, 8, 1e-6, "bfloat16")
    by_name = {name: [case for case in cases_of(name, shapes, CPU) if case.group == "model"] for name in OPERATORS}
    assert {case.sizes["columns"] for case in by_name["rms_norm"]} == {2048}
    assert {case.sizes["columns"] for case in by_name["softmax"]} == {151936}
    assert {case.sizes["k"] for case in by_name["mm"]} == {2048, 768}
    assert {case.sizes["experts"] for case in by_name["topk_softmax"]} == {128}
    assert all({case.dtype for case in cases} == {"bfloat16", "float32"} for cases in by_name.values())
    assert {case.sizes["rows"] for case in by_name["rms_norm"]} == {1, 5}
    # On a device hardly anything is cut.
    wide = {case.sizes["n"] for case in cases_of("mm", shapes, ACCELERATOR) if case.group == "model"}
    assert wide == {(32 + 2 * 4) * 128, 16384, 2048}


def test_a_dense_model_has_no_experts_and_a_model_of_pictures_an_inner_configuration(tmp_path: Path) -> None:
    dense = {"num_experts": None, "num_experts_per_tok": None, "head_dim": None, "num_key_value_heads": None}
    shapes = read_shapes(config(tmp_path, **dense), "dense")
    assert (shapes.intermediate, shapes.experts, shapes.head_dim, shapes.kv_heads) == (6144, 0, 64, 32)
    assert cases_of("topk_softmax", shapes, CPU) == cases_of("moe_sum", shapes, CPU) == []
    (tmp_path / "config.json").write_text(json.dumps({"text_config": QWEN3_MOE}))
    assert read_shapes(tmp_path / "config.json", "pictures").hidden == 2048


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_is_asked_distinct_cases_of_both_groups(operator: str) -> None:
    shapes = Shapes("any", 64, 96, 4, 2, 16, 128, 8, 2)
    for limits in (CPU, ACCELERATOR):
        cases = cases_of(operator, shapes, limits)
        assert len({case.name for case in cases}) == len(cases)
        assert {case.group for case in cases} == {"model", "edge"}


def test_the_tolerance_of_a_sum_grows_with_its_length() -> None:
    lengths = {case.reduction for case in cases_of("mm", SMALL_MODEL, CPU) if case.group == "model"}
    assert lengths == {576, 1536}
    assert {case.reduction for case in cases_of("softmax", SMALL_MODEL, CPU)} == {1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"hidden_size": None}, "no hidden_size"), ({"vocab_size": "many"}, "vocab_size is 'many'")],
)
def test_a_configuration_without_sizes_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        read_shapes(config(tmp_path, **changes), "any")


def test_a_model_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"the model any has no config\.json"):
        read_shapes(tmp_path, "any")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="is no JSON"):
        read_shapes(tmp_path, "any")


def test_an_unknown_operator_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="'rmsnorm'") as raised:
        make_plan(HERE, SMALL_MODEL, ["rmsnorm"], "cpu")
    assert "rms_norm" in raised.value.remedy


def test_what_is_missing_is_named() -> None:
    lacking = Environment(Path(sys.executable), None, None, "2.13.0", None, "1.26.4", "0.1.0")
    with pytest.raises(PreflightError, match="lacks triton, flag_gems"):
        make_plan(lacking, SMALL_MODEL, (), "cpu")


def test_results_are_kept_apart_by_what_may_change_them() -> None:
    plan = make_plan(HERE, SMALL_MODEL, ["add"], "cpu")
    assert plan.key() == Plan(HERE, "cpu", SMALL_MODEL, ("mm",)).key()
    others = [
        Plan(HERE, "cuda", SMALL_MODEL, ("add",)),
        Plan(HERE, "cpu", Shapes("other", 64, 96, 4, 2, 16, 128), ("add",)),
        Plan(Environment(**{**vars(HERE), "flag_gems": "5.0.3"}), "cpu", SMALL_MODEL, ("add",)),
    ]
    assert len({plan.key(), *(other.key() for other in others)}) == 4


CASES = [Case("decode", "model", {}), Case("nan", "edge", {}), Case("empty", "edge", {})]


def line(case: str, outcome: str, **more: Any) -> dict[str, Any]:
    group = next(each.group for each in CASES if each.name == case)
    return {"case": case, "group": group, "outcome": outcome, "reason": f"{outcome} here", **more}


@pytest.mark.parametrize(
    ("outcomes", "device", "verdict", "said"),
    [
        (("matches", "matches", "matches"), "cpu", "matches", ""),
        (("matches", "differs", "matches"), "cpu", "differs", "1 of 3 cases, edge cases only: nan: differs here"),
        (("differs", "differs", "matches"), "cpu", "differs", "2 of 3 cases: decode: differs here"),
        (("matches", "matches", "raises"), "cpu", "differs", "1 of 3 cases, edge cases only: empty: raises here"),
        (("matches", "crashed"), "cpu", "crashed", "1 of 2 cases, edge cases only: nan: crashed here"),
        (("matches", "not runnable", "matches"), "cpu", "matches", "1 of 3 cases, edge cases only: nan"),
        (("not runnable",) * 3, "cpu", "not runnable here", "3 of 3 cases: decode: not runnable here"),
        # An operator may want a device; on one it has no excuse.
        (("raises",) * 3, "cpu", "not runnable here", "3 of 3 cases: decode: raises here"),
        (("raises",) * 3, "cuda", "differs", "3 of 3 cases: decode: raises here"),
    ],
)
def test_the_verdict_of_an_operator(outcomes: tuple[str, ...], device: str, verdict: str, said: str) -> None:
    lines = [line(case.name, outcome) for case, outcome in zip(CASES, outcomes, strict=False)]
    result = judge_operator("any", CASES, lines, device)
    assert (result.verdict, result.missing) == (verdict, ())
    assert result.reason.startswith(said)
    assert bool(result.reason) == bool(said)


def test_the_worst_case_and_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "any.jsonl"
    numbers = {"ratio": 0.5, "error": 0.1, "tolerance": 0.2, "seconds": 1.5}
    file.write_text(json.dumps(line("decode", "matches", **numbers)) + '\n{"case": "na')
    result = judge_operator("any", CASES, read_lines(file), "cpu")
    assert (result.worst, result.worst_error, result.worst_tolerance, result.seconds) == (0.5, 0.1, 0.2, 1.5)
    assert set(result.missing) == {"nan", "empty"}
    assert result.matching == 1
    # What was not asked is not said to match.
    assert (result.verdict, result.reason) == ("not runnable here", "2 of 3 cases not asked")


def test_the_command_says_why_a_model_cannot_be_taken(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(monkeypatch, capsys)
    assert run("operators", "check", "--model", "smollm2") == WeightsError.exit_code
    assert "names no folder of the model smollm2" in run.err
    assert run("operators", "check", "--model", home / "nothing") == WeightsError.exit_code
    assert "has no config.json" in run.err
    monkeypatch.setenv("FLAGRELEASE_OPERATORS", sys.executable)
    settings.cache_clear()
    assert run("operators", "check", "--model", config(home)) == PreflightError.exit_code
    assert "lacks" in run.err
