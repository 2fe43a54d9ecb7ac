"""The image that a cell's image is built from: found or pulled, and known by what is in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import docker
from docker.errors import ImageNotFound

from flagrelease.errors import ImageError, RegistryError
from flagrelease.records import digest
from flagrelease.settings import Settings
from runtime.docker_engine import engine_errors
from runtime.image.registry import pull
from runtime.launch.interface import Log

# What of an image's configuration its children inherit.
_INHERITED = ("Env", "User", "WorkingDir", "Entrypoint", "Cmd", "Shell", "Labels", "OnBuild", "Volumes", "ExposedPorts")


class BaseImage(NamedTuple):
    """A base image on this engine."""

    name: str
    """As the chip file or the configuration writes it."""
    reference: str
    """What FROM gets: the name by digest, or the engine's id where no registry knows the image."""
    content: str
    """SHA-256 over layers and configuration: the same on every engine, for an image of any origin."""
    platform: str


def find_base(client: docker.DockerClient, name: str, host: Settings, log: Log) -> BaseImage:
    """The base image `name`, pulled where the engine lacks it. A tag that the engine has is not looked up again.

    Raises ImageError where it is nowhere.
    """
    with engine_errors(f"looking for the base image {name}"):
        try:
            image = client.images.get(name)
        except ImageNotFound:
            log(f"base image: pulling {name}")
            try:
                image = pull(client, name, host, log)
            except RegistryError as error:
                raise ImageError(
                    f"the base image {name} is not here and cannot be pulled: {error.message}",
                    remedy="pull or load it, or name one that is here in FLAGRELEASE_BASE_IMAGES "
                    "(without any hub, for the chip cpu: infra/engine/base-image.sh makes one)",
                ) from error
    about: dict[str, Any] = image.attrs
    of_name = [known for known in about.get("RepoDigests") or () if known.partition("@")[0] == repository_of(name)]
    configuration = about.get("Config") or {}
    content = digest(
        {
            "layers": about["RootFS"].get("Layers") or [],
            "configuration": {key: configuration.get(key) or None for key in _INHERITED},
        }
    )
    return BaseImage(
        name, of_name[0] if of_name else image.id or name, content, f"{about['Os']}/{about['Architecture']}"
    )


def repository_of(reference: str) -> str:
    """An image's name without tag and digest."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"
