"""A container for each chip: the line that starts it is known, and changes only knowingly."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagrelease.card.shell import commands, docker_run
from flagrelease.card.text import docker_run as printed
from flagrelease.errors import MatrixError
from flagrelease.loading import load_chips, load_matrix
from flagrelease.matrix import Cell
from runtime.launch.chip_container import cell_container, container_spec
from runtime.launch.container_spec import Mount
from runtime.launch.docker_run import options, parse
from tests.conftest import ROOT

CHIPS = load_chips()
GOLDEN = Path(__file__).with_name("golden") / "docker_run"
MODELS = Mount(source="/models", target="/models", modes=("ro",))


def lines(chip: str) -> list[str]:
    """How a card starts a container on the chip."""
    spec = container_spec(
        CHIPS[chip],
        image=f"registry.example/flagrelease-public/flagrelease_{chip}_qwen3_8b:1",
        name="flagos",
        command=["sleep", "infinity"],
        mounts=[MODELS],
        environment={"USE_FLAGGEMS": "1"},
    )
    return printed(options(spec), "flagos", spec.image, spec.command)


@pytest.mark.parametrize("chip", CHIPS)
def test_the_line_that_starts_a_container(chip: str) -> None:
    """Where this fails knowingly, write the new line into the golden file."""
    assert "\n".join(lines(chip)) + "\n" == (GOLDEN / f"{chip}.txt").read_text()


@pytest.mark.parametrize("chip", CHIPS)
def test_the_line_gives_the_chip_and_the_model(chip: str) -> None:
    run = docker_run(commands(lines(chip))[0])
    assert run is not None
    assert run.image is not None
    spec = parse(run.options, image=run.image, command=run.command)
    assert set(parse(CHIPS[chip].options, image="x").devices) <= set(spec.devices)
    assert MODELS in spec.mounts
    assert spec.environment["USE_FLAGGEMS"] == "1"


def test_there_is_a_line_for_each_chip_and_no_other() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CHIPS)


def test_a_container_gets_the_devices_that_are_asked_for() -> None:
    spec = container_spec(CHIPS["kunlunxin"], image="x", devices=[2, 3])
    assert [device.host for device in spec.devices] == ["/dev/xpuctrl", "/dev/xpu2", "/dev/xpu3"]
    assert len(container_spec(CHIPS["zhenwu"], image="x").devices) == 18


def test_the_engine_may_set_a_variable_of_the_chip() -> None:
    spec = container_spec(CHIPS["mthreads"], image="x", environment={"MTHREADS_VISIBLE_DEVICES": "0"})
    assert spec.environment == {"MTHREADS_VISIBLE_DEVICES": "0", "MTHREADS_DRIVER_CAPABILITIES": "all"}


def test_what_the_image_brings_is_not_hidden() -> None:
    with pytest.raises(MatrixError, match="/opt/maca of the host must not be mounted on Metax"):
        container_spec(CHIPS["metax"], image="x", mounts=[Mount(source="/opt/maca/", target="/opt/maca")])
    driver = Mount(source="/usr/local/Ascend/driver", target="/d")
    assert driver in container_spec(CHIPS["ascend"], image="x", mounts=[driver]).mounts


@pytest.mark.parametrize("cell", [cell for cell in load_matrix(ROOT / "matrix.yaml").cells if cell.container])
def test_the_containers_of_the_matrix_are_understood(cell: Cell) -> None:
    assert cell.container
    assert cell_container(cell.container, CHIPS[cell.chip]).image == cell.container.image
