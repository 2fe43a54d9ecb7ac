"""A baseline of a small suite, measured through llama.cpp: killed in either pass it goes on, and ends as it should."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml

from evaluation.baseline import load
from tests.end_to_end.commands import BIN, MATRIX, ROOT, environment, flagrelease, run, said, servers_below

pytestmark = pytest.mark.needs("llama_cpp")
ANSWERED = 120
ITEMS = 250

# `<answers> <time> ARGUMENTS…`: runs the command, and kills it when it has so many answers for the so-manieth time.
KILLED = """
import os, signal, sys
from flagrelease import cli
from flows import serving

count, left = int(sys.argv[1]), int(sys.argv[2])

def die(self, benchmark, answered, total):
    global left
    left -= answered == count
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

serving.SaidProgress.__call__ = die
sys.argv = ["flagrelease", *sys.argv[3:]]
cli.main()
"""
# The flow, as a worker runs it; the server of Prefect is one for this run.
FLOW = """
import sys
from pathlib import Path
from flows.baseline import baseline
from flows.local_server import prefect_server

with prefect_server(Path(sys.argv[1]), print):
    print("returned", baseline(cell="smollm2", engine="llama_cpp", output=sys.argv[2]))
"""


def small_matrix(folder: Path) -> Path:
    """The matrix with one benchmark for the small cell, which may be asked two at a time in the A/A pass."""
    data = yaml.safe_load(MATRIX.read_text())
    data["suites"]["smoke"] = ["last_word"]
    data["models"]["smollm2"]["reference"]["again"] = {"concurrency": 2}
    for tier in ("canary", "speed", "fidelity"):
        data["policy"].pop(tier, None)
    data["policy"]["suites"] = {}
    # The file's own matrices need no conversion.
    data["cells"][0]["engines"]["llama_cpp"]["weights"] = "as_is"
    path = folder / "matrix.yaml"
    path.write_text(json.dumps(data))
    return path


def test_a_baseline_that_was_killed_in_both_passes(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    matrix = small_matrix(tmp_path)
    env = environment(tmp_path, FLAGRELEASE_MATRIX=str(matrix), PYTHONPATH=str(ROOT))
    command = ("baseline", "run", "smollm2", "--engine", "llama_cpp", "--output", kept)
    for time, first in ((1, "evaluate: Last word"), (2, "A/A: the same questions again")):
        # The second run takes up the first pass with what it has, so the count is reached in the A/A pass.
        killed = run(BIN / "python", "-c", KILLED, str(ANSWERED), str(time), *command, env=env)
        assert killed.returncode == -signal.SIGKILL
        assert first in said(killed)
    assert list(kept.iterdir()) == []

    done = run(BIN / "python", "-c", FLOW, tmp_path / "prefect", kept, env=env)
    assert done.returncode == 0
    assert "first pass: kept from an earlier run" in said(done)
    assert f"last_word: {ANSWERED} answers kept from an earlier run" in said(done)
    assert servers_below(tmp_path) == []

    (own,) = kept.iterdir()
    assert f"returned {own.name}" in done.stdout
    whole = load(own.name, kept)
    assert (whole.provenance.model, whole.provenance.engine) == ("smollm2", "llama_cpp")
    assert whole.provenance.engine_settings["concurrency"] == 1
    assert len({item.item for item in whole.items}) == len(whole.items) == ITEMS
    (floor,) = whole.floors
    assert (floor.n, floor.how) == (ITEMS, "served again with concurrency=2")
    assert 0 <= floor.flips < ITEMS / 2

    shown = flagrelease("baseline", "show", own.name, "--json", env=env)
    assert json.loads(shown.stdout)["places"] == ["store"]
    listed = flagrelease("baseline", "list", env=env)
    assert own.name in listed.stdout
    assert list((tmp_path / "state/work/answers").iterdir()) == []
