"""In which ways the same card can be written."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Language = Literal["en", "zh"]


class Style(StrEnum):
    """House styles: `classic` has exactly the sections of the source cards, `verified` says how it was verified too."""

    CLASSIC = "classic"
    VERIFIED = "verified"
