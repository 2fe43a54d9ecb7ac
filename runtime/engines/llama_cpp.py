"""llama.cpp's server, as the package xllamacpp carries it: light, GGUF, log-probabilities of the next token only."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flagrelease.errors import PreflightError
from runtime.engines.interface import (
    IMAGE_HOME,
    Capability,
    EngineSettings,
    ServerCommand,
    ServeRequest,
    WeightsFormat,
)

SERVER = Path(__file__).with_name("llama_cpp_server.py")
SERVER_INSIDE = f"{IMAGE_HOME}/{SERVER.name}"


class LlamaCppSettings(EngineSettings):
    """Settings of llama.cpp's server."""

    # As many spinning threads as cores collapse as soon as anything else runs on the machine.
    threads: int = Field(default=1, ge=1)
    context: int = Field(default=2048, ge=128, description="tokens of one request, prompt and answer")
    weights: Literal["as_is", "float16"] = Field(default="as_is", description="form of the matrices")


class LlamaCpp:
    """llama.cpp through xllamacpp."""

    name = "llama_cpp"
    display = "llama.cpp (xllamacpp)"
    package = "xllamacpp"
    capabilities: frozenset[Capability] = frozenset({"generate", "stream", "next_token_logprobs"})

    def settings(self, raw: Mapping[str, Any]) -> LlamaCppSettings:
        """Validate a cell's settings."""
        return LlamaCppSettings.model_validate(raw)

    def weights_format(self, raw: Mapping[str, Any]) -> WeightsFormat:
        """The GGUF file itself, or with float16 matrices."""
        return "gguf-float16" if self.settings(raw).weights == "float16" else "gguf"

    def version(self) -> str:
        """Version of xllamacpp."""
        try:
            return version("xllamacpp")
        except PackageNotFoundError as error:
            raise PreflightError(
                "the engine llama_cpp needs the package xllamacpp", remedy='pip install "flagrelease[llama-cpp]"'
            ) from error

    def command(self, request: ServeRequest, raw: Mapping[str, Any]) -> ServerCommand:
        """A Python process that holds llama.cpp's server; it has nothing that a stack could change."""
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
        program = ["python3", SERVER_INSIDE] if request.inside else [sys.executable, str(SERVER)]
        argv = [*program, *(f"--{name}={value}" for name, value in options.items())]
        return ServerCommand(argv, {})
