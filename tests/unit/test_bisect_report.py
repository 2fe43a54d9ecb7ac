"""What a bisect hands to people: a deny-list that the matrix takes, and a report that a stranger can follow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flagrelease.bisect.checked import CheckedOperator, checked, versions_said
from flagrelease.bisect.records import BisectResult
from flagrelease.bisect.report import Subject, deny_list, upstream_report
from runtime.engines import engine
from tests.unit.simulated_operators import SimulatedStack, names

SUBJECT = Subject(
    model="org/model",
    chip="metax",
    engine="vllm",
    baseline_id="model-vllm-1",
    versions={"vllm": "0.32.0", "flag-gems": "5.0.2"},
    shapes={"op3_3": ["(1, 4096) bfloat16"]},
    text=[5, 6, 7],
)


def searched(path: Path, **faults: object) -> BisectResult:
    return SimulatedStack(names(12), **faults).bisect(path / "journal.jsonl")  # type: ignore[arg-type]


def test_the_deny_list_keeps_what_was_left_out_before_and_is_what_the_engine_takes(tmp_path: Path) -> None:
    result = searched(tmp_path, bad=["op3_3"], crashing=["op9_2"])
    lists = yaml.safe_load(deny_list("vllm", only=[], without=["topk", "op9_2"], remove=result.remove))
    assert sorted(lists["engines"]["vllm"]["without_operators"]) == ["op3_3", "op9_2", "topk"]
    engine("vllm").settings({"plugin": True, **lists["engines"]["vllm"]})


def test_of_a_cell_that_names_what_alone_runs_the_rest_is_left() -> None:
    lists = yaml.safe_load(
        deny_list("torch_reference", only=["add", "mm", "mm_out"], without=[], remove=["mm", "mm_out"])
    )
    assert lists == {"engines": {"torch_reference": {"operators": ["add"]}}}
    # An empty list would let all run.
    assert yaml.safe_load(deny_list("vllm", only=["mm"], without=[], remove=["mm", "mm_out"])) == {"stack": "native"}


def test_without_a_culprit_there_is_no_deny_list(tmp_path: Path) -> None:
    assert deny_list("vllm", only=[], without=["topk"], remove=searched(tmp_path).remove) == ""


def test_what_writes_one_line_is_named_together_in_what_people_run(tmp_path: Path) -> None:
    result = searched(tmp_path, bad=["op3_3"])
    told = SUBJECT.model_copy(update={"functions": {"op3_3": ["op3_3", "op3_3_out"]}})
    text = upstream_report(result, result.culprits[0], told)
    assert "VLLM_FL_FLAGOS_WHITELIST=op3_3,op3_3_out" in text
    assert "use_gems(include=['op3_3', 'op3_3_out'])" in text


def test_a_report_says_what_happens_with_which_versions_and_how_to_see_it(tmp_path: Path) -> None:
    result = searched(tmp_path, bad=["op3_3"])
    text = upstream_report(result, result.culprits[0], SUBJECT)
    assert text.startswith("# `op3_3` changes what the model says on metax\n")
    for words in ("| flag-gems | 5.0.2 |", "(1, 4096) bfloat16", "VLLM_FL_FLAGOS_WHITELIST=op3_3", "model-vllm-1"):
        assert words in text
    assert "- all 12 operators of FlagGems that this model uses: 5.5" in text
    assert "- all but `op3_3`: 0.5" in text
    assert text.count("\n| ") == 4 + 2 + len(result.steps) + 2
    script = text.partition("```python\n")[2].partition("```")[0]
    compile(script, "reproduction", "exec")
    assert "use_gems(include=['op3_3'])" in script
    assert "[[5, 6, 7]]" in script
    plain = upstream_report(result, result.culprits[0], SUBJECT.model_copy(update={"engine": "torch_reference"}))
    assert "VLLM_FL" not in plain
    assert "use_gems" in plain


def test_a_report_of_a_crash_has_the_error_and_of_a_pair_both(tmp_path: Path) -> None:
    result = searched(tmp_path, crashing=["op3_3"])
    text = upstream_report(result, result.culprits[0], SUBJECT)
    assert "crashes the server" in text
    assert "```text\nended by signal SIGSEGV\n```" in text
    (tmp_path / "journal.jsonl").unlink()
    result = searched(tmp_path, together=[["op3_3", "op8_1"]])
    text = upstream_report(result, result.culprits[0], SUBJECT)
    assert "as the only one: good" in text
    assert "`op3_3`" in text.splitlines()[0]
    assert "`op8_1`" in text.splitlines()[0]


ABOUT = {"device": "cuda", "model": "qwen3", "flag_gems": "5.0.2", "torch": "2.9.0", "triton": "3.4.0", "hidden": 4096}


def line(case: str, group: str, outcome: str, error: float | None = None, reason: str = "") -> dict[str, Any]:
    """What a check writes of a case; 0.5 is within tolerance."""
    ratio = None if error is None else error / 0.5
    found = {"case": case, "group": group, "outcome": outcome, "reason": reason}
    return {**found, "ratio": ratio, "error": error, "tolerance": 0.5, "seconds": 0.1}


LINES = [
    line("1 x 4096, bfloat16", "model", "matches", 0.1),
    line("509 x 4096, bfloat16", "model", "differs", 1.5, "1.5 instead of 0.0"),
    line("nan, float32", "edge", "differs", 9.0),
    line("4 x 4096, bfloat16", "model", "not runnable", reason="no such type"),
]
VERSIONS = {"flag-gems": "5.0.2", "torch": "2.9.0", "vllm": "0.32.0"}


def kept(folder: Path, key: str, lines: list[dict[str, Any]], **about: Any) -> None:
    """What a check leaves on a host; later ones are newer."""
    place = folder / key
    place.mkdir(parents=True)
    (place / "about.json").write_text(json.dumps({**ABOUT, **about}))
    (place / "mm.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"case": "half a li')
    age = sum(1 for _ in folder.glob("*/about.json"))
    os.utime(place / "mm.jsonl", (age, age))


def test_the_worst_case_of_the_newest_check_of_the_same_model_and_versions_is_found(tmp_path: Path) -> None:
    def found(versions: Mapping[str, str] = VERSIONS) -> CheckedOperator | None:
        return checked(tmp_path, "mm", ["qwen3", "Qwen/Qwen3-8B"], versions)

    assert found() is None
    kept(tmp_path, "older", LINES[:1])
    kept(tmp_path, "newer", LINES)
    kept(tmp_path, "other model", LINES[:1], model="qwen2")
    kept(tmp_path, "other gems", LINES[:1], flag_gems="5.0.3")
    kept(tmp_path, "other torch", LINES[:1], torch="2.8.0")
    kept(tmp_path, "could ask nothing", [{**LINES[1], "outcome": "raises"}], device="cpu")
    worst = found()
    assert worst is not None
    # Of a fault that the model meets and a larger one that it may never meet the first is told.
    assert (worst.case, worst.error, worst.tolerance, worst.device) == ("509 x 4096, bfloat16", 1.5, 0.5, "cuda")
    assert (worst.faults, worst.cases) == (2, 3)
    assert worst.sizes == ["1 x 4096, bfloat16", "509 x 4096, bfloat16"]
    assert found({"torch": "2.9.0"}) is None
    assert found({**VERSIONS, "triton": "3.5.0"}) is None
    assert found(versions_said("2.9.0, transformers 5.19.0, FlagGems 5.0.2")) == worst
    assert versions_said("2.9.0, transformers 5.19.0") == {}
    (tmp_path / "newer" / "about.json").write_text("broken")
    sound = found()
    assert sound is not None
    assert (sound.outcome, sound.faults, sound.reason) == ("matches", 0, "")


def test_a_report_has_the_error_against_float64_or_the_command_that_gives_it(tmp_path: Path) -> None:
    kept(tmp_path, "key", LINES)
    found = checked(tmp_path, "mm", ["qwen3"], VERSIONS)
    assert found is not None
    result = searched(tmp_path, bad=["op3_3"])

    def text(**about: object) -> str:
        return upstream_report(result, result.culprits[0], SUBJECT.model_copy(update=about))

    with_it = text(checked={"op3_3": found}, shapes={"op3_3": found.sizes})
    assert "| 509 x 4096, bfloat16 | 1.5 | 0.5 | cuda | differs |" in with_it
    assert "on cuda (flag_gems 5.0.2, torch 2.9.0, triton 3.4.0)" in with_it
    assert "2 of 3 cases differ" in with_it
    assert "```text\n1.5 instead of 0.0\n```" in with_it
    assert "- `op3_3`: 1 x 4096, bfloat16; 509 x 4096, bfloat16" in with_it
    interpreted = text(checked={"op3_3": found.model_copy(update={"device": "cpu"})})
    assert "in Triton's interpreter, which shows its arithmetic and nothing of a compiler" in interpreted
    command = "flagrelease operators check --operator op3_3 --model qwen3"
    assert f"```shell\n{command}\n```" in text(check={"op3_3": command})
    assert "none of the operators that FlagRelease has a reference for" in text()
