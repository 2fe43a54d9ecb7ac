"""transformers on torch, with FlagGems where the stack says so: for hosts that have torch and nothing else.

Not for production: one request at a time, no batching, no paging. It is there so that a host with a device, torch and
FlagGems can serve native and flagos side by side for the canary, small evaluations and bisecting. Unlike vLLM as
FlagScale patches it, it runs every operator that FlagGems has and reads lists of them without a plugin.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flagrelease.errors import MatrixError, PreflightError
from flagrelease.records import Stack
from flagrelease.secrets import child_environment
from flagrelease.settings import settings as host_settings
from runtime.engines.flagos import OperatorLists
from runtime.engines.interface import Capability, ServerCommand, ServeRequest, WeightsFormat
from runtime.operators import WRITTEN

SERVER = Path(__file__).with_name("torch_reference_server.py")
OWN_ENVIRONMENT = Path(".venv-vllm/bin/python")
VERSIONS = """
from importlib.metadata import PackageNotFoundError, version
said = version("torch") + ", transformers " + version("transformers")
try:
    said += ", FlagGems " + version("flag_gems")
except PackageNotFoundError:
    pass
print(said)
"""
QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


class TorchReferenceSettings(OperatorLists):
    """Settings of the reference server on torch."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = Field(default="", description="torch's name of a device; by default the accelerator, else the CPU")
    attention: Literal["eager", "sdpa"] = Field(
        default="eager", description="eager: made of single operators, each of which can be looked at"
    )
    max_model_len: int = Field(default=2048, ge=128, description="tokens of one request")
    threads: int = Field(default=1, ge=1, description="on a CPU")


class TorchReference:
    """transformers on torch; not for production."""

    name = "torch_reference"
    display = "transformers on torch (reference, not for production)"
    package = "torch"
    capabilities: frozenset[Capability] = frozenset({"generate", "prompt_logprobs"})

    def settings(self, raw: Mapping[str, Any]) -> TorchReferenceSettings:
        """Validate a cell's settings."""
        return TorchReferenceSettings.model_validate(raw)

    def weights_format(self, raw: Mapping[str, Any]) -> WeightsFormat:  # noqa: ARG002 - the same for all settings
        """A Hugging Face checkpoint."""
        return "safetensors"

    def version(self) -> str:
        """Versions of torch and transformers, and of FlagGems where it is there."""
        return _version(python())

    def command(self, request: ServeRequest, raw: Mapping[str, Any]) -> ServerCommand:
        """A Python process that holds the model."""
        settings = self.settings(raw)
        options = {
            "model": request.model_path,
            "served-name": request.served_name,
            "host": request.host,
            "port": request.port,
            "dtype": settings.dtype,
            "attention": settings.attention,
            "threads": settings.threads,
            "max-model-len": settings.max_model_len,
            "device": settings.device,
        }
        if request.inside:
            raise MatrixError(
                f"{self.display} is served by a process of the host, not in a container",
                remedy="give the cell `launcher: process`, or another engine",
            )
        argv = [str(python()), str(SERVER), *(f"--{name}={value}" for name, value in options.items() if value != "")]
        if request.stack is Stack.NATIVE:
            return ServerCommand(argv, QUIET)
        lists = {"operators": settings.operators, "without-operators": settings.without_operators}
        argv += ["--gems", *(f"--{name}={','.join(names)}" for name, names in lists.items() if names)]
        return ServerCommand(argv, QUIET | {"FLAGGEMS_ENABLE_OPLIST_PATH": WRITTEN})


def python() -> Path:
    """The Python of this host that has torch and transformers; raises PreflightError saying how to get them."""
    chosen = host_settings().torch
    if chosen is None and find_spec("torch") and find_spec("transformers"):
        chosen = Path(sys.executable)
    if chosen is None and OWN_ENVIRONMENT.exists():
        chosen = OWN_ENVIRONMENT
    if chosen is None or not chosen.exists():
        raise PreflightError(
            f"there is no Python at {chosen}" if chosen else "torch and transformers are not installed",
            remedy="install both for the chip, beside FlagRelease or elsewhere; then set FLAGRELEASE_TORCH to the "
            "python that has them",
        )
    return chosen.absolute()


@cache
def _version(python: Path) -> str:
    try:
        answer = subprocess.run(
            [python, "-c", VERSIONS], capture_output=True, text=True, check=True, env=child_environment()
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise PreflightError(
            f"{python} has no torch, or no transformers: {error}",
            remedy="install both there, or set FLAGRELEASE_TORCH to the python that has them",
        ) from error
    return answer.stdout.strip()
