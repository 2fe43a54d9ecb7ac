"""An engine: what serves a model behind the OpenAI-compatible API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

Capability = Literal["generate", "prompt_logprobs", "next_token_logprobs"]
WeightsFormat = Literal["gguf", "gguf-float16", "safetensors"]


class EngineSettings(BaseModel):
    """Settings that every engine has. Each engine adds its own; unknown ones are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=1, ge=1, le=1024, description="requests in flight while evaluating")
    ready_timeout_s: float = Field(default=600, gt=0, description="how long loading may take")


class ServeRequest(NamedTuple):
    """What is to be served, and where."""

    model_path: Path
    served_name: str
    host: str
    port: int


class ServerCommand(NamedTuple):
    """How a server is started: argument list (never a shell line) and added environment."""

    argv: list[str]
    environment: Mapping[str, str]


class Engine(Protocol):
    """One serving engine. Adding one is a new file here and a line in `runtime.engines`."""

    name: str
    display: str
    capabilities: frozenset[Capability]

    def settings(self, raw: Mapping[str, Any]) -> EngineSettings:
        """Validate a cell's settings for this engine; raises pydantic.ValidationError."""
        ...

    def weights_format(self, raw: Mapping[str, Any]) -> WeightsFormat:
        """In which form the engine reads the model with a cell's settings."""
        ...

    def version(self) -> str:
        """Version of the installed engine; raises PreflightError saying how to install it."""
        ...

    def command(self, request: ServeRequest, raw: Mapping[str, Any]) -> ServerCommand:
        """The command that serves with a cell's settings for this engine."""
        ...
