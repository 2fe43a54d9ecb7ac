"""What each operator is asked: the sizes of a model, and edge cases.

Pure data: a case says what to make, `reference` makes it. The interpreter takes milliseconds a block, so on a CPU
dimensions that are not reduced over are cut (`CPU`); lengths of reductions stay those of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from flagrelease.operators.shapes import Shapes

Group = Literal["model", "edge"]


@dataclass(frozen=True)
class Case:
    """One question to one operator."""

    name: str
    group: Group
    sizes: dict[str, int]
    dtype: str = "float32"
    values: str = "normal"
    """normal, positive, large, small, nan, infinite, masked, equal: see `reference.Maker`."""
    layout: str = "contiguous"
    """contiguous, or strided: every second column of a wider tensor."""
    reduction: int = 1
    """How many elements are summed into one of the result; the absolute tolerance grows with it."""
    epsilon: float = 1e-6

    def as_json(self) -> dict[str, Any]:
        """For a worker's input."""
        return asdict(self)


@dataclass(frozen=True)
class Limits:
    """How large the cases are."""

    tokens: tuple[int, ...]
    """Rows of a step: decoding first, then prefill."""
    sequences: tuple[int, ...]
    """Rows of logits: only the last token of a sequence has a next one."""
    columns: int
    """Most columns of a matrix product's result, and rows of a table that is looked up."""
    sorted: int
    """Longest row that is sorted."""


CPU = Limits(tokens=(1, 5), sequences=(1,), columns=64, sorted=512)
# The reference is computed on the CPU in float64; more columns are more of the same.
ACCELERATOR = Limits(tokens=(1, 16, 509), sequences=(1, 16), columns=16384, sorted=1 << 31)


@dataclass(frozen=True)
class Tested:
    """An operator that can be checked, with the family that its sizes come from."""

    family: str
    without: frozenset[str] = field(default_factory=frozenset)
    """Values and layouts that say nothing of it."""
    sums: bool = False
    """Whether its result is a sum: FlagGems' tests then widen the absolute tolerance by the sum's length."""


def _without(*names: str) -> frozenset[str]:
    return frozenset(names)


_PLAIN = Tested("elementwise")
_GATED = Tested("activation")
OPERATORS: dict[str, Tested] = {
    **dict.fromkeys(("abs", "add", "exp", "masked_fill", "maximum", "minimum", "mul", "neg", "reciprocal"), _PLAIN),
    **dict.fromkeys(("rsqrt", "sigmoid", "sqrt", "sub", "tanh", "true_divide", "eq", "le"), _PLAIN),
    # Of 1e15 radians nobody asks the angle.
    **dict.fromkeys(("cos", "sin"), Tested("elementwise", _without("large", "infinite"))),
    "pow_tensor_scalar": _PLAIN,
    **dict.fromkeys(("gelu", "gelu_and_mul", "relu", "silu", "silu_and_mul"), _GATED),
    **dict.fromkeys(("layer_norm", "rms_norm", "fused_add_rms_norm", "skip_layer_norm"), Tested("norm")),
    "mean_dim": Tested("rows"),
    "amax": Tested("rows", _without("empty")),
    "sum_dim": Tested("rows", sums=True),
    **dict.fromkeys(("softmax", "log_softmax"), Tested("vocabulary", _without("infinite"))),
    "cumsum": Tested("vocabulary", _without("masked"), sums=True),
    "argmax": Tested("vocabulary", _without("empty")),
    "max_dim": Tested("vocabulary", _without("empty")),
    "topk": Tested("selection", _without("empty", "nan")),
    "sort": Tested("sorting"),
    "triu": Tested("rows"),
    **dict.fromkeys(("mm", "addmm", "bmm"), Tested("matrix", sums=True)),
    "apply_rotary_pos_emb": Tested("rotary"),
    "scaled_dot_product_attention": Tested("attention"),
    "topk_softmax": Tested("routing"),
    "moe_sum": Tested("experts", sums=True),
    **dict.fromkeys(("embedding", "index_select", "gather"), Tested("lookup")),
}
"""What a Llama- or Qwen-type model asks of FlagGems, by the name of the function."""

_ODD = 997


def cases_of(operator: str, shapes: Shapes, limits: Limits) -> list[Case]:
    """The cases of an operator of `OPERATORS`, none where the model has no use for it (experts of a dense one).

    Model sizes are asked in the model's own type and in float32, edge cases too.
    """
    tested = OPERATORS[operator]
    found = {}
    for dtype in dict.fromkeys((shapes.dtype, "float32")):
        for asked in (*_model_cases(tested.family, shapes, limits), *_edges(tested.family, shapes, limits)):
            if {asked.name, asked.values, asked.layout} & tested.without:
                continue
            summed = _length(asked.sizes) if tested.sums else 1
            named = f"{asked.name}, {dtype}"
            # Products that differ in what was cut are one case.
            found[named] = replace(asked, name=named, dtype=dtype, reduction=summed, epsilon=shapes.epsilon)
    return list(found.values())


def _length(sizes: dict[str, int]) -> int:
    """How many elements a sum of these sizes has."""
    return max(next((sizes[name] for name in ("k", "per_token", "columns") if name in sizes), 1), 1)


def _model_cases(family: str, shapes: Shapes, limits: Limits) -> Iterator[Case]:
    of_logits = family in ("vocabulary", "selection", "sorting")
    for tokens in limits.sequences if of_logits else limits.tokens:
        step = "prefill" if tokens == max(limits.tokens) else "decode"
        for sizes in _sizes(family, shapes, tokens, limits):
            # A dimension that a dense model lacks.
            if not all(sizes.values()):
                continue
            name = f"{step} {'×'.join(str(size) for size in sizes.values())}"
            yield Case(name, "model", sizes=sizes)
            if family in ("matrix", "rows"):
                # Terms that cancel hide what positive ones show: a missing tail, a narrow accumulator.
                yield Case(f"{name} positive", "model", sizes=sizes, values="positive")


def _sizes(family: str, shapes: Shapes, tokens: int, limits: Limits) -> list[dict[str, int]]:
    hidden, inner, vocabulary = shapes.hidden, shapes.intermediate, shapes.vocabulary
    experts, chosen = shapes.experts, shapes.experts_per_token
    heads = {"heads": shapes.heads, "kv_heads": shapes.kv_heads, "head_dim": shapes.head_dim}
    projected = (shapes.heads + 2 * shapes.kv_heads) * shapes.head_dim
    products = ((hidden, projected), (hidden, vocabulary), (inner, hidden))
    by_family: dict[str, list[dict[str, int]]] = {
        **{name: [{"rows": tokens, "columns": hidden}] for name in ("elementwise", "rows", "norm")},
        "activation": [{"rows": tokens, "columns": inner}],
        **{name: [{"rows": tokens, "columns": vocabulary}] for name in ("vocabulary", "selection")},
        "sorting": [{"rows": tokens, "columns": min(vocabulary, limits.sorted)}],
        "matrix": [{"m": tokens, "k": k, "n": min(n, limits.columns)} for k, n in products],
        "rotary": [{"tokens": tokens, **heads}],
        "attention": [{"tokens": tokens, **heads, "context": max(tokens, 17)}],
        "routing": [{"tokens": tokens, "experts": experts, "per_token": chosen}],
        "experts": [{"tokens": tokens, "per_token": chosen, "columns": hidden}],
        "lookup": [{"tokens": tokens, "rows": min(vocabulary, limits.columns), "columns": hidden}],
    }
    return by_family[family]


_TABLES = ("elementwise", "rows", "norm", "activation", "vocabulary", "selection")


def _edges(family: str, shapes: Shapes, limits: Limits) -> Iterator[Case]:
    if family in _TABLES:
        yield from _edges_of_tables(family, shapes.hidden)
    elif family == "matrix":
        plain = {"m": 17, "k": 65, "n": 33}
        yield Case("size 1", "edge", sizes={"m": 1, "k": 1, "n": 1})
        yield Case("empty", "edge", sizes={"m": 0, "k": 64, "n": 32})
        yield Case("odd", "edge", sizes=plain)
        yield Case("non-contiguous", "edge", sizes=plain, layout="strided")
        yield Case("nan", "edge", sizes=plain, values="nan")
        yield Case("small", "edge", sizes=plain, values="small")
    elif family == "sorting":
        yield Case("odd", "edge", sizes={"rows": 2, "columns": 101})
        yield Case("equal", "edge", sizes={"rows": 1, "columns": 64}, values="equal")
    else:
        (sizes,) = _sizes(family, shapes, 3, limits)
        if not all(sizes.values()):
            return
        yield Case("three tokens", "edge", sizes=sizes)
        yield Case("positive", "edge", sizes=sizes, values="positive")
        if family == "lookup":
            yield Case("non-contiguous", "edge", sizes=sizes, layout="strided")
            yield Case("empty", "edge", sizes={**sizes, "tokens": 0})


def _edges_of_tables(family: str, hidden: int) -> Iterator[Case]:
    plain = {"rows": 3, "columns": _ODD}
    yield Case("size 1", "edge", sizes={"rows": 1, "columns": 1})
    yield Case("empty", "edge", sizes={"rows": 0, "columns": hidden})
    yield Case("odd", "edge", sizes=plain, values="positive" if family == "rows" else "normal")
    yield Case("non-contiguous", "edge", sizes=plain, layout="strided")
    extremes = ["large", "small", "nan"]
    extremes += ["masked", "equal"] if family == "vocabulary" else []
    extremes += ["infinite"] if family in ("elementwise", "activation") else []
    yield from (Case(values, "edge", sizes=plain, values=values) for values in extremes)
