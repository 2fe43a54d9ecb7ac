"""What a host has for building, pushing and running container images. Nothing is started, pulled or sent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx

from flagrelease.chip import Chip
from flagrelease.errors import FlagReleaseError
from flagrelease.settings import Settings
from runtime.finding import Finding, Task, disk, has, lacks, lacks_as
from runtime.launch.docker_run import parse

CONTAINERS: tuple[Task, ...] = ("build images", "push images", "serve in containers")
IMAGES_GIB = 60
"""A chip's image with its toolkit and torch takes 10 to 30 GiB, and twice that while it is built or pulled."""
SMALL_IMAGES_GIB = 5
"""Without an accelerator's toolkit."""
ASK_TIMEOUT_S = 3.0


def examine_containers(chip: Chip, host: Settings) -> Iterator[Finding]:
    """The engine, space for images, the GPU runtime, the chip's base image, the registry."""
    # The SDK takes half a second to import.
    from runtime.docker_engine import connect, engine_errors

    yield _registry(host)
    try:
        with closing(connect()) as client, engine_errors("asking what it is"):
            about = client.api.info()
            images = {tag for image in client.api.images() for tag in image["RepoTags"] or ()}
    except FlagReleaseError as problem:
        yield lacks_as("container engine", problem, *CONTAINERS)
        return
    runtimes = ", ".join(sorted(about["Runtimes"]))
    said = f"Docker {about['ServerVersion']}, storage {about['Driver']}, runtimes {runtimes}"
    yield has("container engine", said, *CONTAINERS)
    root = Path(about["DockerRootDir"])
    yield disk(
        "disk for images", root, IMAGES_GIB if chip.smi else SMALL_IMAGES_GIB, "build images", "serve in containers"
    )
    if parse(chip.options, image="any").gpus:
        yield _gpu_runtime("nvidia" in about["Runtimes"])
    yield _base_image(chip, host, images)


def _gpu_runtime(configured: bool) -> Finding:
    name = "GPU runtime"
    if configured or shutil.which("nvidia-container-runtime-hook"):
        return has(name, "NVIDIA container toolkit", "serve in containers")
    how = "install the NVIDIA container toolkit, run nvidia-ctk runtime configure --runtime=docker, restart the engine"
    return lacks(name, "the engine has none, and --gpus needs it", how, "serve in containers")


def _base_image(chip: Chip, host: Settings, here: set[str]) -> Finding:
    name = "base image"
    base = host.base_images.get(chip.key) or chip.base_image
    if base is None:
        example = json.dumps({chip.key: "registry/project/image@sha256:…"})
        how = f"name one in the environment: FLAGRELEASE_BASE_IMAGES='{example}'"
        return lacks(name, f"none is known for {chip.display}", how, "build images")
    if base in here:
        return has(name, f"{base}, on this host", "build images")
    if "/" in base:
        return has(name, f"{base}, to be pulled", "build images")
    return lacks(name, f"{base} is not on this host", "as root: infra/engine/base-image.sh", "build images")


def _registry(host: Settings) -> Finding:
    name = "registry"
    if host.registry is None:
        return lacks(name, "none is configured", "set FLAGRELEASE_REGISTRY to host/project", "push images")
    where = host.registry.partition("/")[0]
    # As the engine does: only a registry on this host may go without encryption.
    local = where.partition(":")[0] in {"localhost", "127.0.0.1"}
    try:
        address = f"{'http' if local else 'https'}://{where}/v2/"
        status = httpx.get(address, timeout=ASK_TIMEOUT_S, trust_env=not local).status_code
    except httpx.HTTPError as error:
        how = "check FLAGRELEASE_REGISTRY, the network and the proxy"
        return lacks(name, f"{where} does not answer: {error}", how, "push images")
    if status == httpx.codes.OK:
        return has(name, f"{where}, open", "push images")
    if status == httpx.codes.UNAUTHORIZED:
        login = "a login is set" if host.registry_user and host.registry_password else "docker login's will be used"
        return has(name, f"{where}, asks for a login: {login}", "push images")
    return lacks(name, f"{where} answers HTTP {status}: no registry", "check FLAGRELEASE_REGISTRY", "push images")
