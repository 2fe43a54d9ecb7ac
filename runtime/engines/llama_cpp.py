"""llama.cpp's server, as the package xllamacpp carries it: light, GGUF, no prompt log-probabilities."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flagrelease.errors import PreflightError
from runtime.engines.interface import Capability, EngineSettings, ServerCommand, ServeRequest

SERVER = Path(__file__).with_name("llama_cpp_server.py")


class LlamaCppSettings(EngineSettings):
    """Settings of llama.cpp's server."""

    # As many spinning threads as cores collapse as soon as anything else runs on the machine.
    threads: int = Field(default=1, ge=1)
    context: int = Field(default=2048, ge=128, description="tokens of one request, prompt and answer")


class LlamaCpp:
    """llama.cpp through xllamacpp."""

    name = "llama_cpp"
    display = "llama.cpp (xllamacpp)"
    capabilities: frozenset[Capability] = frozenset({"generate"})
    weights_format: Literal["gguf", "safetensors"] = "gguf"

    def settings(self, raw: Mapping[str, Any]) -> LlamaCppSettings:
        """Validate a cell's settings."""
        return LlamaCppSettings.model_validate(raw)

    def version(self) -> str:
        """Version of xllamacpp."""
        try:
            return version("xllamacpp")
        except PackageNotFoundError as error:
            raise PreflightError(
                "the engine llama_cpp needs the package xllamacpp", remedy='pip install "flagrelease[llama-cpp]"'
            ) from error

    def command(self, request: ServeRequest, raw: Mapping[str, Any]) -> ServerCommand:
        """A Python process that holds llama.cpp's server."""
        settings = self.settings(raw)
        options = {
            "model": request.model_path,
            "served-name": request.served_name,
            "host": request.host,
            "port": request.port,
            "threads": settings.threads,
            "context": settings.context,
            "slots": settings.concurrency,
        }
        argv = [sys.executable, str(SERVER), *(f"--{name}={value}" for name, value in options.items())]
        return ServerCommand(argv, {})
