"""The journal: no answer that was added is lost, whatever happens to the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.journal import Answer, Journal
from flagrelease.errors import HarnessError

ANSWER = Answer(" ü\n|", "stop", 12, 3, 0.25)
ENDLESS = """
import itertools, sys
from pathlib import Path
from evaluation.journal import Answer, Journal
with Journal(Path(sys.argv[1])) as journal:
    for number in itertools.count():
        journal.add(str(number), Answer("x"))
        print(number, flush=True)
"""


def kept(path: Path) -> dict[str, Answer]:
    with Journal(path) as journal:
        return journal.answers


def test_answers_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    with Journal(path) as journal:
        assert journal.answers == {}
        journal.add("a", ANSWER)
        journal.add("b", Answer([-1.5, True]))
        assert journal.answers["a"] == ANSWER
    assert kept(path) == {"a": ANSWER, "b": Answer([-1.5, True])}


def test_an_answer_that_was_half_written_is_dropped_and_the_next_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add("a", ANSWER)
        journal.add("b", ANSWER)
    path.write_bytes(path.read_bytes()[:-9])
    with Journal(path) as journal:
        assert list(journal.answers) == ["a"]
        journal.add("c", ANSWER)
    assert list(kept(path)) == ["a", "c"]


def test_a_killed_process_loses_no_answer_that_it_added(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 200:
            process.kill()
            break
    added = [line, *process.stdout.read().split()]
    process.wait()
    assert {str(number) for number in range(int(added[-1]) + 1)} <= kept(path).keys()


def test_a_file_that_was_changed_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.add("a", ANSWER)
    path.write_text(path.read_text() + '{"no": "answer"}\n' + "and no JSON\n")
    with pytest.raises(HarnessError, match=r"journal\.jsonl:2: not an answer"):
        Journal(path)
