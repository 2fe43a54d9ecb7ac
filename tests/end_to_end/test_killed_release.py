"""A release that is killed goes on where it stopped, and ends as an undisturbed one does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.commands import BIN, ROOT, environment, flagrelease, run, said, servers_below
from tests.end_to_end.kill_in import KEPT_ANSWERS
from tests.end_to_end.short import short_matrix
from tests.waiting import wait_for

CELL = "smollm2-cpu"
STAGES = ("build", "serve", "canary", "evaluate", "decide", "card", "publish")
# What the runs before had finished, and so what the run that is killed in this stage reuses.
FINISHED_BEFORE = {
    "canary": ("build",),
    "evaluate": ("build",),
    "decide": ("build", "canary"),
    "card": ("build", "canary", "evaluate", "escalate", "speed"),
    "publish": ("build", "canary", "evaluate", "escalate", "speed", "decide"),
}
pytestmark = [pytest.mark.needs("llama_cpp"), pytest.mark.timeout(1800)]


def environment_of(home: Path) -> dict[str, str]:
    return environment(home, FLAGRELEASE_MATRIX=str(home / "matrix.yaml"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the release was killed once in each stage, in their order."""
    home = tmp_path_factory.mktemp("killed")
    short_matrix(home, ["number_sequence"])
    env = environment_of(home)
    for stage in STAGES:
        killed = run(
            BIN / "python", ROOT / "tests/end_to_end/kill_in.py", stage, CELL, env=env | {"PYTHONPATH": str(ROOT)}
        )
        assert killed.returncode == -9, f"was not killed in {stage}"
        for finished in FINISHED_BEFORE.get(stage, ()):
            assert f"{finished}: reused from release 1" in said(killed), (stage, finished)
        if stage == "decide":
            assert f"{KEPT_ANSWERS} answers kept from an earlier run" in said(killed)
        # Within the grace of the servers' guards.
        wait_for(lambda: f"the end of what a kill left: {servers_below(home)}", lambda: not servers_below(home), 15)
    assert not (home / "output" / "hub").exists() or not list((home / "output" / "hub").glob("*/[!.]*"))
    done = flagrelease("release", CELL, env=env)
    assert done.returncode == 0
    for finished in ("build", "canary", "evaluate", "escalate", "speed", "decide", "card"):
        assert f"{finished}: reused from release 1" in said(done)
    assert "serve: ready after" not in said(done), "a server was started for an evaluation that is stored"
    return home


def shown(home: Path) -> dict[str, object]:
    view: dict[str, object] = json.loads(flagrelease("show", CELL, "--json", env=environment_of(home)).stdout)
    return view


def test_the_release_is_one_and_complete(home: Path) -> None:
    view = shown(home)
    assert view["id"] == 1
    assert view["state"] == "completed"
    assert {stage["stage"]: stage["state"] for stage in view["stages"]} == dict.fromkeys(  # type: ignore[attr-defined]
        ("build", "canary", "evaluate", "escalate", "speed", "decide", "card", "publish"), "completed"
    )


def test_a_second_run_runs_no_stage(home: Path) -> None:
    before = shown(home)
    again = flagrelease("release", CELL, env=environment_of(home))
    assert again.returncode == 0
    assert "no stage was run" in again.stdout
    assert "Prefect" not in said(again)
    assert shown(home) == before


def test_the_card_is_rendered_from_the_store_alone(home: Path) -> None:
    card = home / "output" / CELL / "README.md"
    before = card.read_bytes()
    shutil.rmtree(home / "output")
    rendered = flagrelease("card", "render", CELL, env=environment_of(home))
    assert rendered.returncode == 0
    assert card.read_bytes() == before
    published = flagrelease("release", CELL, env=environment_of(home))
    assert published.returncode == 0
    assert next((home / "output/hub").glob("*/*/README.md")).read_bytes() == before


def test_every_item_was_asked_once_and_is_stored(home: Path) -> None:
    gate = shown(home)["gate"]
    counts = {row["benchmark"]: row["n"] for row in gate["benchmarks"]}  # type: ignore[index]
    assert counts == {"number_sequence": 250}
    assert all(row["missing"] == 0 for row in gate["benchmarks"])  # type: ignore[index]
