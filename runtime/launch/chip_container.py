"""The container of a cell, as matrix.yaml and the chip's file write it."""

from __future__ import annotations

from pathlib import PurePosixPath

from flagrelease.chip import Chip
from flagrelease.errors import MatrixError
from flagrelease.matrix import Container
from runtime.launch.container_spec import ContainerSpec
from runtime.launch.docker_run import parse


def cell_container(container: Container, chip: Chip) -> ContainerSpec:
    """The container as a specification.

    Raises MatrixError where its options are not valid, or a mount would hide what the image brings itself.
    """
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
