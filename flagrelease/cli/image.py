"""`flagrelease image`: building the container image of a cell, and pushing it to the registry."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from flagrelease.cli.inspect import AsJson
from flagrelease.cli.release import Cell

if TYPE_CHECKING:
    from flagrelease.settings import Settings
    from runtime.image.provide import Provided
    from runtime.launch.interface import Log

app = typer.Typer(no_args_is_help=True, help="Container images of cells: build and push them.")


@app.command()
def build(cell: Cell, as_json: AsJson = False) -> None:
    """Build the cell's image, unless one of the same inputs is here, and keep its Dockerfile and bill of materials.

    The image is given the name that the card's registry would have; nothing is sent anywhere.
    """
    from flagrelease.settings import settings

    host, log = settings(), _log(as_json)
    _say(cell, _provide(cell, host, log, send=False), host, as_json)


@app.command()
def push(cell: Cell, as_json: AsJson = False) -> None:
    """Push the cell's image to the registry that FLAGRELEASE_REGISTRY names, built first where it is missing.

    What the registry then holds is read back and pulled by its digest.
    """
    from flagrelease.errors import RegistryError
    from flagrelease.settings import settings

    host, log = settings(), _log(as_json)
    if host.registry is None:
        raise RegistryError(
            "no registry is configured",
            remedy="set FLAGRELEASE_REGISTRY to host and project, for example harbor.example.org/team",
        )
    _say(cell, _provide(cell, host, log, send=True), host, as_json)


def _keep(files: Mapping[str, bytes], host: Settings) -> dict[str, str]:
    """Where files of evidence lie, by name."""
    from flagrelease.evidence import EvidenceFolder

    folder = EvidenceFolder(host.evidence_url)
    kept = (folder.put("image", name, data) for name, data in files.items())
    return {artefact.name: folder.path(artefact.sha256) for artefact in kept}


def _provide(cell_id: str, host: Settings, log: Log, *, send: bool) -> Provided:
    from flagrelease.loading import load_chips, load_matrix, resolve
    from runtime.docker_engine import LONG_S, connect
    from runtime.image.provide import provide

    cell = resolve(load_matrix(host.matrix_path), load_chips(), cell_id)
    with closing(connect(LONG_S)) as client:
        return provide(client, cell, host, log, send=send)


def _log(as_json: bool) -> Log:
    # Standard output is the document's alone.
    return partial(typer.echo, err=as_json)


def _say(cell: str, found: Provided, host: Settings, as_json: bool) -> None:
    import json

    image, evidence = found.built, _keep(found.files, host)
    if as_json:
        document: dict[str, Any] = {
            "cell": cell,
            "image": {"name": image.name}
            | image.model_dump(exclude={"dockerfile"})
            | {"versions": found.image.versions},
            "evidence": evidence,
        }
        if found.pushed:
            document["pushed"] = found.pushed.model_dump()
        typer.echo(json.dumps(document, indent=1))
        return
    facts = {
        "image": image.name,
        "id": image.id,
        "content key": image.key,
        "base": image.base,
        "built": image.created + (" (reused: nothing was built)" if image.reused else ""),
        "size": f"{image.size / 1e6:.0f} MB with its base",
        "serves with": ", ".join(f"{name} {version}" for name, version in found.image.versions.items()),
    } | {f"evidence: {name}": path for name, path in evidence.items()}
    if found.pushed:
        facts["pull it with"] = f"docker pull {found.pushed.reference}"
    typer.echo()
    for name, value in facts.items():
        typer.echo(f"{name + ':':<26}{value}")
