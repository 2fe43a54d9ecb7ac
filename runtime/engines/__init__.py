"""The engines, by name."""

from __future__ import annotations

from flagrelease.errors import UnknownNameError
from runtime.engines.flagscale import Flagscale
from runtime.engines.interface import Engine
from runtime.engines.llama_cpp import LlamaCpp
from runtime.engines.torch_reference import TorchReference
from runtime.engines.vllm import Vllm

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (LlamaCpp(), Vllm(), Flagscale(), TorchReference())}


def engine(name: str) -> Engine:
    """The engine with this name; raises UnknownNameError."""
    if name not in ENGINES:
        raise UnknownNameError(
            f"there is no engine `{name}` in this version", remedy=f"the engines are: {', '.join(ENGINES)}"
        )
    return ENGINES[name]
