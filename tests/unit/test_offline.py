"""Local questions are read without a hub, and what comes after them reaches it again."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.catalogue import Prepared, load_benchmarks, prepare
from evaluation.harness.lm_eval import LmEval
from evaluation.harness.offline import OFFLINE, offline


@pytest.fixture
def constants(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for what Hugging Face's library read when it was imported."""
    found = SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", found)
    monkeypatch.delitem(sys.modules, "datasets.config", raising=False)
    return found


def test_inside_no_hub_is_reached_and_afterwards_all_is_as_it_was(
    constants: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")

    def fails_inside() -> None:
        with offline():
            assert {name: os.environ[name] for name in OFFLINE} == OFFLINE
            assert constants.HF_HUB_OFFLINE
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_inside()
    assert "HF_HUB_OFFLINE" not in os.environ
    assert os.environ["HF_DATASETS_OFFLINE"] == "0"
    assert not constants.HF_HUB_OFFLINE


def test_a_local_benchmark_does_not_keep_the_next_one_from_its_hub(
    tmp_path: Path, constants: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    # lm-eval's own variables stay; taking them down here puts them back after the test.
    for name in ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    seen: list[tuple[str | None, bool]] = []

    def fake_load(*_: object) -> list[object]:
        seen.append((os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE))
        return []

    monkeypatch.setitem(sys.modules, "evaluation.harness.lm_eval_tasks", SimpleNamespace(load=fake_load))
    benchmarks, harness = load_benchmarks(), LmEval()
    for key in ("addition", "gpqa"):
        found: Prepared = prepare(benchmarks[key], tmp_path)
        assert harness.questions(found) == []
    assert seen == [("1", True), (None, False)]
