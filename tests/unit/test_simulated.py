"""The simulated chips stand for real ones: their stand-ins take what the real functions take, their matrix is valid."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flows.job
import flows.serving
import flows.stages
import flows.tiers
import runtime.weights
from flagrelease.loading import load_chips, load_matrix, resolve_all
from flagrelease.pipeline import ReleaseRun
from flagrelease.settings import settings
from tests.simulated.matrices import CHIPS, simulated_matrix, simulation_of, write_matrix
from tests.simulated.simulation import Fault
from tests.simulated.stand_ins import install

REAL: list[tuple[Any, str]] = [
    (flows.job, "check_host"),
    (flows.serving, "start_server"),
    (flows.serving, "provided_image"),
    (flows.stages, "at_hand"),
    (flows.stages, "evaluate_served"),
    (flows.tiers, "canary"),
    (flows.tiers, "speed"),
    (runtime.weights, "check"),
    (ReleaseRun, "stage"),
]


@pytest.mark.parametrize(("place", "name"), REAL, ids=lambda value: getattr(value, "__name__", value))
def test_a_stand_in_can_be_called_as_the_real_one(place: Any, name: str, tmp_path: Path) -> None:
    real = getattr(place, name)
    installed: dict[tuple[Any, str], Callable[..., Any]] = {}
    install(simulation_of(tmp_path, 1.0), lambda where, what, value: installed.update({(where, what): value}))
    parameters = inspect.signature(real).parameters.values()
    named = {each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY}
    inspect.signature(installed[place, name]).bind(*[None] * (len(parameters) - len(named)), **named)


def test_a_simulated_matrix_is_valid(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGRELEASE_CHIPS", str(CHIPS))
    settings.cache_clear()
    chips = load_chips()
    simulated = [key for key, chip in chips.items() if chip.vendor == "Simulated"]
    assert [chips[key].slots for key in simulated] == [1, 2, 3]
    path = home / "matrix.yaml"
    write_matrix(path, simulated_matrix(4, simulated, in_images=["simbeta"]))
    cells = resolve_all(load_matrix(path), chips)
    assert len(cells) == 12
    assert {cell.chip.key for cell in cells if cell.container} == {"simbeta"}


def test_times_are_of_the_cell_and_spread(tmp_path: Path) -> None:
    simulation = simulation_of(tmp_path, 10.0)
    times = sorted(simulation.seconds(f"cell{number}", "evaluate") for number in range(201))
    assert times == sorted(simulation.seconds(f"cell{number}", "evaluate") for number in range(201))
    assert 8.0 < times[100] < 12.0
    assert 1.5 < times[180] / times[100] < 2.5


def test_a_fault_may_pass(tmp_path: Path) -> None:
    once = Fault(kind="server_died", times=1)
    simulation = simulation_of(tmp_path, 1.0).model_copy(update={"faults": {"a": once, "b": Fault(kind="hang")}})
    assert simulation.fault_of("a") == once
    for cell in ("a", "b"):
        simulation.note(cell, "evaluate", "fault", "0")
    assert (simulation.fault_of("a"), simulation.fault_of("b"), simulation.fault_of("c")) == (
        None,
        Fault(kind="hang"),
        None,
    )
