"""Which model a name on a card means, and whether two names can mean the same one.

Published names are written in many ways (`MiniCPM-o-4.5`, `MiniCPM_o-45`, `MiniCPMO45`), with chip, stack and number
format before or behind them. Two names are held to differ only where no such way of writing explains it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

ChipOf = Callable[[str], str | None]

_STACK_WORDS = frozenset({"flagos", "flagrelease", "origin", "native", "cuda", "baseline", "vllm"})
# How the same model is stored or asked, not which model it is.
_FORM = re.compile(
    r"(?:bf16|fp\d+|int\d+|w\d+a\d+|awq|gptq|gguf|hf|pt|paddle|it|instruct|chat|thinking|nothink|nomtp|mindie|preview"
    r"|latest|\d{4}|\d+k)"
)
_SIZE = re.compile(r"\d+(?:\.\d+)?[bt]")
_LETTERS = re.compile(r"[a-z]+")
_TELLING = 3
"""Letters from which a common begin of two names says that one abbreviates the other."""


def stem(name: str, chip_of: ChipOf) -> str:
    """The model's part of a name: lower case, words joined by `-`, without owner, chip, stack and reference."""
    last = name.rstrip("/").rpartition("/")[2].casefold()
    words = [word for word in re.split(r"[-_\s]+", last) if word]
    kept = [word for i, word in enumerate(words) if word not in _STACK_WORDS and (i == 0 or chip_of(word) is None)]
    return "-".join(kept)


def same_model(one: str, other: str) -> bool:
    """Whether two stems of full names mean the same model."""
    return bool(one and other) and _plain(one) == _plain(other)


def could_mean(free: str, full: str) -> bool:
    """Whether a free name (a served name, a folder, an image) can mean the model of a full name.

    It may abbreviate (`robo25`, `qwen35`), but not say another size.
    """
    sizes, full_sizes = _sizes(free), _sizes(full)
    if sizes and full_sizes and not sizes & full_sizes:
        return False
    short, long = _plain(free), _plain(full)
    if not short or short[0] != long[:1]:
        return False
    words = _LETTERS.match(short), _LETTERS.match(long)
    begins = [word[0][:_TELLING] for word in words if word and len(word[0]) >= _TELLING]
    alike = len(begins) == len(words) and begins[0] == begins[1]
    return alike or _within(short, long) or _within(long, short)


def family_of(family: str, full: str) -> bool:
    """Whether a stem is the family (`minicpm-o`) of a model (`minicpm-o-4.5`): its begin, without a size."""
    return not _sizes(family) and _plain(full).startswith(_plain(family)) and bool(family)


def _plain(name: str) -> str:
    words = [word for word in name.split("-") if not _FORM.fullmatch(word)]
    return re.sub(r"[^a-z0-9]", "", "".join(words or [name]))


def _sizes(name: str) -> set[str]:
    return {word for word in name.split("-") if _SIZE.fullmatch(word)}


def _within(short: str, long: str) -> bool:
    """Whether the letters of `short` stand in `long` in their order."""
    letters = iter(long)
    return all(letter in letters for letter in short)
