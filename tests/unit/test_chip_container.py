"""A container for each chip: the line that starts it is known, and changes only knowingly."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagrelease.card.shell import commands, docker_run
from flagrelease.card.text import docker_run as printed
from flagrelease.errors import MatrixError
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.matrix import Cell, Container
from runtime.launch.chip_container import cell_container
from runtime.launch.container_spec import ContainerSpec, Mount
from runtime.launch.docker_run import parse
from tests.conftest import ROOT

CHIPS = load_chips()
GOLDEN = Path(__file__).with_name("golden") / "docker_run"
MODELS = Mount(source="/nfs/models/Qwen3-8B", target="/nfs/models/Qwen3-8B", modes=("ro",))


def container_on(chip: str) -> Container:
    """The container of Qwen3-8B on the chip, where matrix.yaml gives it none."""
    cell = resolve(load_matrix(ROOT / "matrix.yaml"), CHIPS, "qwen3-metax")
    plain = cell.cell.model_copy(update={"container": None, "chip": chip})
    found = cell.model_copy(update={"cell": plain, "chip": CHIPS[chip]}).container
    assert found is not None
    return found


def lines(chip: str) -> list[str]:
    """How a card starts a container on the chip."""
    found = container_on(chip)
    return printed(found.options, found.name, f"registry.example/team/{found.image}:1", found.command)


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
    assert spec.detach


def test_there_is_a_line_for_each_chip_and_no_other() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CHIPS)


def test_a_container_gets_all_devices_of_a_usual_host() -> None:
    spec = cell_container(container_on("kunlunxin"), CHIPS["kunlunxin"])
    assert [device.host for device in spec.devices] == ["/dev/xpuctrl", *(f"/dev/xpu{n}" for n in range(8))]
    assert len(cell_container(container_on("zhenwu"), CHIPS["zhenwu"]).devices) == 18


def test_what_the_image_brings_is_not_hidden() -> None:
    def mounting(chip: str, mount: str) -> ContainerSpec:
        found = container_on(chip)
        return cell_container(found.model_copy(update={"options": [*found.options, "-v", mount]}), CHIPS[chip])

    with pytest.raises(MatrixError, match="/opt/maca of the host must not be mounted on Metax"):
        mounting("metax", "/opt/maca/:/opt/maca")
    driver = "/usr/local/Ascend/driver:/d"
    assert Mount.read(driver) in mounting("ascend", driver).mounts


@pytest.mark.parametrize("cell", [cell for cell in load_matrix(ROOT / "matrix.yaml").cells if cell.container])
def test_the_containers_of_the_matrix_are_understood(cell: Cell) -> None:
    assert cell.container
    assert cell_container(cell.container, CHIPS[cell.chip]).image == cell.container.image
