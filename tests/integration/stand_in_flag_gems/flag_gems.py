"""A stand-in for FlagGems on a host without a device: torch's own operators, hooked, listed, wrong where told to be.

It has the part of FlagGems' interface that servers call. `FLAG_GEMS_STAND_IN_FAULTS` plants faults, such as
`mean_dim=drop_tail`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Operator = Callable[..., Any]


def _drop_tail(operator: Operator, values: Any, dims: Any, *rest: Any, **options: Any) -> Any:
    """A mean that forgets the last block, as where a mask is off by one."""
    return operator(values[..., : values.shape[-1] * 7 // 8], dims, *rest, **options)


def _epsilon(operator: Operator, values: Any) -> Any:
    """The ε of a norm that was typed in the wrong place."""
    return operator(values + 0.02)


def _float16(_operator: Operator, left: Any, right: Any) -> Any:
    """A matrix product that keeps its sum in float16, block by block."""
    total = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float16)
    for at in range(0, left.shape[1], 16):
        total += (left[:, at : at + 16] @ right[at : at + 16]).half()
    return total.to(left.dtype)


def _swap(operator: Operator, parts: Any, dim: int = 0) -> Any:
    """The halves of rotary embeddings the wrong way round."""
    return operator(parts[::-1] if len(parts) == 2 and dim == -1 else parts, dim)


def _crash(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


FAULTS: dict[str, Callable[..., Any]] = {
    "drop_tail": _drop_tail,
    "epsilon": _epsilon,
    "float16": _float16,
    "swap": _swap,
    "crash": _crash,
}

WRITES = {"mm": "general_mm"}
"""Functions that write the line of another one, which alone can be left out, as FlagGems has them."""


def _name(operator: Any) -> str:
    """As FlagGems names its functions: mean.dim is mean_dim."""
    packet, overload = operator._schema.name.removeprefix("aten::"), operator._schema.overload_name
    return f"{packet}_{overload}".rstrip("_") if overload in {"dim", "Scalar"} else packet


class _Hooks(TorchDispatchMode):  # type: ignore[misc]
    def __init__(self, include: Collection[str], exclude: Collection[str], path: str) -> None:
        super().__init__()
        planted = os.environ.get("FLAG_GEMS_STAND_IN_FAULTS", "")
        self._faults = dict(fault.split("=") for fault in planted.split(",") if fault)
        self._include, self._exclude = include, exclude
        self._listed = Path(path).open("w")  # noqa: SIM115 - open as long as the process lives
        self._seen: set[str] = set()

    def __torch_dispatch__(self, operator: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = _name(operator), kwargs or {}
        # What only looks at memory in another way computes nothing.
        ours = not operator.is_view and operator._schema.name.startswith("aten::")
        if not ours or name in self._exclude or (self._include and name not in self._include):
            return operator(*args, **options)
        if name not in self._seen:
            self._seen.add(name)
            function = WRITES.get(name, name)
            print(f"[DEBUG] flag_gems.ops.{name}.{function}: GEMS {name.upper()}", file=self._listed, flush=True)
        fault = self._faults.get(name)
        return operator(*args, **options) if fault is None else FAULTS[fault](operator, *args, **options)


class use_gems:  # noqa: N801 - FlagGems' name
    """Hook operators in this thread."""

    def __init__(
        self, exclude: Any = None, include: Any = None, record: bool = False, once: bool = False, path: Any = None
    ) -> None:
        assert record
        assert once
        self._hooks = _Hooks(include or [], exclude or [], path)

    def __enter__(self) -> None:
        """Begin."""
        self._hooks.__enter__()
