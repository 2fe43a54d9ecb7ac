"""The names that a card and its publication carry, generated in one place."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import Field

from flagrelease.chip import Chip
from flagrelease.matrix import Model, ResolvedCell
from flagrelease.records import Record, Stack

ORGANISATION = "FlagRelease"

_STACKS = {"flagos": Stack.FLAGOS, "native": Stack.NATIVE, "origin": Stack.NATIVE, "cuda": Stack.NATIVE}
_GPUS = re.compile(r"(?:[ahb]\d{2,3}|gb\d{3}|l40s?|h20|cuda)")
"""Words that name an NVIDIA GPU, or its stack."""

_VENDORS = {
    "nvidia": ("nv",),
    "metax": (),
    "ascend": ("huawei", "npu"),
    "hygon": (),
    "mthreads": ("moorethreads", "musa"),
    "iluvatar": ("corex",),
    "kunlunxin": (),
    "cambricon": (),
    "enflame": (),
    "tsingmicro": (),
    "sunrise": (),
    "zhenwu": ("thead",),
    "arm": (),
}
"""Accelerators that published names hold, by key; most of them have no chip file yet."""


class CardNames(Record):
    """Names of one cell's release. Each but `repository` can be set in the cell (`Cell.names`)."""

    release: str
    baseline_column: str
    candidate_column: str
    container_release: str

    @property
    def repository(self) -> str:
        """Where the release is published, on every hub: organisation/name."""
        return f"{ORGANISATION}/{self.release}"


class NameParts(Record):
    """What a published name says, for example `MiniCPM-V-4-FlagOS-metax`."""

    model: str = Field(description="as written, without chip and stack")
    model_key: str | None = Field(description="none: not in the matrix")
    chip: str | None = Field(description="as written")
    chip_key: str | None
    stack: Stack | None

    @property
    def cell(self) -> str | None:
        """Id of the cell that the name means, where both parts are known."""
        return f"{self.model_key}-{self.chip_key}" if self.model_key and self.chip_key else None


def understand(name: str, models: Mapping[str, Model], chips: Mapping[str, Chip]) -> NameParts:
    """The parts of the name of a release, a results column or a served model.

    Chip and stack stand behind the model in any order (`-metax-FlagOS`, `-FlagOS-metax`, `-H100-CUDA`, `-Metax`); a
    model that the matrix lacks keeps its name as written.
    """
    words = [word for word in re.split(r"[-\s]+", name.rstrip("/").rpartition("/")[2]) if word]
    chip: str | None = None
    key: str | None = None
    stack: Stack | None = None
    while len(words) > 1:
        word = words[-1]
        if word.casefold() in _STACKS:
            stack = stack or _STACKS[word.casefold()]
        elif chip_key(word, chips) is None:
            break
        if found := chip_key(word, chips):
            chip, key = word, found
        words.pop()
    model = "-".join(words)
    return NameParts(model=model, model_key=model_key(model, models), chip=chip, chip_key=key, stack=stack)


def chip_key(word: str, chips: Mapping[str, Chip]) -> str | None:
    """Key of the chip that `word` means: a chip's key, vendor or alias, in any case."""
    plain = _plain(word)
    for key, chip in chips.items():
        if plain in {_plain(each) for each in (key, chip.vendor, chip.display, *chip.aliases)}:
            return key
    for key, others in _VENDORS.items():
        if plain == key or plain in others:
            return key
    return "nvidia" if _GPUS.fullmatch(plain) else None


def model_key(name: str, models: Mapping[str, Model]) -> str | None:
    """Key of the model that `name` means: its key, its name on cards or its source repository, in any case."""
    plain = _plain(name)
    for key, model in models.items():
        repository = model.source.repository
        if plain in {_plain(each) for each in (key, model.display, repository, repository.rpartition("/")[2])}:
            return key
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).casefold()


def card_names(cell: ResolvedCell) -> CardNames:
    """Names of a cell: what the cell sets, else made of model, chip and stack.

    FlagOS stands in a name only where the FlagOS stack runs.
    """
    model, chip, own = cell.model.display, cell.chip, cell.cell.names
    stack = "FlagOS" if cell.cell.stack is Stack.FLAGOS else "native"
    return CardNames(
        release=own.release or f"{model}-{chip.key}-{stack}",
        baseline_column=own.baseline_column or f"{model}-{cell.model.reference.label}",
        candidate_column=own.candidate_column or f"{model}-{stack}-{chip.key}",
        container_release=own.container_release or f"{stack}-{chip.display}",
    )
