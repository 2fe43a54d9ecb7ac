"""The model's weights on this host: found in an installed package, checked by hash, converted once."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from flagrelease.errors import PreflightError, WeightsError
from flagrelease.matrix import Model
from flagrelease.packages import install_command, packaged_file
from flagrelease.records import digest
from flagrelease.store.database import check_writable
from runtime.engines.interface import WeightsFormat

CONVERTED_MIB = 700


class Weights(NamedTuple):
    """A weights file that was checked."""

    path: Path
    sha256: str


def check(model: Model) -> Weights:
    """The model's weights, their hash compared with the matrix.

    Raises PreflightError where they are not here (with the command that installs them), WeightsError where they
    are not what the matrix says.
    """
    packaged = model.weights
    if packaged is None:
        raise PreflightError(
            f"the weights of {model.display} are on a hub ({model.source.hub}: {model.source.repository}), "
            "and this version of FlagRelease does not download weights",
            remedy="release this cell where its container image and weights are",
        )
    path = packaged_file(packaged.package, packaged.file, f"the weights of {model.display}")
    about = path.stat()
    actual = _sha256(path, about.st_size, about.st_mtime_ns)
    if actual != packaged.sha256:
        raise WeightsError(
            f"{path} is corrupt or another file: SHA-256 {actual[:12]}…, the matrix says {packaged.sha256[:12]}…",
            remedy=f"install it again: {install_command(packaged.package)} --force-reinstall",
        )
    return Weights(path, actual)


@cache
def _sha256(path: Path, _size: int, _changed: int) -> str:
    """Hash of the file; it is read once in a process, unless it changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def chat_template_sha256(weights: Weights) -> str:
    """Hash of the chat template that the weights carry (of the empty text where they carry none)."""
    from runtime.gguf_checkpoint import chat_template

    return hashlib.sha256(chat_template(weights.path).encode()).hexdigest()


@cache
def tokenizer_sha256(weights: Weights) -> str:
    """Hash of the tokenizer that the weights carry: model, vocabulary and merges."""
    from runtime.gguf_checkpoint import tokenizer_facts

    return digest(tokenizer_facts(weights.path))


def converter_version(form: WeightsFormat) -> int:
    """Version of the code that brings weights into this form; 0 where nothing is converted."""
    from runtime import gguf_checkpoint, gguf_float16

    return {"gguf": 0, "gguf-float16": gguf_float16.VERSION, "safetensors": gguf_checkpoint.VERSION}[form]


def checkpoint(weights: Weights, folder: Path) -> Path:
    """A Hugging Face checkpoint in float32 of GGUF weights, converted once into `folder`."""
    from runtime import gguf_checkpoint

    name = f"{weights.sha256[:16]}-safetensors-{gguf_checkpoint.VERSION}"
    return _once(folder / name, lambda aside: gguf_checkpoint.convert(weights.path, aside))


def float16(weights: Weights, folder: Path) -> Path:
    """A GGUF file with float16 matrices of quantised GGUF weights, converted once into `folder`."""
    from runtime import gguf_float16

    name = f"{weights.sha256[:16]}-float16-{gguf_float16.VERSION}.gguf"
    return _once(folder / name, lambda aside: gguf_float16.convert(weights.path, aside))


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made aside and moved, so that a crash leaves no half one under its name."""
    if target.exists():
        return target
    check_writable(target.parent, CONVERTED_MIB, PreflightError)
    for leftover in target.parent.glob(f"{target.name}.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    aside = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    make(aside)
    aside.rename(target)
    return target
