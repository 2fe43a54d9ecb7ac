"""Numbers, versions and settings in words, as cards print them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flagrelease.records import Provenance

ENGINES = {
    "llama_cpp": "llama.cpp",
    "vllm": "vLLM",
    "flagscale": "FlagScale",
    "torch_reference": "transformers on torch",
}
_PACKAGES = {"llama_cpp": "xllamacpp"}
"""Package whose version an engine reports, where it is named otherwise than the engine."""


def percent(value: float, decimals: int = 3) -> str:
    """A share in [0, 1] as percent."""
    return f"{100 * value:.{decimals}f}"


def points(value: float, decimals: int = 3) -> str:
    """A difference of shares in percentage points, with its sign; none before zero."""
    rounded = round(100 * value, decimals)
    return f"{rounded:+.{decimals}f}".replace("-", "−") if rounded else f"{0:.{decimals}f}"


def number(value: float) -> str:
    """A number without needless zeros: 0.05 → 0.05, 2.0 → 2."""
    return f"{value:g}"


def engine(provenance: Provenance) -> str:
    """Engine and version in words, for example `llama.cpp (xllamacpp 2026.10.11549)`."""
    name = ENGINES.get(provenance.engine, provenance.engine)
    package, version = _PACKAGES.get(provenance.engine), provenance.engine_version
    if package is None:
        return f"{name} {version}"
    return f"{name} ({version if package in version else f'{package} {version}'})"


def settings(values: Mapping[str, Any]) -> str:
    """Settings as `key=value`, sorted."""
    pairs = (f"{key}={json.dumps(value, sort_keys=True, ensure_ascii=False)}" for key, value in values.items())
    return ", ".join(sorted(pairs)) or "none"


def versions(packages: Mapping[str, str]) -> str:
    """Packages with their versions, for example `lm_eval 0.4.13`."""
    return ", ".join(f"{name} {version}" for name, version in packages.items())
