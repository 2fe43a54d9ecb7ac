"""Bisecting a release: what is searched, how the server is told, what is refused, and what is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.baseline import load
from evaluation.catalogue import Prepared, load_benchmarks
from evaluation.gate import decide
from evaluation.harness.interface import Measured, Selection
from evaluation.harness.lm_eval import LmEval
from evaluation.run import aggregate
from flagrelease.errors import PortError, ServerError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.pipeline import StageOutput
from flagrelease.records import CanaryStatistics, Item, Stack, Stage
from flagrelease.settings import settings
from flagrelease.verdicts import CanaryResult
from flows import bisect as flow
from flows import serving, stages
from flows.bisect_items import flipped
from flows.job import Job, make_job
from flows.session import open_session
from runtime import operators
from runtime.engines.flagos import OperatorLists
from runtime.engines.torch_reference import TorchReference
from runtime.engines.vllm import Vllm
from runtime.operators import WRITTEN
from tests.conftest import ROOT
from tests.unit.command_line import Run
from tests.unit.published_release import BASELINE, answers

pytestmark = pytest.mark.needs("llama_cpp")
OPERATORS = ["add", "mm", "mul", "rsqrt", "silu", "softmax", "sum"]
ERROR = 34


class StandInServers:
    """Takes the place of servers: says what ran, and is bad, or dies, as planted."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.crashing: set[str] = set()
        self.deaf = False
        """Whether it runs what it is to leave out."""
        self.called: set[str] = set()
        """Operators that others call, so that they run, where others do, although left out."""
        self.deaf_to: set[str] = set()
        """Operators that run whatever is left out."""
        self.silent = False
        self.running: set[str] = set()
        self.starts = 0
        self.port_taken = False
        self.flipping: dict[str, set[str]] = {}
        """Items that an operator makes it answer wrongly; the canary shows nothing of it."""
        self.asked: list[int] = []

    @contextmanager
    def start(self, job: Job, *_: object, **__: object) -> Iterator[StandInServers]:
        self.starts += 1
        if self.port_taken:
            raise PortError("the port is taken", remedy="none")
        told = job.limits
        assert isinstance(told, OperatorLists)
        left_out = set() if self.deaf else set(told.without_operators)
        # As FlagGems has it, whose mm and mm_out are one function.
        ran = {name for name in told.operators or OPERATORS if not set(operators.functions([name])) <= left_out}
        ran |= (self.called if ran else set()) | self.deaf_to
        self.running = ran if job.cell.cell.stack is Stack.FLAGOS else set()
        if self.running & self.crashing:
            raise ServerError("the server died while loading after 3 s: exited with code 1", remedy="see its log")
        yield self

    def read(self, path: str) -> bytes | None:
        writes = {name: "general_mm" if name == "mm" else name for name in sorted(self.running)}
        lines = [f"[DEBUG] flag_gems.ops.{name}.{function}: GEMS {name}" for name, function in writes.items()]
        return "\n".join(lines).encode() if path == WRITTEN and not self.silent else None

    def canary(self, *_: object) -> CanaryResult:
        faults = len(self.running & self.bad)
        bars = CanaryStatistics(positions=9, mean_abs_logprob=0.1, top1_agreement=0.9, kl=0.01)
        found = CanaryStatistics(positions=9, mean_abs_logprob=0.05 + faults, top1_agreement=1, kl=0.001)
        return CanaryResult(found=found, bars=bars, passed=not faults, reasons=[], worst=[3, 1])

    def measure(self, _p: Prepared, _e: object, journal: Path, _s: object, selection: Selection) -> Measured:
        """In place of a harness."""
        assert selection.items is not None
        assert list(selection.repeats) == [0]
        # What another server answered is not taken for this one's.
        assert not journal.exists()
        journal.parent.mkdir(parents=True)
        journal.touch()
        self.asked.append(len(selection.items))
        wrong = {item for operator in self.running for item in self.flipping.get(operator, ())}
        found = [
            Item(benchmark="last_word", item=item, score=float(item not in wrong), prompt="", answer="", extracted="")
            for item in selection.items
        ]
        return Measured(load(BASELINE).benchmarks[0], found)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> StandInServers:
    stand_in = StandInServers()
    monkeypatch.setattr(serving, "start_server", stand_in.start)
    monkeypatch.setattr(serving, "endpoint_of", lambda *_: None)
    monkeypatch.setattr(flow, "measure", stand_in.canary)
    monkeypatch.setattr(TorchReference, "version", lambda _: "2.13.0, transformers 5.19.0, FlagGems 5.0.2")
    monkeypatch.setattr(Vllm, "version", lambda _: "0.32.0")
    return stand_in


Release = Callable[..., Job]


@pytest.fixture
def release(home: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Makes a release of the small cell, changed, whose server listed `OPERATORS`."""

    def make(ran: list[str] | None = OPERATORS, told: Mapping[str, Any] | None = None, **cell: Any) -> Job:
        matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
        (entry,) = (each for each in matrix["cells"] if each["model"] == "smollm2")
        name = cell.get("engine", "torch_reference")
        entry |= {"engine": name, "stack": "flagos", **cell}
        entry["engines"][name] = dict(told or {})
        path = home / "matrix.yaml"
        path.write_text(yaml.safe_dump(matrix, sort_keys=False))
        monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
        settings.cache_clear()
        job = make_job("smollm2-cpu", None, settings())
        with open_session(job, lambda _: None) as session:
            session.run.stage(Stage.CANARY, lambda: StageOutput({"canary": None, "note": None, "operators": ran}))
        return job

    return make


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def test_the_culprit_of_a_release_is_told_with_its_deny_list_and_a_report(
    servers: StandInServers, release: Release, run: Run
) -> None:
    release(told={"without_operators": ["topk"]})
    servers.bad = {"rsqrt"}
    assert run("bisect", "smollm2-cpu") == 0
    assert "CULPRITS: the model is good without rsqrt, and not with it" in run.out
    assert "without_operators: [topk, rsqrt]" in run.out
    files = {line.split(":", 1)[0]: Path(line.split(":", 1)[1].strip()) for line in run.out.splitlines()[-4:]}
    assert list(files) == ["result.json", "deny-list.yaml", "report-rsqrt.md", "journal.jsonl"]
    assert "FlagGems 5.0.2" in files["report-rsqrt.md"].read_text()
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in files["report-rsqrt.md"].read_text()
    assert (
        "flagrelease operators check --operator rsqrt --model FOLDER/SmolLM2-135M-Instruct/config.json"
        in files["report-rsqrt.md"].read_text()
    )
    begun = servers.starts

    kept = settings().work_path / "operators" / "key"
    kept.mkdir(parents=True)
    about = {
        "device": "cpu",
        "model": "/m/SmolLM2-135M-Instruct/config.json",
        "flag_gems": "5.0.2",
        "torch": "2.13.0",
        "triton": "3.5.0",
    }
    (kept / "about.json").write_text(json.dumps(about))
    case = {"case": "5 x 576, bfloat16", "group": "model", "outcome": "differs", "error": 0.25, "tolerance": 0.016}
    (kept / "rsqrt.jsonl").write_text(json.dumps({**case, "ratio": 15.6, "reason": "0.25 too far"}))
    assert run("bisect", "smollm2-cpu", "--json") == 0
    assert json.loads(run.out)["culprits"][0]["operator"] == "rsqrt"
    assert "| 5 x 576, bfloat16 | 0.25 | 0.016 | cpu | differs |" in files["report-rsqrt.md"].read_text()
    assert servers.starts == begun, "what was measured is measured again"


def test_a_crash_is_an_outcome_and_its_error_is_in_the_report(
    servers: StandInServers, release: Release, run: Run
) -> None:
    release()
    servers.bad, servers.crashing = {"mm"}, {"silu"}
    assert run("bisect", "1") == 0
    report = next(path for path in settings().work_path.rglob("report-silu.md")).read_text()
    assert "the server died while loading after 3 s: exited with code 1" in report
    assert next(settings().work_path.rglob("report-mm.md")).exists()


def test_a_list_of_the_only_operators_is_narrowed_and_never_empty(
    servers: StandInServers, release: Release, run: Run
) -> None:
    release(ran=["mm", "silu"], told={"operators": ["mm", "silu"]})
    servers.bad = {"silu"}
    assert run("bisect", "smollm2-cpu", "--json") == 0
    found = json.loads(run.out)
    assert [culprit["operator"] for culprit in found["culprits"]] == ["silu"]
    # Without either, the native stack was served; an empty list would have meant all operators.
    assert found["floors"][0] == pytest.approx(0.5)


def test_a_taken_port_says_nothing_of_operators(servers: StandInServers, release: Release, run: Run) -> None:
    release()
    servers.port_taken = True
    assert run("bisect", "smollm2-cpu") == PortError.exit_code
    servers.port_taken = False
    assert run("bisect", "smollm2-cpu") == 0
    assert "NO CULPRIT" in run.out


def test_a_server_that_runs_what_it_is_to_leave_out_ends_the_search(
    servers: StandInServers, release: Release, run: Run
) -> None:
    release()
    servers.bad, servers.deaf = {"mm"}, True
    assert run("bisect", "smollm2-cpu") == ERROR
    assert "told to leave out: add, mm" in run.err


def test_an_operator_that_another_one_calls_is_told_of(servers: StandInServers, release: Release, run: Run) -> None:
    release()
    servers.bad, servers.called = {"mm"}, {"sum"}
    assert run("bisect", "smollm2-cpu") == 0
    assert "bisect: sum ran although left out" in run.out
    assert "without mm, and not with it" in run.out


def test_what_is_called_without_any_operator_is_no_floor(servers: StandInServers, release: Release, run: Run) -> None:
    release()
    servers.bad, servers.deaf_to = {"mm"}, {"mm"}
    assert run("bisect", "smollm2-cpu") == ERROR
    assert "without any operator of the search the server ran some of them: mm" in run.err
    assert "--operators FILE" in run.err


def test_all_functions_that_write_the_culprits_line_are_left_out(
    servers: StandInServers, release: Release, run: Run, home: Path
) -> None:
    release(ran=None)
    servers.bad = {"mm"}
    # Names of a release whose list nobody read, or written by hand.
    (home / "list.txt").write_text("add\ngeneral_mm\nsilu\n")
    assert run("bisect", "smollm2-cpu", "--operators", home / "list.txt") == 0
    assert "CULPRITS: the model is good without mm, and not with it" in run.out
    assert "without_operators: [mm, mm_out]" in run.out
    assert "use_gems(include=['mm', 'mm_out'])" in next(settings().work_path.rglob("report-mm.md")).read_text()


def test_a_server_without_a_list_ends_the_search(servers: StandInServers, release: Release, run: Run) -> None:
    release()
    servers.silent = True
    assert run("bisect", "smollm2-cpu") == ERROR
    assert "listed no operator" in run.err


def test_operators_can_be_named_where_the_release_has_no_list(
    servers: StandInServers, release: Release, run: Run, home: Path
) -> None:
    release(ran=None)
    servers.crashing = {"sum"}
    assert run("bisect", "smollm2-cpu") == ERROR
    assert "--operators FILE" in run.err
    (home / "list.txt").write_text("# those of another chip\nadd\nmm\n\nsum # new\n")
    assert run("bisect", "smollm2-cpu", "--operators", home / "list.txt") == 0
    assert "without sum" in run.out
    (home / "list.txt").write_text("[DEBUG] flag_gems.ops.sum.sum: GEMS SUM\n")
    assert flow.listed_in(home / "list.txt") == ["sum"]
    (home / "list.txt").write_text("no operator at all\n")
    assert run("bisect", "smollm2-cpu", "--operators", home / "list.txt") == ERROR
    assert run("bisect", "smollm2-cpu", "--operators", home / "none.txt") == ERROR


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ({"stack": "native"}, "no operator of FlagGems ran"),
        ({"engine": "llama_cpp"}, "runs none of FlagGems' operators"),
        ({"engine": "vllm"}, "served without the plugin"),
    ],
)
def test_what_has_no_operators_to_leave_out_is_refused(
    servers: StandInServers, release: Release, run: Run, cell: dict[str, str], said: str
) -> None:
    release(**cell)
    assert run("bisect", "smollm2-cpu") == ERROR
    assert said in run.err
    assert servers.starts == 0


def test_a_cell_that_changed_since_is_said(servers: StandInServers, release: Release, run: Run) -> None:
    release()
    release(told={"threads": 2})
    assert run("bisect", "1") == 0
    assert "has changed since release 1" in run.out
    assert servers.starts == 1


def lost_items(lost: int) -> set[str]:
    """Items that `answers(lost)` answers wrongly and the baseline rightly."""
    right = {item.item for item in load(BASELINE).items if item.benchmark == "last_word" and item.score}
    return {item.item for item in answers(lost).items if item.item in right and not item.score}


Judged = Callable[..., set[str]]


@pytest.fixture
def judged(release: Release, servers: StandInServers, monkeypatch: pytest.MonkeyPatch) -> Judged:
    """Judges a release of the small cell that lost so many items of one benchmark; the items."""

    def make(lost: int, canary: bool | None = True) -> set[str]:
        job = release()
        monkeypatch.setattr(LmEval, "measure", lambda _, *asked: servers.measure(*asked))
        found = CanaryStatistics(positions=9, mean_abs_logprob=0.01, top1_agreement=1, kl=0.001)
        shown = CanaryResult(found=found, bars=found, passed=bool(canary), reasons=[], worst=[])
        candidate = answers(lost)
        gate = decide(
            candidate,
            load(BASELINE),
            baseline_id=BASELINE,
            policy=job.cell.policy,
            benchmarks=load_benchmarks(),
            canary=None if canary is None else shown,
        )
        with open_session(job, lambda _: None) as session:
            number = session.store.add_evaluation(candidate, aggregate(candidate), key="c", role="candidate")
            stages.stored_baseline(session.store, BASELINE)
            session.store.record_verdict(session.release, gate, number)
        return lost_items(lost)

    return make


@pytest.mark.parametrize("canary", [True, None])
def test_flipped_items_lead_to_the_culprit_where_the_canary_is_sound(
    servers: StandInServers, judged: Judged, run: Run, canary: bool | None
) -> None:
    items = judged(40, canary)
    assert len(items) == 40
    # A few come from how another operator rounds, which the gate's margin allows for.
    servers.flipping = {"mm": items, "softmax": set(sorted(items)[:3])}
    assert run("bisect", "smollm2-cpu") == 0
    reason = "its canary passed" if canary else "it has no canary"
    assert f"servers are judged by 40 items that release 1 lost, as {reason}: a server may have 7.5 of them" in run.out
    assert "CULPRITS: the model is good without mm, and not with it" in run.out
    assert servers.asked == [40] * servers.starts
    report = next(path for path in settings().work_path.rglob("report-mm.md")).read_text()
    assert "asked 40 questions that the reference" in report
    assert f"- last_word: `{min(items)}`" in report
    assert "- and 30 more" in report
    begun = servers.starts
    assert run("bisect", "smollm2-cpu", "--json") == 0
    found = json.loads(run.out)
    assert found["judging"] == {"by": "flipped items", "asked": 40, "allowed": 7.5}
    assert found["steps"][0]["statistic"] == pytest.approx(40 / 7.5)
    assert servers.starts == begun


def test_the_canary_judges_where_it_failed_or_nothing_was_lost(
    servers: StandInServers, judged: Judged, run: Run
) -> None:
    servers.bad = {"rsqrt"}
    judged(40, canary=False)
    assert run("bisect", "smollm2-cpu") == 0
    assert "judged by the canary: it failed in release 1" in run.out
    assert "without rsqrt, and not with it" in run.out
    assert servers.asked == []


def test_a_few_lost_items_are_no_loss_to_judge_by(servers: StandInServers, judged: Judged, run: Run) -> None:
    judged(2)
    assert run("bisect", "smollm2-cpu") == 0
    assert "judged by the canary: release 1 has no REGRESSED benchmark" in run.out
    assert servers.asked == []


def test_flipped_items_are_enough_where_the_engine_gives_no_log_probabilities(
    servers: StandInServers, judged: Judged, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchReference, "capabilities", frozenset({"generate"}))
    servers.flipping = {"add": judged(40, None)}
    assert run("bisect", "smollm2-cpu") == 0
    assert "without add, and not with it" in run.out


def test_without_a_canary_and_without_flipped_items_nothing_can_be_told(
    servers: StandInServers, judged: Judged, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchReference, "capabilities", frozenset({"generate"}))
    judged(0, None)
    assert run("bisect", "smollm2-cpu") == ERROR
    assert "gives no log-probabilities" in run.err
    assert servers.starts == 0


def test_an_answer_that_comes_and_goes_is_no_flipped_item() -> None:
    baseline, candidate = load(BASELINE), answers(40)
    gate = decide(
        candidate,
        baseline,
        baseline_id=BASELINE,
        policy=resolve(load_matrix(ROOT / "matrix.yaml"), load_chips(), "smollm2-cpu").policy,
        benchmarks=load_benchmarks(),
    )
    found = flipped(gate, candidate, baseline, ["last_word"])
    assert found is not None
    assert set(found.items["last_word"]) == lost_items(40)
    assert flipped(gate, candidate, baseline, ["addition"]) is None
    (first, *_) = (item for item in candidate.items if item.item == found.items["last_word"][0])
    again = candidate.model_copy(
        update={"items": [*candidate.items, first.model_copy(update={"repeat": 1, "score": 1})]}
    )
    rest = flipped(gate, again, baseline, ["last_word"])
    assert rest is not None
    assert rest.items["last_word"] == found.items["last_word"][1:]
