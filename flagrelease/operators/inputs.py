"""The inputs of a case, as tensors; the same on every machine and device."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from flagrelease.operators.cases import Case

LARGE = {"float16": 1e4, "bfloat16": 1e15, "float32": 1e15}
"""Squares of these overflow float16, and their sums do not overflow float32."""


class Maker:
    """Makes tensors of a case: on the CPU, from a seed of the operator's and the case's name, then moved."""

    def __init__(self, operator: str, case: Case, device: str) -> None:
        seed = hashlib.sha256(f"{operator} {case.name}".encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(seed[:7]))
        self._device = device
        self.case = case
        self.dtype = getattr(torch, case.dtype)

    def size(self, *names: str) -> tuple[int, ...]:
        """Sizes of the case by name."""
        return tuple(self.case.sizes[name] for name in names)

    def tensor(self, *shape: int, values: str | None = None) -> Any:
        """Numbers of the case's type, values and layout; `values` where they are not the case's own."""
        numbers = self._numbers(shape, values or self.case.values).to(self.dtype)
        if self.case.layout == "strided" and shape:
            wide = torch.zeros((*shape[:-1], 2 * shape[-1]), dtype=self.dtype, device=self._device)
            wide[..., ::2] = numbers.to(self._device)
            return wide[..., ::2]
        return numbers.to(self._device)

    def whole(self, *shape: int, below: int, dtype: str = "int64") -> Any:
        """Whole numbers from 0."""
        found = torch.randint(0, max(below, 1), shape, generator=self._generator)
        return found.to(self._device, getattr(torch, dtype))

    def truth(self, *shape: int) -> Any:
        """Truth values, half of them true."""
        return (torch.rand(shape, generator=self._generator) < 0.5).to(self._device)  # noqa: PLR2004

    def empty(self, *shape: int, dtype: str | None = None) -> Any:
        """Room for a result; of the case's type unless said. Filled, so that what is not written shows."""
        kind = getattr(torch, dtype) if dtype else self.dtype
        return torch.full(shape, float("nan") if kind.is_floating_point else -1, dtype=kind, device=self._device)

    def _numbers(self, shape: tuple[int, ...], values: str) -> Any:
        normal = torch.randn(shape, generator=self._generator, dtype=torch.float64)
        uniform = torch.rand(shape, generator=self._generator, dtype=torch.float64) + 0.5
        match values:
            case "positive":
                return uniform
            case "equal":
                return torch.full(shape, 0.5, dtype=torch.float64)
            case "large":
                return uniform * LARGE[self.case.dtype]
            case "small":
                # The squares are as large as the epsilon of a normalisation.
                return normal * self.case.epsilon**0.5
            case "masked":
                normal[..., 1::2] = float("-inf")
            case "nan":
                normal.view(-1)[:1] = float("nan")
            case "infinite":
                normal.view(-1)[:2] = torch.tensor([float("inf"), float("-inf")], dtype=torch.float64)
        return normal
