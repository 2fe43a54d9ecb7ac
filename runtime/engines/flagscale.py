"""FlagScale, in an image that has it: its launcher starts vLLM from a serve.yaml that is rendered here.

Where it puts log and process id, and what becomes of the values of serve.yaml, is as in flag-scale 0.8.0
(`runner/runner_serve.py`, `serve/run_inference_engine.py`). What its runner exports (`experiment.envs`) it writes into
a shell script unquoted, so variables are the container's instead: the runner passes them on.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, StringConstraints, model_validator

from flagrelease.errors import MatrixError, PreflightError
from runtime.engines.interface import Capability, ServerCommand, ServeRequest, WeightsFormat
from runtime.engines.vllm import VllmSettings, environment, options

SCRIPT = Path(__file__).with_name("flagscale_server.sh")
FOLDER = "/tmp/flagrelease"  # noqa: S108 - in a container; FlagScale's shell reads the name unquoted
LOOK_EVERY_S = 1.0
_SAID_ELSEWHERE = frozenset({"model", "host", "port", "served_model_name", "enable_auto_tool_choice"})

OptionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class FlagscaleSettings(VllmSettings):
    """Settings of vLLM, as FlagScale starts it."""

    engine_args: dict[OptionName, bool | int | float | str] = Field(
        default_factory=dict,
        description="further options of vLLM, by their names in serve.yaml: true is one without a value, false leaves "
        "it out, JSON is a string",
    )

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        twice = sorted(self.engine_args.keys() & (_SAID_ELSEWHERE | VllmSettings.model_fields.keys()))
        if twice:
            msg = f"not under engine_args, as the cell or the engine's other settings say it: {', '.join(twice)}"
            raise ValueError(msg)
        return self


class Flagscale:
    """vLLM through FlagScale's launcher, in a container."""

    name = "flagscale"
    display = "FlagScale"
    package = "flag-scale"
    capabilities: frozenset[Capability] = frozenset({"generate", "stream", "prompt_logprobs"})

    def settings(self, raw: Mapping[str, Any]) -> FlagscaleSettings:
        """Validate a cell's settings."""
        return FlagscaleSettings.model_validate(raw)

    def weights_format(self, raw: Mapping[str, Any]) -> WeightsFormat:  # noqa: ARG002 - the same for all settings
        """A Hugging Face checkpoint."""
        return "safetensors"

    def version(self) -> str:
        """None: FlagScale is an image's, not this host's; raises PreflightError."""
        raise _image_only()

    def command(self, request: ServeRequest, raw: Mapping[str, Any]) -> ServerCommand:
        """A shell that writes serve.yaml, calls `flagscale serve`, and lives as long as the server that it starts.

        Raises PreflightError outside a container, and MatrixError for what a serve.yaml cannot hold.
        """
        if not request.inside:
            raise _image_only()
        settings = self.settings(raw)
        configuration = serve_yaml(request, settings)
        path = f"{FOLDER}/serve.yaml"
        return ServerCommand(
            # An argument is never read as shell.
            ["sh", "-c", SCRIPT.read_text(), "-", FOLDER, request.served_name, configuration, f"{LOOK_EVERY_S:g}"],
            environment(request, settings),
            [
                f"mkdir -p {FOLDER}",
                f"cat > {path} <<'YAML'",
                # Every line but the top keys is indented, so none is the last line's word.
                *configuration.removesuffix("\n").split("\n"),
                "YAML",
                f"flagscale serve {shlex.quote(request.served_name)} {path}",
            ],
        )


def serve_yaml(request: ServeRequest, settings: FlagscaleSettings) -> str:
    """The serve.yaml of one vLLM on this host; raises MatrixError where a value would become another one."""
    arguments = {"model": str(request.model_path), **options(request, settings), **settings.engine_args}
    for name, value in arguments.items():
        if "${" in str(value):
            raise MatrixError(
                f"FlagScale would put something else in the place of `${{…}}` in {name}: {value}",
                remedy="give it a value without `${` (matrix.yaml)",
            )
    configuration = {
        "experiment": {
            "exp_name": "flagrelease",
            "exp_dir": FOLDER,
            "task": {"type": "serve"},
            # Without Ray: one process of vLLM, which starts its own workers.
            "runner": {"hostfile": None, "nproc_per_node": 1, "deploy": {"use_fs_serve": False}},
        },
        "action": "run",
        "serve": [{"serve_id": "vllm_model", "engine": "vllm", "engine_args": arguments}],
        "hydra": {"run": {"dir": f"{FOLDER}/hydra"}},
    }
    return yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True, width=10_000)


def _image_only() -> PreflightError:
    return PreflightError(
        "FlagScale is served from an image, not from this host",
        remedy="give the cell `launcher: container` (matrix.yaml), or use another engine (--engine)",
    )
