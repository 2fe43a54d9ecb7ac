"""Small base images, wheels and cells for the tests of images: the builds are real, the images hold next to nothing."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker

from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.matrix import ResolvedCell, Versions
from flagrelease.settings import Settings
from runtime.image.wheels import PIP
from tests.conftest import ROOT

TEAM = "flagrelease-tests"
PYTHON_BASE = "flagrelease-base:python"

STAND_IN_PYTHON = """#!/bin/sh
# Stands in for Python: says what version it is, makes the folder that pip would make, and imports as it is told.
case "$*" in
  *sys.implementation*) echo '["cpython", 3, 11, "x86_64", "glibc", "2.36"]' ;;
  *--target=*) mkdir -p /opt/flagrelease/packages ;;
  *import*) {on_import} ;;
esac
"""


def tiny_base(client: docker.DockerClient, name: str, files: Mapping[str, str] | None = None) -> str:
    """An image of two megabytes with busybox and `files` (programs); its name."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    programs = {"bin/busybox": busybox.read_bytes()} | {path: text.encode() for path, text in (files or {}).items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, data in programs.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for command in ("sh", "mkdir", "sleep", "dd", "echo", "ls"):
            link = tarfile.TarInfo(f"bin/{command}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag, changes=["ENV PATH=/bin"])
    return name


def remove(client: docker.DockerClient, name: str) -> None:
    """Remove an image, all that was built on it, and all their names."""
    images = client.api.images(all=True)

    def with_children(image: str) -> Iterator[str]:
        for child in images:
            if child["ParentId"] == image:
                yield from with_children(child["Id"])
        yield image

    for image in with_children(str(client.images.get(name).id)):
        client.api.remove_image(image, force=True, noprune=True)


def base_with_python(client: docker.DockerClient, name: str, *, on_import: str) -> str:
    """A tiny base whose `python3` is a stand-in; a shell command is run where a build imports what it installed."""
    return tiny_base(client, name, {"bin/python3": STAND_IN_PYTHON.format(on_import=on_import)})


def python_base() -> str:
    """The base image with a real Python, made where this machine has none yet."""
    if subprocess.run(["docker", "image", "inspect", PYTHON_BASE], capture_output=True, check=False).returncode:
        subprocess.run([ROOT / "infra/engine/base-image.sh", PYTHON_BASE], check=True)
    return PYTHON_BASE


def wheel(folder: Path, package: str, version: str) -> None:
    """A wheel with one empty module."""
    name = package.replace("-", "_")
    information = f"{name}-{version}.dist-info"
    texts = {
        f"{name}/__init__.py": "",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*texts, f"{information}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**texts, f"{information}/RECORD": record}.items():
            archive.writestr(path, text)


def stand_in_wheels(folder: Path, *requirements: str) -> Path:
    """Wheels for builds whose Python is a stand-in: nothing installs them, pip's own among them."""
    folder.mkdir(parents=True, exist_ok=True)
    for requirement in (*requirements, PIP.requirement):
        wheel(folder, *requirement.split("=="))
    return folder


def cell_of(
    name: str, *, display: str | None = None, packages: list[str] | None = None, chip_display: str | None = None
) -> ResolvedCell:
    """A cell of the shipped matrix, with another model's name, other packages, another display name of its chip."""
    found = resolve(load_matrix(ROOT / "matrix.yaml"), load_chips(), name)
    cell = found.cell.model_copy(update={"container": None, "versions": Versions(packages=packages or [])})
    model = found.model.model_copy(update={"display": display} if display else {})
    chip = found.chip.model_copy(update={"display": chip_display} if chip_display else {})
    return found.model_copy(update={"cell": cell, "model": model, "chip": chip})


def host_of(folder: Path, base: str, registry: str | None = None, **others: object) -> Settings:
    """Settings of a host whose images of every chip are built from `base`."""
    bases = dict.fromkeys(load_chips(), base)
    return Settings.model_validate({"home": folder / "home", "base_images": bases, "registry": registry, **others})
