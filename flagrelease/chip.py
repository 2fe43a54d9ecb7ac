"""Parts of a chip's description: how its management tool is read, and what FlagScale calls it."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, model_validator

from flagrelease.entry import Entry


class SmiQuery(Entry):
    """How the management tool is asked, and where its answer holds what a release needs to know."""

    arguments: list[str] = Field(default_factory=list, description="of the tool; it must end by itself")
    driver: str | None = Field(
        default=None, description="regular expression whose group `version` is the driver's version"
    )
    device: str = Field(
        description="regular expression that is found once for each device; groups `total`, and `used` or `free`: its "
        "memory in MiB, or in the unit that a group `<name>_unit` gives"
    )

    @model_validator(mode="after")
    def _groups(self) -> Self:
        for expression, wanted in ((self.driver, [{"version"}]), (self.device, [{"total", "used"}, {"total", "free"}])):
            try:
                names = set(re.compile(expression, re.MULTILINE).groupindex) if expression else {"version"}
            except re.error as error:
                msg = f"`{expression}` is not a regular expression: {error}"
                raise ValueError(msg) from None
            if not any(names >= groups for groups in wanted):
                asked = " or ".join(" and ".join(f"(?P<{name}>…)" for name in sorted(groups)) for groups in wanted)
                msg = f"`{expression}` lacks the group {asked}"
                raise ValueError(msg)
        return self


class Flagscale(Entry):
    """What FlagScale and its plugin of vLLM call the chip."""

    hardware: str | None = Field(
        default=None, description="its folder in FlagScale's hardware/, from which it is patched"
    )
    plugin: str | None = Field(default=None, description="its file in vllm-plugin-FL's config/, without .yaml")
