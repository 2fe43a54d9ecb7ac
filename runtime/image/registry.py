"""Pushing images to a registry and pulling them by digest. The engine reports a failed push in its stream only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.images import Image
from pydantic import Field

from flagrelease.errors import FlagReleaseError, RegistryError
from flagrelease.records import Record
from flagrelease.settings import Settings
from runtime.docker_engine import engine_error, engine_errors, explanation, gone
from runtime.image.recipe import registry_host, registry_prefix
from runtime.launch.interface import Log

SAY_EVERY_S = 2.0
_UNREACHABLE = (
    "no such host",
    "connection refused",
    "i/o timeout",
    "no route to host",
    "unreachable",
    "TLS handshake",
    "EOF",
)
_REFUSED = ("unauthorized", "authentication required", "no basic auth credentials", "denied", "forbidden", "401", "403")


class PushedImage(Record):
    """An image in a registry, as it was read back."""

    name: str = Field(description="registry/project/name:tag")
    digest: str = Field(description="sha256:… of the manifest")
    reference: str = Field(description="registry/project/name@sha256:…, what somebody else pulls")
    size: int = Field(description="bytes of the manifest")


def push(client: docker.DockerClient, name: str, host: Settings, log: Log) -> PushedImage:
    """Push the image `name` (registry/project/name:tag), and check that the registry holds just that.

    The digest of the push, of the engine's record and of the registry must agree, and what is pulled by that digest
    must be the image. Raises RegistryError.
    """
    repository, _, tag = name.rpartition(":")
    credentials = credentials_for(name, host)
    with engine_errors(f"pushing {name}"):
        stream = client.api.push(repository, tag=tag, stream=True, decode=True, auth_config=credentials)
        pushed = follow_transfer(stream, "push", name, log)
        if pushed is None:
            raise gone(f"pushing {name}", "it said neither that it is done nor why not")
        digest, size = str(pushed["Digest"]), int(pushed["Size"])
        image = client.images.get(name)
        known = image.attrs.get("RepoDigests") or ()
        if f"{repository}@{digest}" not in known:
            raise _changed(name, f"the engine records {', '.join(known) or 'no digest'}, the push said {digest}")
        held = _registry_digest(client, name, credentials)
        if held != digest:
            raise _changed(name, f"the registry holds {held}, pushed was {digest}")
        pulled = pull(client, f"{repository}@{digest}", host, log)
        if pulled.id != image.id:
            raise _changed(name, f"{digest} is the image {pulled.id}, pushed was {image.id}")
    return PushedImage(name=name, digest=digest, reference=f"{repository}@{digest}", size=size)


def pull(client: docker.DockerClient, reference: str, host: Settings, log: Log) -> Image:
    """The image at `reference` (name:tag or name@sha256:…), pulled. Raises RegistryError where it cannot be had."""
    repository, at, digest = reference.partition("@")
    with engine_errors(f"pulling {reference}"):
        try:
            stream = client.api.pull(
                repository,
                tag=digest if at else None,
                stream=True,
                decode=True,
                auth_config=credentials_for(reference, host),
            )
            follow_transfer(stream, "pull", reference, log)
            return client.images.get(reference)
        except ImageNotFound as error:
            raise _refusal("pull", reference, f"not found: {explanation(error)}") from error
        except APIError as error:
            raise _refusal("pull", reference, explanation(error)) from error


def credentials_for(name: str, host: Settings) -> dict[str, str] | None:
    """Name and password from the environment for the registry of `name`, if it is the configured one.

    None: the SDK looks into Docker's own store (docker login, a credential helper). Raises RegistryError where the
    environment holds only one of the two.
    """
    if host.registry_user is None and host.registry_password is None:
        return None
    if host.registry_user is None or host.registry_password is None:
        missing = "FLAGRELEASE_REGISTRY_USER" if host.registry_user is None else "FLAGRELEASE_REGISTRY_PASSWORD"
        raise RegistryError(
            f"the login of the registry is half set: {missing} is missing", remedy="set both, or neither (docker login)"
        )
    # A password is for its own registry only, not for the one that a base image comes from.
    if host.registry is None or registry_host(name) != registry_host(f"{registry_prefix(host.registry)}/x"):
        return None
    return {"username": host.registry_user, "password": host.registry_password.get_secret_value()}


def _registry_digest(client: docker.DockerClient, name: str, credentials: Mapping[str, str] | None) -> str:
    """Digest of the manifest that the registry itself holds under `name`, which the engine asks it for."""
    try:
        return str(client.images.get_registry_data(name, auth_config=dict(credentials) if credentials else None).id)
    except (NotFound, APIError) as error:
        raise _refusal("read back", name, explanation(error)) from error


def follow_transfer(stream: Iterable[Mapping[str, Any]], doing: str, name: str, log: Log) -> Mapping[str, Any] | None:
    """Say how far a push or pull is, every few seconds; what the stream says at its end, if anything."""
    layers: dict[str, tuple[int, int]] = {}
    result: Mapping[str, Any] | None = None
    said = time.monotonic()
    for line in stream:
        if "error" in line:
            raise _refusal(doing, name, str((line.get("errorDetail") or {}).get("message") or line["error"]))
        if line.get("aux"):
            result = line["aux"]
        progress = line.get("progressDetail") or {}
        if line.get("id") and progress.get("total"):
            layers[line["id"]] = (int(progress.get("current") or 0), int(progress["total"]))
        if layers and time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            done, total = (sum(numbers) / 1e6 for numbers in zip(*layers.values(), strict=True))
            log(f"{doing}: {done:.0f} of {total:.0f} MB in {len(layers)} layers")
    return result


def _refusal(doing: str, name: str, reason: str) -> FlagReleaseError:
    """The error for what a registry, or the engine for it, said."""
    registry = registry_host(name)
    cannot = f"cannot {doing} {name}"
    low = reason.lower()
    if "no space left on device" in low:
        return engine_error(f"trying to {doing} {name}", reason)
    if any(word.lower() in low for word in _UNREACHABLE):
        return RegistryError(
            f"{cannot}: the registry {registry} does not answer: {reason}",
            remedy="check the name, the network and the proxy of the container engine, then run the same command again",
        )
    if any(word in low for word in _REFUSED):
        return RegistryError(
            f"{cannot}: the registry {registry} refused the login, or this user may not do it: {reason}",
            remedy="set FLAGRELEASE_REGISTRY_USER and FLAGRELEASE_REGISTRY_PASSWORD, "
            f"or log in: docker login {registry}",
        )
    if "not found" in low or "unknown" in low:
        return RegistryError(f"{cannot}: there is no such image: {reason}", remedy="check name, tag and digest")
    return RegistryError(f"{cannot}: {reason}", remedy="see what the registry says; then try again")


def _changed(name: str, reason: str) -> RegistryError:
    return RegistryError(
        f"{name} is not what was pushed: {reason}",
        remedy="somebody else pushed the same tag, or the registry converts images: push again",
    )
