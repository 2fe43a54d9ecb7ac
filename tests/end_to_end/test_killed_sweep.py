"""A sweep in which everything is killed once ends with what it would have ended with, and does nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulated.cluster import cluster
from tests.simulated.contents import contents
from tests.simulated.kills import KILLS, done_twice, sweep_with_kills
from tests.simulated.matrices import simulated_matrix
from tests.simulated.undisturbed import undisturbed_contents

MODELS, CHIPS, SEED = 6, ("simbeta", "simgamma"), 20261121
LINES = 130
"""Of some 190 that the journal comes to: so that there is something left to do after the last kill."""
pytestmark = [pytest.mark.needs("postgresql"), pytest.mark.needs("llama_cpp")]


def test_what_is_killed_goes_on(tmp_path: Path) -> None:
    facts = simulated_matrix(MODELS, CHIPS, in_images=["simgamma"])
    with cluster(tmp_path / "cluster", facts, scale=0.5) as made:
        sweep_with_kills(made, KILLS, LINES, SEED)
        found, journal = contents(made.store_url), made.simulation.journal()
        wanted = undisturbed_contents(tmp_path / "undisturbed", facts, made.url)
    assert found["releases"] == wanted["releases"]
    assert found["evaluations"] == wanted["evaluations"]
    assert {cell: [release["state"] for release in each] for cell, each in found["releases"].items()} == {
        f"{cell['model']}-{cell['chip']}": ["completed"] for cell in facts["cells"]
    }
    assert done_twice(journal) == []
