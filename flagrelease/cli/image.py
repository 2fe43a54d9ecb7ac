"""`flagrelease image`: building the container image of a cell, and pushing it to the registry."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from flagrelease.cli.inspect import AsJson
from flagrelease.cli.release import Cell

if TYPE_CHECKING:
    import docker

    from flagrelease.settings import Settings
    from runtime.image.build import BuiltImage
    from runtime.launch.interface import Log

app = typer.Typer(no_args_is_help=True, help="Container images of cells: build and push them.")


@app.command()
def build(cell: Cell, as_json: AsJson = False) -> None:
    """Build the cell's image, unless one of the same inputs is here, and keep its Dockerfile and bill of materials.

    The image is given the name that the card's registry would have; nothing is sent anywhere.
    """
    from flagrelease.settings import settings
    from runtime.docker_engine import LONG_S, connect

    host, log = settings(), _log(as_json)
    with closing(connect(LONG_S)) as client:
        image, evidence = _build(client, cell, host, log)
    _say(_document(cell, image, evidence), image, evidence, as_json)


@app.command()
def push(cell: Cell, as_json: AsJson = False) -> None:
    """Push the cell's image to the registry that FLAGRELEASE_REGISTRY names, built first where it is missing.

    What the registry then holds is read back and pulled by its digest.
    """
    from flagrelease.errors import RegistryError
    from flagrelease.settings import settings
    from runtime.docker_engine import LONG_S, connect
    from runtime.image.registry import push as push_image

    host, log = settings(), _log(as_json)
    if host.registry is None:
        raise RegistryError(
            "no registry is configured",
            remedy="set FLAGRELEASE_REGISTRY to host and project, for example harbor.example.org/team",
        )
    with closing(connect(LONG_S)) as client:
        image, evidence = _build(client, cell, host, log)
        pushed = push_image(client, image.name, host, log)
    _say(_document(cell, image, evidence) | {"pushed": pushed.model_dump()}, image, evidence, as_json)
    if not as_json:
        typer.echo(f"{'pull it with:':<26}docker pull {pushed.reference}")


def _build(client: docker.DockerClient, cell_id: str, host: Settings, log: Log) -> tuple[BuiltImage, dict[str, str]]:
    """The image, and where its files of evidence lie."""
    from flagrelease.evidence import EvidenceFolder
    from flagrelease.loading import load_chips, load_matrix, resolve, resolve_all
    from runtime.image.build import build_image
    from runtime.image.recipe import sharing
    from runtime.image.sbom import bill_of_materials

    matrix, chips = load_matrix(host.matrix_path), load_chips()
    cell = resolve(matrix, chips, cell_id)
    image = build_image(client, cell, host, log, sharing(cell, resolve_all(matrix, chips), host.base_images))
    files = {
        "Dockerfile": image.dockerfile.encode(),
        "sbom.cdx.json": bill_of_materials(client, image.id, image.repository.rpartition("/")[2]),
    }
    folder = EvidenceFolder(host.evidence_url)
    kept = (folder.put("image", name, data) for name, data in files.items())
    return image, {artefact.name: folder.path(artefact.sha256) for artefact in kept}


def _document(cell: str, image: BuiltImage, evidence: dict[str, str]) -> dict[str, Any]:
    facts = {"name": image.name} | image.model_dump(exclude={"dockerfile"})
    return {"cell": cell, "image": facts, "evidence": evidence}


def _log(as_json: bool) -> Log:
    # Standard output is the document's alone.
    return partial(typer.echo, err=as_json)


def _say(document: dict[str, Any], image: BuiltImage, evidence: dict[str, str], as_json: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(document, indent=1))
        return
    facts = {
        "image": image.name,
        "id": image.id,
        "content key": image.key,
        "base": image.base,
        "built": image.created + (" (reused: nothing was built)" if image.reused else ""),
        "size": f"{image.size / 1e6:.0f} MB with its base",
    } | {f"evidence: {name}": path for name, path in evidence.items()}
    typer.echo()
    for name, value in facts.items():
        typer.echo(f"{name + ':':<26}{value}")
