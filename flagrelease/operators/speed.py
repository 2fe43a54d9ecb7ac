"""How long an operator takes on a device, and torch's own kernel with the same inputs.

FlagGems' functions are called by name and none is registered with torch, so that torch's operator is the native kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

_LONGEST = 300
Line = Mapping[str, Any]


class Asked(Protocol):
    """What is needed of a `reference.Question`."""

    @property
    def call(self) -> Callable[..., Any]:
        """Called with FlagGems' function and the inputs."""

    @property
    def native(self) -> Callable[..., Any]:
        """Called with the inputs."""

    @property
    def changed(self) -> tuple[int, ...]:
        """Which inputs FlagGems' function writes over."""


Bench = Callable[..., float]
"""`triton.testing.do_bench`, or what stands in for it."""


def timed(question: Asked, function: Callable[..., Any], inputs: Sequence[Any], bench: Bench) -> dict[str, Any]:
    """Medians of both in milliseconds, as `native_ms` and `flaggems_ms`; or `no_speed`, which says why there are none.

    FlagGems' function must have run before with inputs of these sizes, so that it is compiled and tuned.
    """
    restored = _Restored([inputs[at] for at in question.changed])
    try:
        native = bench(lambda: question.native(*inputs), return_mode="median")
        ours = bench(lambda: question.call(function, *inputs), return_mode="median", grad_to_none=[restored])
    except Exception as error:
        # No verdict: memory for the timing, or torch has no kernel of this type on this device.
        return {"no_speed": said(error)}
    if not (native > 0 and ours > 0):
        return {"no_speed": f"the device's clock says {native} ms and {ours} ms"}
    return {"native_ms": native, "flaggems_ms": ours}


def said(error: Exception) -> str:
    """An error's kind and message in one line, for a line of results."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]


class _Restored:
    """Inputs that get back what they held, whenever the attribute `grad` is set.

    That is what `do_bench` does before each repetition, outside of what it times, with what stands in `grad_to_none`.
    """

    def __init__(self, tensors: Sequence[Any]) -> None:
        self._kept = [(tensor, tensor.clone()) for tensor in tensors]

    @property
    def grad(self) -> None:
        """Nothing: it is only set."""
        return None

    @grad.setter
    def grad(self, _: None) -> None:
        for tensor, kept in self._kept:
            tensor.copy_(kept)


def ratio(lines: Sequence[Line]) -> float | None:
    """Native kernel's time over FlagGems', above 1 where FlagGems is faster: the geometric mean over lines of cases.

    None where no line has times.
    """
    logarithms = [math.log(line["native_ms"] / line["flaggems_ms"]) for line in lines if "native_ms" in line]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None
