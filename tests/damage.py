"""Damaged copies of weights: noise on one matrix stands for an operator that computes wrongly.

`damaged` takes a GGUF file with float matrices or a safetensors file, and leaves all but the one tensor as it is.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEED = 7


def damaged(weights_path: Path, target: Path, relative_noise: float, tensor: str) -> Path:
    """`target`, a copy of the weights with Gaussian noise on `tensor`, named as the file names it.

    `relative_noise` is the noise's root mean square over the tensor's: 0.05 is 5 %, 1 buries the tensor. The same
    arguments give the same bytes. LookupError where there is no such tensor, ValueError where it is quantised.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights_path, target)
    values = _in_safetensors(target, tensor) if target.suffix == ".safetensors" else _in_gguf(target, tensor)
    if values.dtype not in (np.float16, np.float32):
        msg = f"{tensor} is quantised; damage the file with float16 matrices"
        raise ValueError(msg)
    exact = values.astype(np.float64)
    noise = np.random.default_rng(SEED).standard_normal(values.shape)
    values[...] = exact + noise * (relative_noise * np.sqrt(np.mean(exact**2)))
    return target


def _in_gguf(path: Path, tensor: str) -> NDArray[np.generic]:
    """The tensor's values; what is written to them is written to the file."""
    from gguf import GGUFReader

    values: NDArray[np.generic] = {found.name: found.data for found in GGUFReader(path, "r+").tensors}[tensor]
    return values


def _in_safetensors(path: Path, tensor: str) -> NDArray[np.generic]:
    """The tensor's values; what is written to them is written to the file."""
    with path.open("rb") as file:
        # Eight bytes with the header's length, the header, then the tensors.
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(length))[tensor]
    dtype = {"F32": np.float32, "F16": np.float16}[about["dtype"]]
    return np.memmap(path, dtype, "r+", offset=8 + length + about["data_offsets"][0], shape=tuple(about["shape"]))
