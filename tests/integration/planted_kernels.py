"""Triton kernels under FlagGems' names, sound or with one fault planted: PLANTED_FAULT names it.

Read by the process that asks operators, in an environment that has torch and Triton.
"""

# ruff: noqa: PLR0917, ARG001 - kernels are called by position, functions as FlagGems' are

from __future__ import annotations

import os
from typing import Any

import torch
import triton
import triton.language as tl

FAULT = os.environ.get("PLANTED_FAULT", "")
BLOCK = 64


def _sum_rows(x: Any, out: Any, columns: Any, read: Any, block: tl.constexpr) -> None:
    row = tl.program_id(0)
    total = tl.zeros((block,), dtype=tl.float32)
    for start in range(0, read, block):
        offsets = start + tl.arange(0, block)
        total += tl.load(x + row * columns + offsets, mask=offsets < read, other=0.0).to(tl.float32)
    tl.store(out + row, tl.sum(total))


def _rms_rows(x: Any, weight: Any, out: Any, columns: Any, epsilon: Any, block: tl.constexpr) -> None:
    row = tl.program_id(0)
    offsets = tl.arange(0, block)
    mask = offsets < columns
    values = tl.load(x + row * columns + offsets, mask=mask, other=0.0).to(tl.float32)
    scale = tl.load(weight + offsets, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values * values) / columns
    tl.store(out + row * columns + offsets, values / tl.sqrt(mean + epsilon) * scale, mask=mask)


def _product(a: Any, b: Any, out: Any, m: Any, n: Any, k: Any, narrow: tl.constexpr, block: tl.constexpr) -> None:
    rows = tl.program_id(0) * block + tl.arange(0, block)[:, None]
    columns = tl.program_id(1) * block + tl.arange(0, block)[None, :]
    total = tl.zeros((block, block), dtype=tl.float16 if narrow else tl.float32)
    for start in range(0, k, block):
        left = start + tl.arange(0, block)[None, :]
        right = start + tl.arange(0, block)[:, None]
        first = tl.load(a + rows * k + left, mask=(rows < m) & (left < k), other=0.0)
        second = tl.load(b + right * n + columns, mask=(right < k) & (columns < n), other=0.0)
        total += tl.dot(first, second).to(total.dtype)
    tl.store(out + rows * n + columns, total, mask=(rows < m) & (columns < n))


def _rotate(
    x: Any, cos: Any, sin: Any, where: Any, out: Any, heads: Any, half: Any, sign: Any, block: tl.constexpr
) -> None:
    token, head = tl.program_id(0), tl.program_id(1)
    offsets = tl.arange(0, block)
    mask = offsets < half
    place = tl.load(where + token)
    start = (token * heads + head) * 2 * half
    first = tl.load(x + start + offsets, mask=mask).to(tl.float32)
    second = tl.load(x + start + half + offsets, mask=mask).to(tl.float32)
    c = tl.load(cos + place * half + offsets, mask=mask).to(tl.float32)
    s = tl.load(sin + place * half + offsets, mask=mask).to(tl.float32) * sign
    tl.store(out + start + offsets, first * c - second * s, mask=mask)
    tl.store(out + start + half + offsets, second * c + first * s, mask=mask)


def sum_dim(x: Any, dim: Any, keepdim: bool) -> Any:
    """Planted: the last block, where it is not full, is not read."""
    x = x.contiguous()
    rows, columns = x.shape
    out = torch.empty((rows, 1), dtype=x.dtype)
    if rows:
        read = columns // BLOCK * BLOCK if FAULT == "tail" else columns
        triton.jit(_sum_rows)[(rows,)](x, out, columns, read, BLOCK)
    return out


def rms_norm(x: Any, shape: Any, weight: Any, epsilon: float) -> Any:
    """Planted: an epsilon ten times too small."""
    x = x.contiguous()
    rows, columns = x.shape
    out = torch.empty_like(x)
    if rows:
        used = epsilon / 10 if FAULT == "epsilon" else epsilon
        triton.jit(_rms_rows)[(rows,)](x, weight.contiguous(), out, columns, used, triton.next_power_of_2(columns))
    return out


def mm(a: Any, b: Any) -> Any:
    """Planted: float16 inputs are summed in float16."""
    a, b = a.contiguous(), b.contiguous()
    (m, k), n = a.shape, b.shape[1]
    out = torch.empty((m, n), dtype=a.dtype)
    if m:
        block = 32
        narrow = FAULT == "float16" and a.dtype == torch.float16
        triton.jit(_product)[(triton.cdiv(m, block), triton.cdiv(n, block))](a, b, out, m, n, k, narrow, block)
    return out


def apply_rotary_pos_emb(q: Any, k: Any, cos: Any, sin: Any, where: Any) -> Any:
    """Planted: the halves of a head change places, so that the angle turns the other way."""

    def rotate(x: Any) -> Any:
        out, half = torch.empty_like(x), x.shape[-1] // 2
        sign = -1.0 if FAULT == "halves" else 1.0
        block = triton.next_power_of_2(half)
        triton.jit(_rotate)[(x.shape[0], x.shape[1])](x, cos, sin, where, out, x.shape[1], half, sign, block)
        return out

    return rotate(q), rotate(k)


def add(x: Any, y: Any) -> Any:
    """Planted: the process dies of it, at the third call."""
    _calls.append(1)
    if FAULT == "crash" and len(_calls) == 3:
        os.abort()
    return x + y


_calls: list[int] = []


def mul(x: Any, y: Any) -> Any:
    """As operators that look for a device."""
    raise RuntimeError("tensors on a device are needed")
