"""The image that a cell is served from: built or found, pushed where there is a registry, its contents listed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple

import docker
from docker.errors import ImageNotFound

from flagrelease.errors import RegistryError
from flagrelease.loading import load_chips, load_matrix, resolve_all
from flagrelease.matrix import ResolvedCell
from flagrelease.records import CellImage, digest
from flagrelease.settings import Settings, data_path
from runtime.docker_engine import LONG_S, connect, engine_errors
from runtime.image.build import BuiltImage, build_image
from runtime.image.dockerfile import image_files
from runtime.image.recipe import Pin, canonical, recipe, registry_prefix, shared_name, sharing
from runtime.image.registry import PushedImage, pull, push
from runtime.image.sbom import bill_of_materials
from runtime.launch.interface import Log

SERVING = frozenset(
    "flag-scale flag-gems flagtree flagcx vllm vllm-plugin-fl torch triton transformers xllamacpp".split()
)
"""Packages whose versions say what serves, besides those that the matrix pins."""


class Provided(NamedTuple):
    """A cell's image, and the files that tell what it is made of."""

    image: CellImage
    built: BuiltImage
    pushed: PushedImage | None
    files: dict[str, bytes]
    """Evidence by file name: the Dockerfile and the bill of materials."""


def provide(client: docker.DockerClient, cell: ResolvedCell, host: Settings, log: Log, *, send: bool) -> Provided:
    """The image of `cell` on this engine; `send`: in the registry as well, read back by its digest.

    Cells with the same inputs share one image. Raises MatrixError, ImageError, EngineError or RegistryError.
    """
    cells = resolve_all(load_matrix(host.matrix_path), load_chips())
    built = build_image(client, cell, host, log, sharing(cell, cells, host.base_images))
    listed = bill_of_materials(client, built.id, built.repository.rpartition("/")[2])
    pushed = push(client, built.name, host, log) if send else None
    if send and host.registry:
        share(client, built, shared_name(cell.chip.key, built.key, host.registry), host, log)
    image = CellImage(
        name=built.name,
        id=built.id,
        key=built.key,
        digest=pushed.digest if pushed else None,
        base=built.base,
        versions=_versions(listed, recipe(cell, host.base_images).pins),
    )
    return Provided(image, built, pushed, {"Dockerfile": built.dockerfile.encode(), "sbom.cdx.json": listed})


def share(client: docker.DockerClient, built: BuiltImage, name: str, host: Settings, log: Log) -> None:
    """Push an image under the name by which the chip's other hosts find it, whichever cell they need it for."""
    with engine_errors(f"naming {name}"):
        client.api.tag(built.id, name, force=True)
    push(client, name, host, log)


def image_of(cell: ResolvedCell, host: Settings, log: Log, *, send: bool) -> Provided:
    """The image that the cell is served from; `send`: pushed where a registry is configured."""
    with closing(connect(LONG_S)) as client:
        if send and host.registry is None:
            log("image: kept on this host only, as FLAGRELEASE_REGISTRY names no registry")
        return provide(client, cell, host, log, send=send and host.registry is not None)


def at_hand(image: CellImage, host: Settings, log: Log) -> bool:
    """Whether this engine has the image; it is pulled by its digest where a registry has it."""
    if host.registry is not None and not image.name.startswith(f"{registry_prefix(host.registry)}/"):
        # It was built for another registry, or for this host only.
        return False
    with closing(connect(LONG_S)) as client:
        with engine_errors(f"looking for the image {image.reference}"), suppress(ImageNotFound):
            client.images.get(image.reference)
            return True
        if image.digest is None:
            return False
        log(f"image: pulling {image.reference}")
        try:
            return bool(pull(client, image.reference, host, log).id == image.id)
        except RegistryError as error:
            log(f"image: {error.message}; it is built again")
            return False


def planned(cell: ResolvedCell, host: Settings) -> dict[str, Any]:
    """What decides a cell's image, as far as it is known without an engine; raises MatrixError."""
    wanted = recipe(cell, host.base_images)
    folder = data_path("templates") / "dockerfile"
    own = [folder / "image.Dockerfile.j2", folder / "chips" / f"{wanted.chip}.Dockerfile.j2"]
    return {
        "recipe": wanted.model_dump(mode="json"),
        "files": {path.name: digest(path.read_text(encoding="utf-8")) for path in own if path.exists()}
        | {name: digest(path.read_text(encoding="utf-8")) for name, path in image_files(wanted).items()},
    }


def _versions(listed: bytes, pins: Sequence[Pin]) -> dict[str, str]:
    """Version by canonical name of what serves, from a bill of materials; what is pinned hides the base's own."""
    pinned = {canonical(pin.package): pin.version for pin in pins}
    components = json.loads(listed)["components"]
    python = {canonical(row["name"]): row["version"] for row in components if row["bom-ref"].startswith("pkg:pypi/")}
    found = {name: version for name, version in python.items() if name in SERVING} | pinned
    return dict(sorted(found.items()))
