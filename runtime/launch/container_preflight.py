"""What a container needs of this host, looked at before it is started: all that is missing, at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import docker
from docker.errors import ImageNotFound

from flagrelease.chip import Chip
from flagrelease.errors import EngineError, FlagReleaseError, PreflightError, WeightsError
from runtime.docker_engine import engine_errors
from runtime.launch.container_reasons import device_missing, image_missing
from runtime.launch.container_spec import ContainerSpec
from runtime.launch.interface import ServerSpec
from runtime.launch.ports import require_free
from runtime.smi import SmiReport, check_free, used_devices

LOCAL = "http+docker://localhost"
"""What the SDK calls an engine behind a socket of this host."""
MIN_FREE_DISK_GIB = 2
"""Compiled kernels and logs of one server."""


MIN_FREE_MEMORY = 0.9
"""Share of a device's memory that vLLM takes where it is not told otherwise (its gpu_memory_utilization)."""


def check(
    client: docker.DockerClient, container: ContainerSpec, spec: ServerSpec, paths: Sequence[str], chip: Chip | None
) -> SmiReport | None:
    """Raise what is missing on this host, PreflightError where it is several things; else what the chip's tool says."""
    found = list(problems(client, container, spec, paths))
    report = None
    if chip:
        try:
            report = check_free(chip, MIN_FREE_MEMORY, used_devices(chip, container.environment))
        except PreflightError as problem:
            found.append(problem)
    if len(found) == 1:
        raise found[0]
    if found:
        lines = "".join(f"\n  - {problem.message}" for problem in found)
        steps = "; ".join(dict.fromkeys(problem.remedy for problem in found))
        raise PreflightError(f"{spec.cell} cannot be served in a container here:{lines}", remedy=steps)
    return report


def problems(
    client: docker.DockerClient, container: ContainerSpec, spec: ServerSpec, paths: Sequence[str]
) -> Iterator[FlagReleaseError]:
    """What is missing: the image, devices, folders to mount, the model, a free port, space on the engine's disk."""
    if client.api.base_url != LOCAL:
        # Devices, folders and ports are looked at here, and the server is asked here.
        yield EngineError(
            f"DOCKER_HOST names a container engine on another host: {os.environ.get('DOCKER_HOST')}",
            remedy="run the same command on that host, or name the socket of this host's engine: unix://…",
        )
        return
    with engine_errors("looking at the host"):
        try:
            client.images.get(container.image)
        except ImageNotFound:
            yield image_missing(container)
        root = Path(client.api.info()["DockerRootDir"])
    yield from (device_missing(device.host) for device in container.devices if not Path(device.host).exists())
    for mount in container.mounts:
        if not Path(mount.source).exists():
            # The engine would make an empty folder of it that only root can remove.
            yield PreflightError(
                f"nothing to mount at {mount.source} on this host (in the container: {mount.target})",
                remedy="put there what the container needs, or leave the mount out",
            )
    for path in paths:
        here = host_path(container, path)
        if here is not None and not here.exists():
            yield WeightsError(
                f"{here} is not there, which the server reads as {path} in the container",
                remedy="download the model there, or name the folder that holds it",
            )
    try:
        require_free(spec.host, spec.port)
    except FlagReleaseError as problem:
        yield problem
    free_gib = shutil.disk_usage(root).free / 2**30
    if free_gib < MIN_FREE_DISK_GIB:
        yield PreflightError(
            f"{free_gib:.1f} GiB are free in {root}, where containers write; {MIN_FREE_DISK_GIB} are needed",
            remedy="see what takes the space (docker system df) and free some (docker system prune)",
        )


def host_path(container: ContainerSpec, path: str) -> Path | None:
    """Where a path of the container lies on the host; none where it is part of the image."""
    wanted = PurePosixPath(path)
    below = [mount for mount in container.mounts if wanted.is_relative_to(PurePosixPath(mount.target))]
    if not below:
        return None
    mount = max(below, key=lambda each: len(PurePosixPath(each.target).parts))
    return Path(mount.source) / wanted.relative_to(PurePosixPath(mount.target))
