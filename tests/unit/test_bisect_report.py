"""What a bisect hands to people: a deny-list that the matrix takes, and a report that a stranger can follow."""

from __future__ import annotations

from pathlib import Path

import yaml

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
    already_removed=["topk"],
    shapes={"op3_3": ["(1, 4096) bfloat16"]},
    text=[5, 6, 7],
)


def searched(path: Path, **faults: object) -> BisectResult:
    return SimulatedStack(names(12), **faults).bisect(path / "journal.jsonl")  # type: ignore[arg-type]


def test_the_deny_list_keeps_what_was_left_out_before_and_is_what_the_engine_takes(tmp_path: Path) -> None:
    result = searched(tmp_path, bad=["op3_3"], crashing=["op9_2"])
    lists = yaml.safe_load(deny_list("vllm", ["topk", "op9_2"], result))
    assert sorted(lists["engines"]["vllm"]["without_operators"]) == ["op3_3", "op9_2", "topk"]
    engine("vllm").settings({"plugin": True, **lists["engines"]["vllm"]})


def test_without_a_culprit_there_is_no_deny_list(tmp_path: Path) -> None:
    assert deny_list("vllm", ["topk"], searched(tmp_path)) == ""


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
