"""vLLM, from an environment of its own (its pins are its own), on a CPU or an accelerator."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flagrelease.errors import PreflightError
from flagrelease.secrets import child_environment
from flagrelease.settings import settings as host_settings
from runtime.engines.flagos import FlagosSettings, variables
from runtime.engines.interface import Capability, ServerCommand, ServeRequest, WeightsFormat

OWN_ENVIRONMENT = Path(".venv-vllm/bin/vllm")
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class VllmSettings(FlagosSettings):
    """Settings of `vllm serve`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(default=None, ge=128, description="tokens of one request")
    tensor_parallel_size: int = Field(default=1, ge=1)
    seed: int = 1234
    tool_call_parser: str | None = Field(
        default=None, description="vLLM's parser of the model's tool calls, such as hermes; none: tools are refused"
    )
    cpu: bool = Field(default=False, description="run on the processor: eager, its own threads and cache size")
    threads: int = Field(default=1, ge=1, description="on a CPU")
    kv_cache_gib: int = Field(default=1, ge=1, description="on a CPU")


class Vllm:
    """vLLM's OpenAI-compatible server."""

    name = "vllm"
    display = "vLLM"
    package = "vllm"
    capabilities: frozenset[Capability] = frozenset({"generate", "stream", "prompt_logprobs"})

    def settings(self, raw: Mapping[str, Any]) -> VllmSettings:
        """Validate a cell's settings."""
        return VllmSettings.model_validate(raw)

    def weights_format(self, raw: Mapping[str, Any]) -> WeightsFormat:  # noqa: ARG002 - the same for all settings
        """A Hugging Face checkpoint."""
        return "safetensors"

    def version(self) -> str:
        """Version of vLLM in its environment."""
        return _version(executable())

    def command(self, request: ServeRequest, raw: Mapping[str, Any]) -> ServerCommand:
        """`vllm serve` with the tokenizer endpoint that log-likelihood tasks need."""
        settings = self.settings(raw)
        program = "vllm" if request.inside else str(executable())
        argv = [program, "serve", str(request.model_path), *_typed(options(request, settings))]
        return ServerCommand(argv, environment(request, settings))


def options(request: ServeRequest, settings: VllmSettings) -> dict[str, str | int | bool]:
    """What vLLM is told, by the names of its settings; true is an option without a value."""
    found: dict[str, str | int | bool] = {
        "host": request.host,
        "port": request.port,
        "served_model_name": request.served_name,
        "dtype": settings.dtype,
        "seed": settings.seed,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enable_tokenizer_info_endpoint": True,
    }
    if settings.max_model_len is not None:
        found["max_model_len"] = settings.max_model_len
    if settings.tool_call_parser is not None:
        found |= {"enable_auto_tool_choice": True, "tool_call_parser": settings.tool_call_parser}
    if settings.cpu:
        # Compiling for a CPU takes minutes and changes the arithmetic with the batch.
        found["enforce_eager"] = True
    return found


def environment(request: ServeRequest, settings: VllmSettings) -> dict[str, str]:
    """What vLLM's environment says: no word to the outside, the CPU's shares, the stack."""
    found = dict(QUIET)
    if settings.cpu:
        found |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.threads),
        }
    return found | variables(request.stack, settings, inside=request.inside)


def _typed(values: Mapping[str, str | int | bool]) -> list[str]:
    words = ((f"--{name.replace('_', '-')}", value) for name, value in values.items())
    return [word if value is True else f"{word}={value}" for word, value in words]


def executable() -> Path:
    """The vllm command of this host; raises PreflightError saying how to get it."""
    chosen = host_settings().vllm
    if chosen is None and OWN_ENVIRONMENT.exists():
        chosen = OWN_ENVIRONMENT
    if chosen is None and (on_path := shutil.which("vllm")):
        chosen = Path(on_path)
    if chosen is None or not chosen.exists():
        raise PreflightError(
            f"vLLM is not there: {chosen}" if chosen else "vLLM is not installed",
            remedy='in a checkout: make vllm (CPU); on a GPU host: pip install "flagrelease[vllm]"; '
            "or set FLAGRELEASE_VLLM to the vllm command",
        )
    return chosen.absolute()


@cache
def _version(executable: Path) -> str:
    # A command that was linked onto PATH lies beside its environment's Python.
    python = executable.resolve().with_name("python")
    code = "from importlib.metadata import version; print(version('vllm'))"
    try:
        answer = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=True, env=child_environment()
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise PreflightError(
            f"the version of {executable} cannot be read from {python}: {error}",
            remedy="set FLAGRELEASE_VLLM to the vllm command inside its environment, or install it again: make vllm",
        ) from error
    return answer.stdout.strip()
