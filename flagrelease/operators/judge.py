"""How far a result may be from the reference.

The tolerances are those of FlagGems' own tests: relative by type (`flag_gems.testing.RESOLUTION`, after
`torch.testing.assert_close`), absolute 1e-4 times the number of summed elements (`flag_gems.testing.assert_close`, and
`reduce_dim` in `tests/accuracy_utils.py`). Theirs compare with a reference rounded to the result's type; ours is not
rounded, which the relative tolerance covers (half a step is 4.9e-4 in float16 and 3.9e-3 in bfloat16).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RELATIVE = {"float16": 1e-3, "bfloat16": 0.016, "float32": 1.3e-6}
ABSOLUTE = 1e-4


@dataclass(frozen=True)
class Distance:
    """The element that is furthest from the reference, in units of its tolerance."""

    ratio: float
    """Error over tolerance; above 1 the result differs, infinite where no tolerance helps."""
    error: float
    tolerance: float
    reason: str = ""


def tolerance(dtype: str, reduction: int) -> tuple[float, float]:
    """Relative and absolute tolerance of a type; both 0 for whole numbers and truth values."""
    return (RELATIVE[dtype], ABSOLUTE * reduction) if dtype in RELATIVE else (0.0, 0.0)


def distance(actual: Any, expected: Any, dtype: str, reduction: int) -> Distance:
    """How far a result is from its reference; both tensors of torch, the reference in float64.

    `dtype` is the type of the result's numbers. Where the reference is not a number the result must not be one; where
    it is infinite, or too large for the type, the result must be that infinity or within tolerance.
    """
    import torch

    if tuple(actual.shape) != tuple(expected.shape):
        said = f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        return Distance(float("inf"), float("inf"), 0.0, said)
    if actual.numel() == 0:
        return Distance(0.0, 0.0, 0.0)
    relative, absolute = tolerance(dtype, reduction)
    found, wanted = actual.to("cpu", torch.float64).flatten(), expected.to("cpu", torch.float64).flatten()
    rounded = wanted.to(getattr(torch, dtype)).to(torch.float64) if dtype in RELATIVE else wanted
    agreed = (found == wanted) | (found == rounded) | (found.isnan() & wanted.isnan())
    allowed = (absolute + relative * wanted.abs()).where(wanted.isfinite(), torch.tensor(0.0, dtype=torch.float64))
    error = (found - wanted).abs()
    ratio = error / allowed
    # Not a number here: one of the two is none, or infinities differ, or no difference is allowed.
    ratio = ratio.where(~ratio.isnan() & found.isfinite(), torch.tensor(torch.inf, dtype=torch.float64))
    ratio = ratio.where(~agreed, torch.tensor(0.0, dtype=torch.float64))
    worst = int(ratio.argmax())
    if ratio[worst] == 0:
        return Distance(0.0, 0.0, float(allowed[worst]))
    reason = (
        ""
        if ratio[worst] <= 1
        else f"{found[worst].item():.6g} at element {worst}, expected {wanted[worst].item():.6g}"
    )
    return Distance(float(ratio[worst]), float(error[worst]), float(allowed[worst]), reason)
