"""evalscope asks a stand-in that really looks at the pictures; there is no vision model that small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evaluation.catalogue import Prepared, load_benchmarks, prepare
from evaluation.harness.evalscope import Evalscope
from evaluation.harness.interface import Endpoint, Selection
from flagrelease.errors import HarnessError, ServerError

ITEMS = 40
pytestmark = pytest.mark.needs("evalscope")


@contextmanager
def served(*how: str) -> Iterator[tuple[subprocess.Popen[str], Endpoint]]:
    command = [sys.executable, "-m", "tests.integration.stand_in_vision_server", *how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield process, Endpoint(f"http://127.0.0.1:{port}", "stand-in", 4, lambda: gone(process))
        finally:
            process.kill()


def gone(process: subprocess.Popen[str]) -> str | None:
    return None if process.poll() is None else f"ended by signal {-process.returncode}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    benchmark = load_benchmarks()["shapes"].model_copy(update={"items": ITEMS})
    return prepare(benchmark, tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def harness() -> Evalscope:
    return Evalscope()


def nothing(*_: object) -> None:
    """Progress that nobody looks at."""


def test_each_answer_is_scored_and_knows_its_picture(harness: Evalscope, prepared: Prepared, tmp_path: Path) -> None:
    with served() as (_, endpoint):
        run, items = harness.measure(prepared, endpoint, tmp_path / "journal", nothing, Selection())
    assert (run.items, run.repeats, run.harness) == (ITEMS, 1, "evalscope")
    assert [item.item for item in items] == sorted(question.item for question in harness.questions(prepared))

    # What the stand-in gets wrong is known from the questions: it counts four as three.
    asked = [json.loads(line) for line in (prepared.folder / "questions.jsonl").read_text().splitlines()]
    beyond = [q for q in asked if "How many" in q["question"] and q["options"]["ABCD".index(q["answer"])] == "4"]
    wrong = [item for item in items if item.score == 0]
    assert len(wrong) == len(beyond) > 0
    assert all("I see 3." in item.answer and item.extracted in set("ABCD") for item in wrong)
    assert {item.score for item in items} == {0.0, 1.0}

    assert set(Counter(item.cluster for item in items).values()) == {4}
    assert {item.finish_reason for item in items} == {"stop"}
    assert all((item.output_tokens or 0) > 0 and (item.latency_s or 0) > 0 for item in items)


def test_what_is_selected_is_asked_as_often_as_wanted(harness: Evalscope, prepared: Prepared, tmp_path: Path) -> None:
    chosen = [question.item for question in harness.questions(prepared)[:5]]
    with served() as (_, endpoint):
        run, items = harness.measure(prepared, endpoint, tmp_path / "j", nothing, Selection((0, 1), chosen))
        told: list[tuple[int, int]] = []
        more = harness.measure(
            prepared,
            endpoint,
            tmp_path / "j",
            lambda _, done, of: told.append((done, of)),
            Selection((0, 1, 2), chosen),
        )
    assert (run.items, run.repeats) == (5, 2)
    assert [(item.item, item.repeat) for item in items] == [
        (item, repeat) for item in sorted(chosen) for repeat in (0, 1)
    ]
    assert told[0] == (10, 15)
    assert told[-1] == (15, 15)
    assert [item for item in more.items if item.repeat < 2] == items
    with pytest.raises(HarnessError, match="1 of the 1 questions that Shapes was to be asked"):
        harness.measure(prepared, endpoint, tmp_path / "j", nothing, Selection(items=["0" * 64]))


def test_a_server_that_is_killed_ends_it_and_answers_are_kept(
    harness: Evalscope, prepared: Prepared, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with served() as (process, endpoint):

        def kill(_: str, answered: int, __: int) -> None:
            if answered == ITEMS // 2:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()

        with pytest.raises(ServerError, match="died while it was asked Shapes: ended by signal 9"):
            harness.measure(prepared, endpoint, journal, kill, Selection())
    kept = journal.read_text().splitlines()
    assert ITEMS // 2 <= len(kept) < ITEMS

    with served() as (_, endpoint):
        # As after a kill of the release: a new process, which has nothing but the journal.
        resumed = Evalscope().measure(prepared, endpoint, journal, nothing, Selection()).items
        whole = harness.measure(prepared, endpoint, tmp_path / "undisturbed", nothing, Selection()).items
    assert journal.read_text().splitlines()[: len(kept)] == kept
    assert len(journal.read_text().splitlines()) == ITEMS
    assert [(item.item, item.score, item.answer, item.prompt) for item in resumed] == [
        (item.item, item.score, item.answer, item.prompt) for item in whole
    ]


def test_a_model_that_takes_no_pictures_is_named(harness: Evalscope, prepared: Prepared, tmp_path: Path) -> None:
    with served("blind") as (_, endpoint), pytest.raises(HarnessError, match="this model takes no pictures"):
        harness.measure(prepared, endpoint, tmp_path / "journal", nothing, Selection())


def test_questions_that_cannot_be_loaded_are_named(harness: Evalscope, tmp_path: Path) -> None:
    unknown = load_benchmarks()["shapes"].model_copy(
        update={"task": {"dataset": "general_vmcqq", "generation": {"temperature": 0}}}
    )
    with pytest.raises(HarnessError, match=r"could not read the questions of Shapes: .*general_vmcqq"):
        harness.questions(prepare(unknown, tmp_path))
    sharing = load_benchmarks()["shapes"].model_copy(update={"cluster": "passage"})
    with pytest.raises(HarnessError, match="no field passage"):
        harness.questions(prepare(sharing, tmp_path))
