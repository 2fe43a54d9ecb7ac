"""The bill of materials of an image: CycloneDX 1.5, from what is really installed in it.

The same image gives the same bytes: no time, no serial number. Specification: https://cyclonedx.org/docs/1.5/json/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import docker

from flagrelease.errors import ImageError
from runtime.image.dockerfile import INSIDE
from runtime.image.recipe import canonical
from runtime.image.run_inside import run_inside


def bill_of_materials(client: docker.DockerClient, image: str, name: str) -> bytes:
    """The CycloneDX document (JSON) of `image`, which is called `name` in it.

    It lists the Python packages that the image's `python3` finds, and the system's packages as dpkg knows them. Raises
    ImageError where the image has no Python.
    """
    printed = run_inside(client, image, ["python3", "-c", (INSIDE / "inventory.py").read_text()])
    try:
        found = json.loads(printed)
    except ValueError as error:
        raise ImageError(
            f"the packages of {image} cannot be listed: its python3 printed {printed[:200]!r}",
            remedy="see what its python3 runs at start (sitecustomize, .pth files)",
        ) from error
    return cyclonedx(found, image, name)


def cyclonedx(found: dict[str, Any], image: str, name: str) -> bytes:
    """The document for what `inside/inventory.py` found."""
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": image,
                "name": name,
                "version": image,
                "properties": [{"name": "python", "value": found["python"]}],
            }
        },
        "components": sorted(_components(found), key=lambda component: str(component["bom-ref"])),
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _components(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    system = found["system"]
    if system["ID"]:
        yield {
            "type": "operating-system",
            "bom-ref": f"operating-system/{system['ID']}",
            "name": system["ID"],
            "version": system["VERSION_ID"],
            "description": system["PRETTY_NAME"],
        }
    for package in found["packages"]:
        # Names and versions as the package URL specification writes them.
        url = f"pkg:pypi/{_url(canonical(package['name']))}@{_url(package['version'])}"
        component = _library(url, package["name"], package["version"])
        if package["licence"]:
            component["licenses"] = [{"expression": package["licence"]}]
        yield component
    distribution = f"{system['ID']}-{system['VERSION_ID']}".rstrip("-")
    for package in found["system_packages"]:
        url = f"pkg:deb/{_url(system['ID'] or 'debian')}/{_url(package['name'])}@{_url(package['version'])}"
        qualifiers = {"arch": package["architecture"], "distro": distribution}
        url += "?" + "&".join(f"{key}={_url(value)}" for key, value in qualifiers.items() if value)
        yield _library(url, package["name"], package["version"])


def _library(url: str, name: str, version: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def _url(text: str) -> str:
    return quote(text, safe=":~")
