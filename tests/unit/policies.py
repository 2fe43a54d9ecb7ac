"""A policy for tests."""

from __future__ import annotations

from typing import Any

from flagrelease.policy import Policy

THRESHOLDS: dict[str, float] = {
    "alpha": 0.05,
    "power": 0.8,
    "margin_points": 2.0,
    "margin_points_small": 3.0,
    "large_n": 700,
    "min_items": 200,
    "pooled_margin_points": 1.0,
    "max_missing": 0.01,
    "max_length_shift": 0.1,
}


def policy(**changes: Any) -> Policy:
    """The usual thresholds with `changes`, each with a reason."""
    values = THRESHOLDS | changes
    named = {name for name, value in values.items() if isinstance(value, int | float)}
    return Policy(**{"reasons": dict.fromkeys(named, "chosen for a test"), **values})
