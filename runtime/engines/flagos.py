"""The stack as variables of a server: whether FlagGems' operators run, which of them, and where they are listed.

Who reads them: vLLM as FlagScale patches it reads USE_FLAGGEMS alone, and writes its list where it likes;
vllm-plugin-FL reads them all, and is loaded where VLLM_PLUGINS names it. A server that has them and answers has not
shown that FlagGems ran: its list does (`runtime.operators`).
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from flagrelease.records import Stack
from runtime.engines.interface import EngineSettings
from runtime.operators import WRITTEN

Operator = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]+$")]


class OperatorLists(EngineSettings):
    """Settings that say which operators of FlagGems run; on the stack `native` they say nothing."""

    operators: list[Operator] = Field(default_factory=list, description="the only functions of FlagGems that run")
    without_operators: list[Operator] = Field(
        default_factory=list,
        description="functions of FlagGems that do not run, instead of FlagGems' or the plugin's own list for the chip",
    )

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if self.operators and self.without_operators:
            msg = "`operators` and `without_operators` exclude each other: a server takes one of them"
            raise ValueError(msg)
        return self


class FlagosSettings(OperatorLists):
    """Settings of engines that run FlagGems through FlagScale's patches or through vllm-plugin-FL."""

    plugin: bool = Field(
        default=False,
        description="serve through vllm-plugin-FL, which the image must have; lists of operators need it",
    )

    @model_validator(mode="after")
    def _a_list_that_is_read(self) -> Self:
        if (self.operators or self.without_operators) and not self.plugin:
            msg = "lists of operators need `plugin: true`: vLLM as FlagScale patches it reads none"
            raise ValueError(msg)
        return self


def variables(stack: Stack, settings: FlagosSettings, *, inside: bool) -> dict[str, str]:
    """What a server's environment says of the stack; `inside`: in a container, whose image may say something else."""
    if stack is Stack.NATIVE:
        # VLLM_PLUGINS stays as it is: an empty one would also turn off the plugin by which a vendor's chip is known.
        return {"USE_FLAGGEMS": "0", "VLLM_FL_PREFER_ENABLED": "0"} if inside else {}
    found = {"USE_FLAGGEMS": "1", "FLAGGEMS_ENABLE_OPLIST_PATH": WRITTEN}
    if settings.plugin:
        found |= {"VLLM_PLUGINS": "fl", "VLLM_FL_PREFER_ENABLED": "1"}
    if settings.operators:
        found["VLLM_FL_FLAGOS_WHITELIST"] = ",".join(settings.operators)
    if settings.without_operators:
        found["VLLM_FL_FLAGOS_BLACKLIST"] = ",".join(settings.without_operators)
    return found
