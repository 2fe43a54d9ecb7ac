"""An engine: what serves a model behind the OpenAI-compatible API."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from flagrelease.records import Stack

Capability = Literal["generate", "stream", "prompt_logprobs", "next_token_logprobs"]
WeightsFormat = Literal["gguf", "gguf-float16", "safetensors"]


IMAGE_HOME = "/opt/flagrelease"
"""Where an image holds what FlagRelease adds to its base."""


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
    stack: Stack = Stack.NATIVE
    inside: bool = False
    """Whether the server runs in a container of the cell's image: with its programs, not with those of this host."""


class ServerCommand(NamedTuple):
    """How a server is started: argument list (never a shell line) and added environment."""

    argv: list[str]
    environment: Mapping[str, str]
    typed: Sequence[str] = ()
    """Lines that start the same in a shell; none: the argument list does."""

    @property
    def lines(self) -> list[str]:
        """What a person types into a shell that has the environment."""
        return list(self.typed) or [shlex.join(self.argv)]


class Engine(Protocol):
    """One serving engine. Adding one is a new file here and a line in `runtime.engines`."""

    name: str
    display: str
    package: str
    """The Python package that serves, by which an image's inventory knows its version."""
    capabilities: frozenset[Capability]

    def settings(self, raw: Mapping[str, Any]) -> EngineSettings:
        """Validate a cell's settings for this engine; raises pydantic.ValidationError."""
        ...

    def weights_format(self, raw: Mapping[str, Any]) -> WeightsFormat:
        """In which form the engine reads the model with a cell's settings."""
        ...

    def version(self) -> str:
        """Version of the engine that is installed on this host; raises PreflightError saying how to install it."""
        ...

    def command(self, request: ServeRequest, raw: Mapping[str, Any]) -> ServerCommand:
        """The command that serves with a cell's settings for this engine."""
        ...
