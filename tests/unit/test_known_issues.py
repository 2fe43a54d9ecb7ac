"""Known issues of FlagGems' operators: which apply, what lifts them, where people see them, failures put together."""

from __future__ import annotations

import copy
import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from flagrelease.errors import MatrixError, PreflightError
from flagrelease.loading import load_known_issues
from flagrelease.operators.known_issues import KnownIssue, Lists, State, known_issues_of, met, recognised
from flagrelease.pipeline import StageOutput
from flagrelease.records import Stack, Stage
from flagrelease.settings import settings
from flagrelease.store import Store, sweeps
from flagrelease.sweep import Outcome, causes, line_of
from flows import job, tiers
from flows.job import make_job, preflight
from flows.known_issues import flag_gems_of
from flows.plan import plan_matrix
from flows.plan_records import CellPlan
from flows.session import open_session
from flows.sweep_report import report
from runtime.engines import engine
from runtime.engines.torch_reference import TorchReference
from tests.conftest import ROOT
from tests.unit.command_line import Run

METAX = "qwen3-metax"
Change = Callable[[Callable[[dict[str, Any]], object]], None]


def issue(**values: Any) -> KnownIssue:
    usual = {
        "id": "i",
        "chips": ["metax"],
        "operators": ["mm", "mm_out"],
        "flag_gems": ">=5.0.2",
        "symptom": "It dies.",
    }
    return KnownIssue.model_validate(usual | {"evidence": ["release 3"]} | values)


def unchecked(_chip: str, _version: str, _operator: str) -> bool | None:
    return None


def state(
    of: KnownIssue, chip: str, version: str | None, passed: Mapping[str, bool | None] | None = None
) -> State | None:
    found = known_issues_of([of], chip, version, lambda _chip, _version, operator: (passed or {}).get(operator))
    return found[0][1] if found else None


# Which apply


def test_an_issue_is_of_its_chips_only() -> None:
    assert state(issue(), "metax", "5.0.2") == "open"
    assert state(issue(), "hygon", "5.0.2") is None
    assert state(issue(chips=["any"]), "hygon", "5.0.2") == "open"


@pytest.mark.parametrize("version", ["5.0.2", "5.4.0.dev606+g95ed7f9c4.d20260803", "5.3.0rc2.post1"])
def test_an_issue_is_of_every_version_since_it_was_seen(version: str) -> None:
    assert state(issue(), "metax", version) == "open"


def test_an_issue_is_of_no_version_outside_its_own() -> None:
    assert state(issue(), "metax", "3.0") is None
    assert state(issue(flag_gems=">=5.0,<5.2"), "metax", "5.2") is None


@pytest.mark.parametrize("version", [None, "of the base image"])
def test_where_the_version_is_not_known_it_may_apply(version: str | None) -> None:
    (found,) = met([issue()], "metax", version, Lists(), unchecked)
    assert found.state == "version not known"
    assert found.text.endswith("It dies (if its FlagGems is >=5.0.2)")


def test_what_is_left_out_is_not_met() -> None:
    def running(settings: Mapping[str, Any]) -> list[list[str]]:
        return [each.operators for each in met([issue()], "metax", "5.0.2", Lists.of(settings), unchecked)]

    assert running({}) == [["mm", "mm_out"]]
    assert running({"without_operators": ["mm"]}) == [["mm_out"]]
    assert running({"without_operators": ["mm_out", "add", "mm"]}) == []
    assert running({"operators": ["add", "mm"]}) == [["mm"]]
    assert running({"operators": ["add"]}) == []


def test_what_is_no_operators_cannot_be_left_out() -> None:
    assert met([issue(operators=[])], "metax", "5.0.2", Lists(only=["add"]), unchecked)


# What lifts them


def test_a_fixed_version_lifts_an_issue_only_after_its_checks_passed() -> None:
    fixed = issue(flag_gems=">=5.0.2", fixed_in="5.3.4")
    assert state(fixed, "metax", "5.3.3", {"mm": True, "mm_out": True}) == "open"
    assert state(fixed, "metax", "5.3.4") == "said to be fixed, not shown"
    assert state(fixed, "metax", "5.3.4", {"mm": True}) == "said to be fixed, not shown"
    assert state(fixed, "metax", "5.3.4", {"mm": True, "mm_out": False}) == "open"
    assert state(fixed, "metax", "5.4", {"mm": True, "mm_out": True}) == "lifted"


def test_a_passed_check_alone_lifts_nothing() -> None:
    assert state(issue(), "metax", "5.4", {"mm": True, "mm_out": True}) == "open"


def test_what_no_check_can_show_stays_said_only() -> None:
    assert state(issue(operators=[], fixed_in="5.3"), "metax", "5.3") == "said to be fixed, not shown"


def test_the_check_is_that_of_the_chip_and_the_version() -> None:
    asked = []

    def passed(*of: str) -> bool:
        asked.append(of)
        return True

    known_issues_of([issue(operators=["mm"], chips=["any"], fixed_in="5.3")], "ascend", "5.3.5", passed)
    assert asked == [("ascend", "5.3.5", "mm")]


def test_a_lifted_issue_is_not_met() -> None:
    fixed = issue(fixed_in="5.3")
    assert met([fixed], "metax", "5.3", Lists(), unchecked)
    assert not met([fixed], "metax", "5.3", Lists(), lambda *_: True)


# The files


@pytest.fixture
def own(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write a file of one's own, which the setting names."""

    def written(text: str) -> Path:
        path = home / "known.yaml"
        path.write_text(text)
        monkeypatch.setenv("FLAGRELEASE_KNOWN_ISSUES", str(path))
        settings.cache_clear()
        return path

    return written


OWN = """version: 1
issues:
  - id: ours
    chips: [metax]
    operators: [softmax]
    flag_gems: ">=5.0"
    symptom: Wrong for one row.
    evidence: [release 12]
    error: [softmax_kernel]
"""


def test_what_flagrelease_brings_is_valid_and_names_its_evidence(home: Path) -> None:
    assert home.exists()
    found = {each.id: each for each in load_known_issues()}
    assert "https://github.com/flagos-ai/FlagGems/issues/5995" in found["hygon-graph-capture"].evidence
    assert all(
        re.match(r"https://github\.com/|flagrelease ", line) for each in found.values() for line in each.evidence
    )


def test_a_file_of_ones_own_adds_issues(own: Callable[[str], Path]) -> None:
    before = len(load_known_issues())
    own(OWN)
    found = load_known_issues()
    assert len(found) == before + 1
    assert found[-1].operators == ["softmax"]


@pytest.mark.parametrize(
    ("there", "written", "told"),
    [
        ("[metax]", "[metaxx]", ":4: issues.0.chips.0: unknown chip `metaxx`; did you mean `metax`?"),
        ('">=5.0"', '">>5.0"', ":6: issues.0.flag_gems: `>>5.0` names no versions; write them as pip has them"),
        ("id: ours", "id: metax-mm", ":3: issues.0.id: `metax-mm` is there already, at "),
        ("softmax_kernel", "'soft(max'", ":9: issues.0.error: `soft(max` is not a regular expression: "),
        ("softmax_kernel", "'.*'", ":9: issues.0.error: `.*` is found in every text; "),
        ("[release 12]", "[]", ":8: issues.0.evidence: "),
        ("symptom:", "symptoms:", ":7: issues.0.symptoms: unknown key; did you mean `symptom`?"),
        ("[softmax]", "[softmax]\n    fixed_in: soon", ":6: issues.0.fixed_in: `soon` is not a version; "),
        (
            "[softmax]",
            "[softmax]\n    fixed_in: 5.3",
            ":6: issues.0.fixed_in: expected text, found the number 5.3; put it",
        ),
        ("version: 1", "version: 2", ":1: version: "),
    ],
)
def test_a_file_that_is_wrong_is_refused(own: Callable[[str], Path], there: str, written: str, told: str) -> None:
    path = own(OWN.replace(there, written))
    with pytest.raises(MatrixError, match=re.escape(f"{path}{told}")) as caught:
        load_known_issues()
    assert caught.value.remedy == "correct what is named above in known.yaml, then run the command again"


def test_an_id_twice_in_a_file_is_refused_with_both_lines(own: Callable[[str], Path]) -> None:
    path = own(OWN + OWN.partition("issues:\n")[2])
    with pytest.raises(MatrixError, match=re.escape(f"{path}:10: issues.1.id: `ours` is there already, at {path}:3;")):
        load_known_issues()


# Plans and runs


@cache
def matrix() -> dict[str, Any]:
    """The content of matrix.yaml."""
    facts: dict[str, Any] = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    return facts


@pytest.fixture
def change(home: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    """Change the cell on Metax."""

    def changed(edit: Callable[[dict[str, Any]], object]) -> None:
        path, facts = home / "matrix.yaml", copy.deepcopy(matrix())
        edit(next(cell for cell in facts["cells"] if (cell["model"], cell["chip"]) == ("qwen3", "metax")))
        path.write_text(yaml.dump(facts, Dumper=yaml.CSafeDumper, allow_unicode=True))
        monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
        settings.cache_clear()

    return changed


def with_version(
    cell: dict[str, Any], version: str | None = "5.0.2", *, stack: str = "flagos", **flagscale: Any
) -> None:
    cell |= {"stack": stack, "versions": cell["versions"] | {"flaggems": version}}
    cell["engines"] = {"flagscale": {"plugin": True, **flagscale}}


def plan_of(name: str = METAX) -> CellPlan:
    return plan_matrix(settings(), cell=name).cells[0]


def met_by(plan: CellPlan) -> dict[str, list[str]]:
    return {each.issue.id: each.operators for each in plan.known_issues if each.issue.deny}


def test_a_plan_names_what_a_cell_may_meet(change: Change) -> None:
    change(with_version)
    plan = plan_of()
    assert plan.flag_gems == "5.0.2"
    assert met_by(plan)["metax-mm"] == ["mm", "mm_out"]
    assert plan.leave_out is not None
    assert plan.leave_out.startswith("engines.flagscale: {plugin: true, without_operators: [mm, mm_out, ")
    assert "topk" not in plan.leave_out
    assert "hygon-graph-capture" not in met_by(plan)


def test_an_older_flaggems_has_none_of_them(change: Change) -> None:
    change(lambda cell: with_version(cell, "3.0"))
    assert (plan_of().known_issues, plan_of().leave_out) == ([], None)


def test_what_the_plan_says_to_write_ends_it(change: Change) -> None:
    change(lambda cell: with_version(cell, without_operators=["add"]))
    line = plan_of().leave_out
    assert line is not None
    written = yaml.safe_load(line.partition(": ")[2])
    assert written["without_operators"][0] == "add"
    change(lambda cell: cell.update(versions={"flaggems": "5.0.2"}, engines={"flagscale": written}))
    assert (met_by(plan_of()), plan_of().leave_out) == ({}, None)


def test_an_operator_is_taken_off_the_list_of_those_that_run(change: Change) -> None:
    change(lambda cell: with_version(cell, operators=["add", "mm", "silu"]))
    plan = plan_of()
    assert met_by(plan) == {"metax-mm": ["mm"]}
    assert plan.leave_out == "engines.flagscale.operators: [add, silu]"
    # A list without operators would mean all of them.
    change(lambda cell: with_version(cell, operators=["mm"]))
    assert plan_of().leave_out == "stack: native"


def test_a_cell_without_flagos_sees_nothing(change: Change) -> None:
    change(lambda cell: with_version(cell, stack="native"))
    assert (plan_of().known_issues, plan_of().leave_out) == ([], None)
    assert plan_of("smollm2-cpu").known_issues == []


def test_the_image_says_which_version_it_has(change: Change) -> None:
    change(lambda cell: with_version(cell, None))
    assert plan_of().flag_gems is None
    assert {each.state for each in plan_of().known_issues} == {"version not known"}
    said = log_of_a_run({"flag-gems": "5.0.2+metax", "vllm": "0.20.2"})
    assert any(line.startswith("plan: known issue metax-mm: mm, mm_out: ") for line in said)
    assert plan_of().flag_gems == "5.0.2+metax"
    assert met_by(plan_of())["metax-mm"] == ["mm", "mm_out"]
    assert "version not known" not in {each.state for each in plan_of().known_issues}


def test_a_process_of_the_host_says_which_version_it_has(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home.exists()
    said = "2.13.0, transformers 5.19.0"
    monkeypatch.setattr(TorchReference, "version", lambda _: said)
    plain = make_job("smollm2-cpu", None, settings())
    flagos = plain.cell.cell.model_copy(update={"stack": Stack.FLAGOS})
    cell = plain.cell.model_copy(update={"cell": flagos})
    job = replace(plain, cell=cell, engine=engine("torch_reference"), engine_settings={})
    assert (flag_gems_of(plain, {}), flag_gems_of(job, {})) == (None, None)
    said += ", FlagGems 5.0.2"
    assert flag_gems_of(job, {}) == "5.0.2"

    def not_here(_: TorchReference) -> str:
        raise PreflightError("the engine is not on this host", remedy="")

    # As where a plan is made.
    monkeypatch.setattr(TorchReference, "version", not_here)
    assert flag_gems_of(job, {}) is None


def log_of_a_run(versions: Mapping[str, str]) -> list[str]:
    """What a release says of known issues once its image, with these versions, is built."""
    said: list[str] = []
    image = {"name": "i:t", "id": "sha256:0", "key": "0", "digest": None, "base": "b", "versions": dict(versions)}
    with open_session(make_job(METAX, None, settings()), said.append) as session:
        session.run.stage(Stage.BUILD, lambda: StageOutput({"image": image}))
        said.clear()
        tiers.warn_of_known_issues(session)
    return said


def test_a_run_is_told_what_its_image_may_meet_and_is_served_as_the_matrix_says(change: Change) -> None:
    change(with_version)
    said = log_of_a_run({"flag-gems": "5.0.2"})
    assert sum(line.startswith("plan: known issue ") for line in said) == len(met_by(plan_of()))
    assert f"plan: -> to do without them, in matrix.yaml: {plan_of().leave_out}" in said
    assert said[-1].startswith("plan: known of FlagGems 5.0.2, with nothing to leave out: topk-strides, ")


def test_what_runs_decides_not_what_the_matrix_pins(change: Change) -> None:
    change(with_version)
    assert log_of_a_run({"flag-gems": "3.0"}) == []


def test_people_see_it(change: Change, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    change(with_version)
    run = Run(monkeypatch, capsys)
    assert run("plan", METAX) == 0
    assert "\n  known issue metax-mm: mm, mm_out: Tuning mm reads " in run.out
    assert f"\n  -> to do without them, in matrix.yaml: {plan_of().leave_out}\n" in run.out
    assert run("plan", METAX, "--json") == 0
    assert json.loads(run.out)["cells"][0]["known_issues"][0]["issue"]["id"] == "metax-mm"
    assert run("plan") == 0
    assert re.search(rf"\nknown issue metax-mm: mm, mm_out: [^\n]*\n  {METAX}\n", run.out)
    assert run.out.rstrip().endswith("-> what to leave out of a cell: flagrelease plan <cell>")
    assert "topk-strides" not in run.out


def test_the_table_says_what_is_shown_to_be_fixed(
    own: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own(OWN.replace("symptom:", "fixed_in: '5.3'\n    symptom:"))
    run = Run(monkeypatch, capsys)
    assert run("operators", "issues", "--chip", "metax") == 0
    assert re.search(
        r"ours +metax +>=5\.0 +softmax +said to be fixed, not shown \(5\.3\) +Wrong for one row\.", run.out
    )
    assert "topk-strides" in run.out
    assert "hygon" not in run.out.replace("Hygon", "")
    assert run("operators", "issues", "--json") == 0
    listed = {each["id"]: each for each in json.loads(run.out)}
    assert listed["metax-mm"]["states"] == {"metax": "open"}
    assert run("operators", "issues", "--chip", "metaxx") == 12
    assert "did you mean `metax`?" in run.err


def test_the_table_needs_no_store_that_can_be_read(
    own: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own(OWN.replace("symptom:", "fixed_in: '5.3'\n    symptom:"))
    Store.open(settings().store_url).close()
    with closing(sqlite3.connect(settings().store_url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    run = Run(monkeypatch, capsys)
    assert run("operators", "issues", "--chip", "metax") == 0
    assert re.search(r"ours +metax +>=5\.0 +softmax +said to be fixed, not shown \(5\.3\)", run.out)
    assert run.err.splitlines() == [
        "the store cannot be read, so no check is known to have passed; bring it up to date: flagrelease status"
    ]


# Failures put together

TEXTS = (
    "the server of {} died while loading after 212 s: exit code 1; last lines of /x/{}.log:\n"
    "    torch.AcceleratorError: HIP error: operation not permitted when stream is capturing",
    "the server of {} died: killed by SIGABRT; last lines of /x/{}.log:\n"
    "    Search for `hipErrorStreamCaptureUnsupported' in the documentation",
    "the server does not answer\n    File flag_gems/ops/copy.py, in copy_\n    hipErrorStreamCaptureUnsupported",
)


def failures(number: int = 13, stack: Stack | None = Stack.FLAGOS, chip: str = "hygon") -> list[Outcome]:
    """Cells that failed of the same in different stages, with different words."""
    return [
        Outcome(
            cell=f"m{n}-{chip}",
            model=f"m{n}",
            chip=chip,
            stack=stack,
            state="failed",
            stage=("canary", "evaluate")[n % 2],
            cause=TEXTS[n % 3].format(f"m{n}", f"m{n}"),
            remedy=f"see /x/m{n}.log",
        )
        for n in range(number)
    ]


def test_thirteen_models_that_meet_one_issue_are_one_cause(home: Path) -> None:
    assert home.exists()
    known = load_known_issues()
    assert len(causes(failures())) > 3
    (found,) = causes(failures(), known)
    assert len(found.cells) == 13
    assert line_of(found).startswith(
        "13 cells failed: known issue hygon-graph-capture: The server dies while it captures"
    )
    assert found.remedy is not None
    assert found.remedy.startswith("leave out addmm, broadcast_to, copy, copy_ (flagrelease plan <cell> ")
    assert "- 13 cells failed: known issue hygon-graph-capture: " in report(failures(), known)


def test_what_is_like_it_and_is_not_it_stays_apart(home: Path) -> None:
    assert home.exists()
    known = load_known_issues()
    other = failures(1)[0].model_copy(update={"cell": "n-hygon", "cause": "no space left on device"})
    assert [len(cause.cells) for cause in causes([*failures(), other], known)] == [13, 1]
    for outcomes in (failures(stack=Stack.NATIVE), failures(chip="nvidia")):
        assert causes(outcomes, known) == causes(outcomes)
    # What an older FlagRelease noted has no stack.
    assert len(causes(failures(stack=None), known)) == 1


def test_a_recognised_failure_is_its_chips() -> None:
    ours = issue(error=[r"_metax/ops/mm\.py", "mm_kernel"])
    assert recognised([issue(), ours], "metax", "…\n  trapping: kernelName: mm_kernel ,commandIndex: 63210") is ours
    assert recognised([ours], "metax", "_metax/ops/mmXpy") is None
    assert recognised([ours], "hygon", "mm_kernel") is None


def test_a_mistake_in_a_file_of_ones_own_costs_a_line_of_status_and_is_told_before_a_release(
    own: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own("version: 2\n")
    store = Store.open(settings().store_url)
    sweep = sweeps.begin(store, "run-1", {})
    sweeps.write(store, sweep.id, failures(1))
    store.close()
    run = Run(monkeypatch, capsys)
    assert run("status") == 0
    assert "1 cell failed: " in run.out
    assert "known issues are left out: " in run.err
    monkeypatch.setattr(job, "check_host", lambda *_: None)
    with pytest.raises(MatrixError, match=r"known\.yaml"):
        preflight(make_job("qwen3-metax", None, settings()), settings())


def test_status_and_show_name_the_issue(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert home.exists()
    run = Run(monkeypatch, capsys)
    store = Store.open(settings().store_url)
    sweep = sweeps.begin(store, "run-1", {})
    sweeps.write(store, sweep.id, failures())
    sweeps.end(store, sweep.id, "failed")
    assert run("status") == 0
    assert "  13 cells failed: known issue hygon-graph-capture: " in run.out
    assert "    -> leave out addmm, broadcast_to, copy, copy_ " in run.out
    for stack, named in (("flagos", True), ("native", False)):
        snapshot = {"cell": {"cell": {"chip": "hygon", "stack": stack}}}
        number = store.begin_release(cell="m-hygon", key=stack, engine="e", snapshot=snapshot, code_version="0")
        store.finish_release(number, "failed", f"{TEXTS[0].format('m', 'm')}\n  -> see its log")
        assert run("show", number) == 0
        assert ("known issue hygon-graph-capture: " in run.out) is named
    store.close()
