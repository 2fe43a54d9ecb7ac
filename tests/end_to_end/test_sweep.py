"""A sweep over 12 cells on two simulated chips: all of it is real but serving, building images and asking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulated.cluster import Cluster, cluster
from tests.simulated.contents import contents
from tests.simulated.kills import KILLS, done_twice, sweep_with_kills
from tests.simulated.matrices import simulated_matrix
from tests.simulated.simulation import Fault
from tests.simulated.undisturbed import undisturbed_contents

MODELS, CHIPS, SEED = 6, ("simbeta", "simgamma"), 20261121
LINES = 130
"""Of some 190 that the journal of a sweep comes to: so that there is something left to do after the last kill."""
DEAD, FULL = "model01-simbeta", "model03-simgamma"
pytestmark = pytest.mark.needs("postgresql", "llama_cpp")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, str, str]]:
    """A cluster after a sweep in which two cells failed; with the state and the message of the sweep."""
    facts = simulated_matrix(MODELS, CHIPS, in_images=["simgamma"])
    with cluster(tmp_path_factory.mktemp("sweep"), facts, scale=0.5) as made:
        faults = {DEAD: Fault(kind="server_died"), FULL: Fault(kind="no_space")}
        made.simulation.model_copy(update={"faults": faults}).write()
        state = made.run_sweep()
        made.simulation.write()
        yield made, state["type"], state["message"]


def began(made: Cluster, *, before: int = 0) -> Counter[str]:
    """Stages of each cell that were begun, after so many lines of the journal."""
    return Counter(line.cell for line in made.simulation.journal()[before:] if line.what == "began")


def test_a_cell_that_fails_stops_no_other(swept: tuple[Cluster, str, str]) -> None:
    made, state, message = swept
    assert state == "FAILED"
    assert message.startswith("12 cells: 10 released, 2 failed; ")
    assert "1 cell failed: evaluate: the server died while it was asked" in message
    assert f"device-side assert triggered ({DEAD})" in message
    assert "1 cell failed: evaluate: cannot write evidence in" in message
    assert f"No space left on device ({FULL})" in message
    releases = contents(made.store_url)["releases"]
    states = {cell: [release["state"] for release in found] for cell, found in releases.items()}
    assert states == {cell: ["failed" if cell in (DEAD, FULL) else "completed"] for cell in states}
    assert len(states) == MODELS * len(CHIPS)
    assert {found[0]["verdict"][0]["verdict"] for cell, found in releases.items() if cell not in (DEAD, FULL)} == {
        "CONSISTENT"
    }


def test_an_image_that_cells_share_is_built_once(swept: tuple[Cluster, str, str]) -> None:
    made, _, _ = swept
    assert len(made.simulation.lines("images.jsonl")) == 1


def test_the_next_sweep_runs_what_failed_and_the_one_after_it_nothing(swept: tuple[Cluster, str, str]) -> None:
    made, _, _ = swept
    before = len(made.simulation.journal())
    assert made.run_sweep()["message"] == "12 cells: 2 released, 10 unchanged"
    # What they had finished (build, canary) is not done again.
    rest = ["evaluate", "escalate", "speed", "decide", "card", "publish"]
    assert began(made, before=before) == {DEAD: len(rest), FULL: len(rest)}
    before = len(made.simulation.journal())
    state = made.run_sweep()
    assert (state["type"], state["message"]) == ("COMPLETED", "12 cells: 12 unchanged")
    assert made.simulation.journal()[before:] == []


def test_a_changed_setting_of_a_model_runs_its_cells_only(swept: tuple[Cluster, str, str]) -> None:
    made, _, _ = swept
    changed = [cell for cell in made.facts["cells"] if cell["model"] == "model02"]
    for cell in changed:
        cell["engines"]["llama_cpp"]["context"] = 4096
    made.write_matrix()
    planned = made.flagrelease("plan").stdout
    assert planned.startswith("12 cells: 10 unchanged, 2 to run, 0 blocked")
    assert "  model02-simbeta, model02-simgamma\n" in planned
    assert "evaluate, speed: run (engine settings changed: context 2048 → 4096)" in planned
    before = len(made.simulation.journal())
    state = made.run_sweep()
    assert (state["type"], state["message"]) == ("COMPLETED", "12 cells: 2 released, 10 unchanged")
    assert began(made, before=before).keys() == {f"{cell['model']}-{cell['chip']}" for cell in changed}


def test_a_changed_image_pin_builds_one_image_and_runs_its_chips_cells_only(swept: tuple[Cluster, str, str]) -> None:
    made, _, _ = swept
    chip = made.home / "chips" / "simgamma.yaml"
    chip.write_text(chip.read_text().replace("simulated-base:1", "simulated-base:2"))
    planned = made.flagrelease("plan").stdout
    assert planned.startswith("12 cells: 6 unchanged, 6 to run, 0 blocked")
    before, images = len(made.simulation.journal()), len(made.simulation.lines("images.jsonl"))
    state = made.run_sweep()
    assert (state["type"], state["message"]) == ("COMPLETED", "12 cells: 6 released, 6 unchanged")
    assert set(began(made, before=before)) == {f"model{number:02}-simgamma" for number in range(MODELS)}
    assert len(made.simulation.lines("images.jsonl")) == images + 1


def test_a_sweep_in_which_everything_is_killed_once_ends_as_an_undisturbed_one(
    swept: tuple[Cluster, str, str], tmp_path: Path
) -> None:
    made, _, _ = swept
    made.forget()
    sweep_with_kills(made, KILLS, LINES, SEED)
    found, journal = contents(made.store_url), made.simulation.journal()
    wanted = undisturbed_contents(tmp_path / "undisturbed", made.facts, made.home / "chips", made.url)
    assert found["releases"] == wanted["releases"]
    assert found["evaluations"] == wanted["evaluations"]
    assert {cell: [release["state"] for release in each] for cell, each in found["releases"].items()} == {
        f"{cell['model']}-{cell['chip']}": ["completed"] for cell in made.facts["cells"]
    }
    assert done_twice(journal) == []
