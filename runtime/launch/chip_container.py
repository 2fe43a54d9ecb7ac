"""The container that a chip wants: its options, its device files, and what is served in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from flagrelease.errors import MatrixError
from flagrelease.matrix import Chip, Container
from runtime.launch.container_spec import ContainerSpec, Device, Mount
from runtime.launch.docker_run import parse


def container_spec(
    chip: Chip,
    *,
    image: str,
    name: str | None = None,
    command: Sequence[str] = (),
    mounts: Iterable[Mount] = (),
    environment: Mapping[str, str] | None = None,
    devices: Iterable[int] | None = None,
) -> ContainerSpec:
    """A detached container of `image` with the chip's options, and with `mounts` and `environment` besides.

    `devices`: numbers of the devices that it gets, where each has a file of its own; by default all of a usual host.
    Raises MatrixError where the options are not valid, or a mount would hide what the image brings itself.
    """
    spec = parse(chip.options, image=image, command=command, name=name)
    numbers = range(chip.host_devices) if devices is None else devices
    files = [chip.device_files.replace("{}", str(number)) for number in numbers] if chip.device_files else []
    found = ContainerSpec(
        **{
            **dict(spec),
            "detach": True,
            "devices": (*spec.devices, *(Device(host=file, container=file) for file in files)),
            "mounts": (*spec.mounts, *mounts),
            "environment": {**spec.environment, **(environment or {})},
        }
    )
    check_mounts(found, chip)
    return found


def cell_container(container: Container, chip: Chip) -> ContainerSpec:
    """The container of a cell as matrix.yaml writes it; raises MatrixError as `container_spec` does."""
    spec = parse(container.options, image=container.image, command=container.command, name=container.name)
    check_mounts(spec, chip)
    return spec


def check_mounts(spec: ContainerSpec, chip: Chip) -> None:
    """Raise MatrixError where a folder of the host would hide what the image brings itself."""
    for mount in spec.mounts:
        for folder in chip.not_mounted:
            if PurePosixPath(mount.source) == PurePosixPath(folder):
                raise MatrixError(
                    f"{folder} of the host must not be mounted on {chip.display}: the image brings its own",
                    remedy=f"leave the option -v {mount} out",
                )
