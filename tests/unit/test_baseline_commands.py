"""`flagrelease baseline` measures twice, keeps what is finished, and shows what there is; servers are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation import baseline as files
from evaluation import canary as canaries
from evaluation.baseline import load
from flagrelease.errors import PreflightError
from flagrelease.matrix import ResolvedCell
from flagrelease.records import BenchmarkRun, CanaryPrompt, CanaryReference, CanaryStatistics, Evaluation, Item
from flagrelease.settings import settings
from flagrelease.store import Store
from flows import baselines, serving
from flows.job import Job
from tests.conftest import ROOT
from tests.unit.command_line import Run
from tests.unit.evaluations import provenance

pytestmark = pytest.mark.needs("llama_cpp")
MINIMAX = "minimax-published-dc95b26909db"
N = 20


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def change(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], Path]:
    """Gives a function that changes the matrix of this test; at first it has no tier beside the benchmarks."""
    path = home / "matrix.yaml"
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
    data = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    for tier in ("canary", "speed", "fidelity"):
        data["policy"].pop(tier, None)
    data["policy"]["suites"] = {}
    data["models"]["smollm2"]["reference"].pop("again", None)

    def apply(how: Change) -> Path:
        how(data)
        path.write_text(json.dumps(data))
        settings.cache_clear()
        return path

    apply(lambda _: None)
    return apply


class StandInReference:
    """In place of a served model: each pass answers, and the passes differ in two items of each benchmark."""

    def __init__(self) -> None:
        self.served: list[dict[str, Any]] = []
        self.asked: list[tuple[str, Mapping[str, int]]] = []
        self.die_in: int | None = None
        """The pass that is killed while it is asked."""

    @contextmanager
    def start_server(self, job: Job, *_: object, **__: object) -> Iterator[StandInReference]:
        self.served.append(dict(job.engine_settings))
        yield self

    ready_after_s = 1.0

    def measure(self, job: Job, *_: object, journals: Path, repeats: Mapping[str, int], **__: object) -> Evaluation:
        self.asked.append((journals.name, repeats))
        if self.die_in == len(self.asked):
            raise KeyboardInterrupt
        right = N // 2 if journals.name == "first" else N // 2 + 2
        benchmarks = [benchmark.key for benchmark in job.benchmarks]
        return Evaluation(
            provenance=provenance().model_copy(
                update={"model": "smollm2", "created": f"2026-01-01T00:00:0{len(self.asked)}"}
            ),
            benchmarks=[
                BenchmarkRun(
                    benchmark=name, dataset_sha256="d" * 64, task_sha256="t" * 64, few_shot=0,
                    generation={"until": ["[/x]"]}, api="chat", harness="lm_eval", items=N, repeats=repeats[name],
                )
                for name in benchmarks
            ],
            items=[
                Item(
                    benchmark=name, item=f"{number:064d}", repeat=repeat, score=number < right,
                    prompt="p", answer="a", extracted="x",
                )
                for name in benchmarks
                for number in range(N)
                for repeat in range(repeats[name])
            ],
        )  # fmt: skip


@pytest.fixture
def reference(change: Callable[[Change], Path], monkeypatch: pytest.MonkeyPatch) -> StandInReference:
    """Stands in the place of every server of a test with a matrix of its own."""
    change(lambda _: None)
    stand_in = StandInReference()
    monkeypatch.setattr(serving, "start_server", stand_in.start_server)
    monkeypatch.setattr(serving, "measure", stand_in.measure)
    return stand_in


def measure(folder: Path, **options: Any) -> str:
    host = settings()
    job = baselines.reference_job("smollm2", None, host)
    baselines.check(job, host, folder)
    return baselines.measure_baseline(job, host, lambda _: None, output=folder, **options)


def stored(identifier: str) -> Evaluation:
    store = Store.open(settings().store_url)
    try:
        return store.evaluation(store.known_evaluation(baseline_id=identifier))
    finally:
        store.close()


def test_a_baseline_is_measured_twice_and_kept(
    change: Callable[[Change], Path], reference: StandInReference, run: Run, tmp_path: Path
) -> None:
    change(lambda data: data["models"]["smollm2"]["reference"].update(again={"concurrency": 4}))
    assert run("baseline", "run", "smollm2", "--repeats", "2", "--output", str(tmp_path / "kept")) == 0
    (own,) = (tmp_path / "kept").iterdir()
    assert f"reference: {{baseline: {own.name}}} of the model smollm2" in run.out
    assert [served["concurrency"] for served in reference.served] == [1, 4]
    assert [journals for journals, _ in reference.asked] == ["first", "again"]
    assert all(set(repeats.values()) == {2} for _, repeats in reference.asked)
    whole = load(own.name, tmp_path / "kept")
    assert stored(own.name).floors == whole.floors
    assert {(floor.n, floor.flips, floor.how) for floor in whole.floors} == {(N, 2, "served again with concurrency=4")}
    assert {floor.discordance for floor in whole.floors} == {0.1}
    # Nothing is left of the answers so far, so that the next run measures anew.
    assert list((settings().work_path / "answers").iterdir()) == []
    assert run("baseline", "run", "smollm2", "--repeats", "2", "--output", str(tmp_path / "kept")) == 0
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.usefixtures("reference")
def test_it_can_be_looked_at(run: Run, tmp_path: Path) -> None:
    identifier = measure(tmp_path / "kept")
    assert run("baseline", "show", identifier) == 0
    for word in (
        "measured",
        "served again, nothing changed",
        "none, served as a process",
        "lm_eval 1",
        "50.00",
        "29.9 … 70.1",
        "2 of 20 (ψ 0.1)",
        "d" * 12,
        '{"until": ["[/x]"]}',
    ):
        assert word in run.out, word
    assert run("baseline", "show", identifier, "--json") == 0
    about = json.loads(run.out)
    assert about["id"] == identifier
    assert about["places"] == ["store"]
    assert about["canary"] is None
    assert [row["n"] for row in about["results"]] == [N] * len(about["results"])
    assert about["floors"][0]["flips"] == 2

    assert run("baseline", "list") == 0
    lines = {line.split()[0]: line for line in run.out.splitlines() if "-" in line}
    assert "measured" in lines[identifier]
    assert " store " in lines[identifier]
    assert "published" in lines[MINIMAX]
    assert " files " in lines[MINIMAX]
    assert run("baseline", "show", "smollm2-vllm-000000000000") == 18
    assert "there is no baseline smollm2-vllm-000000000000" in run.err


@pytest.mark.parametrize("die_in", [1, 2])
def test_a_run_that_was_killed_goes_on(reference: StandInReference, tmp_path: Path, die_in: int) -> None:
    reference.die_in = die_in
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
    whole = load(measure(tmp_path / "kept"), tmp_path / "kept")
    # What was finished is not measured again.
    assert [journals for journals, _ in reference.asked].count("first") == (2 if die_in == 1 else 1)
    assert [journals for journals, _ in reference.asked].count("again") == die_in
    assert whole.provenance.created.endswith("2" if die_in == 1 else "1")


def test_one_that_could_not_be_written_is_kept_for_the_next_run(
    reference: StandInReference, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:

    def full(*_: object) -> str:
        raise OSError

    monkeypatch.setattr(files, "keep", full)
    with pytest.raises(OSError):  # noqa: PT011 - the stand-in's own
        measure(tmp_path / "kept")
    monkeypatch.undo()
    monkeypatch.setattr(serving, "start_server", lambda *_: pytest.fail("was served again"))
    monkeypatch.setenv("FLAGRELEASE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(tmp_path / "matrix.yaml"))
    settings.cache_clear()
    identifier = measure(tmp_path / "kept")
    assert stored(identifier).provenance.created == "2026-01-01T00:00:01"
    assert len(reference.asked) == 2


def test_only_one_process_measures_it(reference: StandInReference, tmp_path: Path) -> None:
    host = settings()
    job = baselines.reference_job("smollm2", None, host)
    with baselines.open_run(job, host, lambda _: None):
        with pytest.raises(PreflightError, match="another process on this host is measuring this baseline"):
            measure(tmp_path / "kept")
        # Another number of repeats is another baseline.
        measure(tmp_path / "kept", repeats=3)
    assert len(reference.asked) == 2


def test_the_canary_is_written_once_and_read_again(
    change: Callable[[Change], Path], reference: StandInReference, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tier = {"prompts": 8, "tokens": 8, "positions": 1, "factor": 2.0, "reason": "chosen for a test"}
    change(lambda data: data["policy"].update(canary=tier))
    text = CanaryPrompt(prompt=[1], continuation=[2], positions=[0], logprobs=[-1.0], top=[[]])
    floor = CanaryStatistics(positions=1, mean_abs_logprob=0.1, top1_agreement=1, kl=0.1)
    calls = []

    def write(*_: object) -> list[CanaryPrompt]:
        calls.append("write")
        return [text]

    def read(texts: list[CanaryPrompt], *arguments: Any) -> CanaryReference:
        calls.append("read")
        return CanaryReference(prompts=texts, floor=floor, how=arguments[2])

    monkeypatch.setattr(baselines, "possible", lambda _: True)
    monkeypatch.setattr(serving, "endpoint_of", lambda *_: None)
    monkeypatch.setattr(canaries, "write", write)
    monkeypatch.setattr(canaries, "make_reference", read)
    reference.die_in = 2
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "kept")
    whole = load(measure(tmp_path / "kept"), tmp_path / "kept")
    assert calls == ["write", "read"]
    assert whole.canary == CanaryReference(prompts=[text], floor=floor, how="served again, nothing changed")


def test_what_may_differ_must_be_a_setting_of_the_engine(change: Callable[[Change], Path], run: Run) -> None:
    change(lambda data: data["models"]["smollm2"]["reference"].update(again={"dtype": "bfloat16"}))
    assert run("baseline", "run", "smollm2", "--engine", "llama_cpp") == 11
    assert "models.smollm2.reference.again: llama_cpp does not take it: dtype:" in run.err
    assert "concurrency" in run.err


def second_cell(data: dict[str, Any]) -> None:
    """The same cell on another chip."""
    data["cells"].append({**data["cells"][0], "chip": "nvidia"})


def test_the_cell_of_a_model_is_found(change: Callable[[Change], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    change(second_cell)
    host = settings()
    monkeypatch.setattr(baselines, "check_host", lambda *_: None)
    assert baselines.reference_job("smollm2-nvidia", None, host).cell.id == "smollm2-nvidia"
    with pytest.raises(PreflightError) as error:
        baselines.reference_job("smollm2", None, host)
    assert "2 of the cells of smollm2" in error.value.message
    for cell in ("smollm2-cpu", "smollm2-nvidia"):
        assert f"- {cell}: can be served" in error.value.message
    assert "flagrelease baseline run <cell>" in error.value.remedy

    def no_such_device(cell: ResolvedCell, _: str) -> None:
        if cell.chip.key == "nvidia":
            raise PreflightError("no device", remedy="run it elsewhere")

    monkeypatch.setattr(baselines, "check_host", no_such_device)
    assert baselines.reference_job("smollm2", None, host).cell.id == "smollm2-cpu"


@pytest.mark.usefixtures("home")
def test_a_model_that_cannot_be_served_here_says_why(run: Run) -> None:
    assert run("baseline", "run", "qwen3") == 13
    assert "none of the cells of qwen3 can be served on this host:\n  - qwen3-metax: " in run.err
    assert "no Metax device" in run.err
    assert run("baseline", "run", "smolm2") == 12
    assert "there is no model or cell `smolm2`" in run.err


@pytest.mark.usefixtures("home")
def test_published_scores_are_taken_in(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        assert run("baseline", "import", "minimax", "--output", str(tmp_path / "kept")) == 0
        assert f"reference: {{baseline: {MINIMAX}}}" in run.out
        for word in ("never CONSISTENT by itself", "MiniMax-M2-nvidia.md", "H100-CUDA", "43.330"):
            assert word in run.out
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [MINIMAX]
    assert run("baseline", "show", MINIMAX, "--json") == 0
    about = json.loads(run.out)
    assert about["places"] == ["store", "files"]
    assert about["scores"][0] == {"benchmark": "aime24", "score": 0.4333, "printed": "43.330", "n": None}


@pytest.mark.usefixtures("home")
def test_published_scores_from_a_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "scores.yaml"
    file.write_text("label: H200\nscale: ratio\nscores: {MMLU-Pro: '0.70', musr: 0.5}\nn: {musr: 756}\n")
    argv = ("baseline", "import", "qwen3", "--from", str(file), "--output", str(tmp_path / "kept"))
    assert run(*argv) == 11
    assert "source: is missing" in run.err
    assert not (tmp_path / "kept").exists()
    assert run(*argv, "--source", "a table [1]") == 0
    for word in ("a table [1]", "H200", "0.70", "756", "not told"):
        assert word in run.out
