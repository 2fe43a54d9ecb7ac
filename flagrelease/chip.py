"""What a chip is: what a release needs to know of its hosts, containers and engines.

`runtime/chips/<chip>.yaml` is read into these models by `flagrelease.loading`.
"""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from flagrelease.entry import Entry, Key


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


class Chip(Entry):
    """An accelerator family, from `runtime/chips/<chip>.yaml`."""

    key: Key
    vendor: str
    display: str = Field(description="as cards print it, for example Metax")
    aliases: list[str] = Field(default_factory=list)
    devices: list[str] = Field(default_factory=list, description="device files that must exist on a host")
    device_files: str | None = Field(
        default=None, description="a container gets one for each device: {} is its number, from 0 on"
    )
    host_devices: int = Field(default=8, ge=1, description="devices of a usual host")
    looks_like: list[Key] = Field(
        default_factory=list, description="chips whose tools its hosts have as well, so look for this one first"
    )
    smi: str | None = Field(default=None, description="the vendor's management tool")
    smi_query: SmiQuery | None = None
    visible_devices: str | None = Field(default=None, description="environment variable that selects devices")
    base_image: str | None = Field(
        default=None, description="what the chip's images are built from: toolkit, Python, torch; at best by digest"
    )
    options: list[str] = Field(
        default_factory=list,
        description="docker run options of a container that serves on the chip, as in a cell's container",
    )
    not_mounted: list[str] = Field(
        default_factory=list, description="folders of the host that would hide what the image brings itself"
    )
    torch_device: str | None = Field(default=None, description="as torch calls its devices, for example npu")
    flavour: str | None = Field(
        default=None, description="distribution that brings vLLM to the vendor's own kernels, for example vllm-ascend"
    )
    flaggems_vendor: str | None = Field(default=None, description="value of GEMS_VENDOR")
    flagscale: Flagscale = Flagscale()
    marks: list[str] = Field(
        default_factory=list, description="what in a start command is this chip's alone: files, mounts, variables"
    )
    drivers: list[str] = Field(
        default_factory=list, description="regular expressions for whole versions of the driver that have been seen"
    )
    sdk: list[str] = Field(default_factory=list, description="words for its software in names of images, lower case")
    unconfirmed: list[str] = Field(
        default_factory=list, description="keys of this file whose values no published command or document confirms"
    )
    slots: int = Field(default=1, ge=1, description="cells that run at once on all hosts of the chip together")

    @property
    def names(self) -> set[str]:
        """All that the chip is called, in small letters."""
        return {name.casefold() for name in (self.key, self.display, *self.aliases)}

    @property
    def container_options(self) -> list[str]:
        """`docker run` options of a container that serves on a usual host of the chip, with all of its devices."""
        numbers = range(self.host_devices) if self.device_files else ()
        files = [str(self.device_files).replace("{}", str(number)) for number in numbers]
        return ["--detach", *self.options, *(f"--device={file}" for file in files)]

    @field_validator("drivers")
    @classmethod
    def _drivers_are_expressions(cls, value: list[str]) -> list[str]:
        for expression in value:
            try:
                re.compile(expression)
            except re.error as error:
                msg = f"`{expression}` is not a regular expression: {error}"
                raise ValueError(msg) from None
        return value

    @model_validator(mode="after")
    def _unconfirmed_names_keys(self) -> Self:
        for key in self.unconfirmed:
            if key not in type(self).model_fields:
                msg = f"unconfirmed: a chip has no key `{key}`"
                raise ValueError(msg)
        return self
