"""Which operators belong together: the search splits between groups first, so that kin stay on one side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

FAMILIES: dict[str, tuple[str, ...]] = {
    "attention": ("attention", "flash", "mla", "rotary", "rope", "kv_cache", "reshape_and_cache"),
    "mixture of experts": ("moe", "topk_softmax", "grouped_topk", "expert"),
    "random numbers": ("rand", "uniform", "exponential", "multinomial", "dropout", "normal_"),
    "normalisation": ("norm",),
    "matrix products": ("mm", "matmul", "linear", "mv", "dot", "outer", "gemm", "einsum", "conv"),
    "softmax": ("softmax", "logsumexp", "cross_entropy", "nll"),
    "activations": ("silu", "gelu", "relu", "sigmoid", "tanh", "swiglu", "elu", "glu"),
    "reductions": ("sum", "mean", "max", "min", "argm", "prod", "any", "all", "var", "std", "cum", "topk", "sort"),
    "indexing": ("index", "gather", "scatter", "embedding", "select", "slice", "masked", "where", "nonzero", "take"),
    "memory": ("copy", "cat", "stack", "fill", "zero", "one", "full", "arange", "repeat", "clone", "empty", "contig"),
}
"""Parts of names by family; the first family that knows a part of the name has the operator."""
POINTWISE = "pointwise"
"""Everything else: one element in, one out."""


def family(operator: str) -> str:
    """The kind of work that an operator of FlagGems does, by its name."""
    name = operator.lower()
    return next((found for found, parts in FAMILIES.items() if any(part in name for part in parts)), POINTWISE)


def grouped(operators: Iterable[str], group: Callable[[str], str]) -> tuple[list[str], list[int]]:
    """The operators with those of one group side by side, and the places where a new group begins.

    Groups come in the order of their first operator, and keep the order within.
    """
    members: dict[str, list[str]] = {}
    for operator in dict.fromkeys(operators):
        members.setdefault(group(operator), []).append(operator)
    order = [operator for group_members in members.values() for operator in group_members]
    return order, [at for at, (left, right) in enumerate(pairwise(order), 1) if group(left) != group(right)]


def split(low: int, high: int, borders: Sequence[int]) -> int:
    """Where to split the places from `low` to `high` (at least two apart): between groups where that costs nothing.

    Either part takes at most ⌈log2(high − low)⌉ − 1 further splits, as with an exact half.
    """
    most = 1 << ((high - low - 1).bit_length() - 1)
    middle = (low + high) // 2
    free = [border for border in borders if high - most <= border <= low + most and low < border < high]
    return min(free, key=lambda border: (abs(border - middle), border), default=middle)
