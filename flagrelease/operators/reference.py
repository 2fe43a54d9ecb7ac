"""How each operator is called, and what it should answer: torch's operator in float64, on the CPU.

The inputs of the reference are the operator's own, widened, so that only what the operator does is judged. With those
that are not widened, and on a device, torch's operator is the native kernel that FlagGems' stands in for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from flagrelease.operators.inputs import Maker

Inputs = Sequence[Any]
Pairs = list[tuple[Any, Any]]
"""What was found and what is expected of it."""


@dataclass(frozen=True)
class Question:
    """One operator: its inputs, how FlagGems' function and torch's are called with them, and what is compared."""

    inputs: Callable[[Maker], Inputs]
    call: Callable[..., Any]
    """Called with the function and the inputs; inputs may be changed in place."""
    pairs: Callable[[Any, Inputs, Maker], Pairs]
    """From the answer, the widened inputs and the case."""
    native: Callable[..., Any]
    """Called with the inputs: torch's operator, or those that it takes where torch has no single one; changes none."""
    changed: tuple[int, ...] = ()
    """Which inputs `call` writes over, so that asked again it would be asked something else."""


def _one(
    call: Callable[..., Any],
    reference: Callable[..., Any],
    inputs: Callable[[Maker], Inputs],
    native: Callable[..., Any] | None = None,
) -> Question:
    """An operator with one result; `native`: where the reference is not the operator that a model would call."""
    return Question(inputs, call, lambda answer, wide, _: [(answer, reference(*wide))], native or reference)


def _matrix(made: Maker) -> Inputs:
    return [made.tensor(*made.size("rows", "columns"))]


def _matrices(made: Maker) -> Inputs:
    return [*_matrix(made), *_matrix(made)]


def _unary(reference: Callable[[Any], Any]) -> Question:
    return _one(lambda f, x: f(x), reference, _matrix)


def _binary(reference: Callable[[Any, Any], Any]) -> Question:
    return _one(lambda f, x, y: f(x, y), reference, _matrices)


def _along_rows(reference: Callable[[Any], Any], *named: Any) -> Question:
    """Over the last dimension; `named`: what FlagGems' function takes beside the tensor."""
    return _one(lambda f, x: f(x, *named), reference, _matrix)


def _norm_inputs(tensors: int, weights: int) -> Callable[[Maker], Inputs]:
    def make(made: Maker) -> Inputs:
        rows, columns = made.size("rows", "columns")
        return [
            *(made.tensor(rows, columns) for _ in range(tensors)),
            *(made.tensor(columns, values="positive") for _ in range(weights)),
        ]

    return make


def _rms(x: Any, weight: Any, made: Maker) -> Any:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + made.case.epsilon) * weight


def _layer(x: Any, weight: Any, bias: Any) -> Any:
    return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


def _with_epsilon(make: Callable[[Maker], Inputs]) -> Callable[[Maker], Inputs]:
    return lambda made: [*make(made), made.case.epsilon]


def _selected(
    call: Callable[..., Any], expected: Callable[[Any], Any], native: Callable[[Any], Any], *, values: bool
) -> Question:
    """An operator that says where: at equal values any place will do, so what stands there is compared."""

    def pairs(answer: Any, wide: Inputs, _: Maker) -> Pairs:
        wanted = expected(wide[0])
        places = (answer[1] if values else answer).cpu()
        width = wide[0].shape[-1]
        outside = bool(((places < 0) | (places >= width)).any())
        there = torch.full_like(wanted, float("nan")) if outside else wide[0].gather(-1, places.view(wanted.shape))
        return [(answer[0].view(wanted.shape), wanted), (there, wanted)] if values else [(there, wanted)]

    return Question(_matrix, call, pairs, native)


def _products(made: Maker) -> Inputs:
    m, k, n = made.size("m", "k", "n")
    return [made.tensor(m, k), made.tensor(k, n)]


def _biased_products(made: Maker) -> Inputs:
    return [made.tensor(made.case.sizes["n"]), *_products(made)]


def _batched_products(made: Maker) -> Inputs:
    m, k, n = made.size("m", "k", "n")
    return [made.tensor(2, m, k), made.tensor(2, k, n)]


def _rotary_inputs(made: Maker) -> Inputs:
    tokens, heads, kv_heads, width = made.size("tokens", "heads", "kv_heads", "head_dim")
    angle = torch.arange(2 * tokens + 1)[:, None] / 10000 ** (torch.arange(width // 2) * 2 / width)
    q, k = made.tensor(tokens, heads, width), made.tensor(tokens, kv_heads, width)
    where = made.whole(tokens, below=2 * tokens + 1)
    return [q, k, angle.cos().to(q), angle.sin().to(q), where]


def _rotated(q: Any, k: Any, cos: Any, sin: Any, where: Any) -> tuple[Any, Any]:
    cos, sin = cos[where][:, None, :], sin[where][:, None, :]

    def rotate(x: Any) -> Any:
        # As Llama's checkpoints have it: the first half of a head is turned with the second.
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    return rotate(q), rotate(k)


def _rotary_pairs(answer: Any, wide: Inputs, _: Maker) -> Pairs:
    return list(zip(answer, _rotated(*wide), strict=True))


def _attention_inputs(made: Maker) -> Inputs:
    tokens, heads, kv_heads, width, context = made.size("tokens", "heads", "kv_heads", "head_dim", "context")
    shape = (1, kv_heads, context, width)
    # FlagGems' tests take values of up to 0.05, which is what their absolute tolerance is for; queries and keys as
    # small would weigh all positions alike.
    key, value = made.tensor(*shape), (made.tensor(*shape, values="positive") - 1) / 10
    shared = (each.repeat_interleave(heads // kv_heads, 1) for each in (key, value))
    return [made.tensor(1, heads, tokens, width), *shared]


def _routing_inputs(made: Maker) -> Inputs:
    tokens, experts, chosen = made.size("tokens", "experts", "per_token")
    room = [made.empty(tokens, chosen, dtype="float32"), *(made.empty(tokens, chosen, dtype="int32") for _ in range(2))]
    return [made.tensor(tokens, experts), *room]


def _routed(f: Any, gates: Any, weights: Any, places: Any, source: Any) -> Any:
    f(weights, places, source, gates)
    return weights, places


def _routing_pairs(answer: Any, wide: Inputs, made: Maker) -> Pairs:
    shares = wide[0].softmax(-1)
    wanted = shares.topk(made.case.sizes["per_token"], -1).values
    places = answer[1].cpu().long().clamp(0, shares.shape[-1] - 1)
    return [(answer[0], wanted), (shares.gather(-1, places).to(torch.float32), wanted)]


def _summed(f: Any, parts: Any, room: Any) -> Any:
    f(parts, room)
    return room


def _experts_inputs(made: Maker) -> Inputs:
    tokens, chosen, columns = made.size("tokens", "per_token", "columns")
    return [made.tensor(tokens, chosen, columns), made.empty(tokens, columns)]


def _looked_up(made: Maker) -> Inputs:
    tokens, rows, columns = made.size("tokens", "rows", "columns")
    return [made.tensor(rows, columns), made.whole(tokens, below=rows)]


def _gathered(made: Maker) -> Inputs:
    tokens, rows, columns = made.size("tokens", "rows", "columns")
    return [made.tensor(rows, columns), made.whole(rows, tokens, below=columns)]


def _fused_norm_pairs(answer: Any, wide: Inputs, made: Maker) -> Pairs:
    x, residual, weight, _ = wide
    # The sum is stored before it is normalised from what was not rounded.
    return [(answer[0], _rms(x + residual, weight, made)), (answer[1], x + residual)]


def _added_and_normalised(x: Any, residual: Any, weight: Any, epsilon: float) -> tuple[Any, Any]:
    total = x + residual
    return functional.rms_norm(total, [x.shape[-1]], weight, epsilon), total


_MOST = 8


def _largest(x: Any) -> Any:
    return x.topk(min(_MOST, x.shape[-1]))


QUESTIONS: dict[str, Question] = {
    "abs": _unary(torch.abs),
    "cos": _unary(torch.cos),
    "exp": _unary(torch.exp),
    "gelu": _unary(functional.gelu),
    "neg": _unary(torch.neg),
    "reciprocal": _unary(torch.reciprocal),
    "relu": _unary(torch.relu),
    "rsqrt": _unary(torch.rsqrt),
    "sigmoid": _unary(torch.sigmoid),
    "silu": _unary(functional.silu),
    "sin": _unary(torch.sin),
    "sqrt": _unary(torch.sqrt),
    "tanh": _unary(torch.tanh),
    "triu": _unary(torch.triu),
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "true_divide": _binary(torch.true_divide),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "eq": _binary(torch.eq),
    "le": _binary(torch.le),
    "silu_and_mul": _binary(lambda x, y: functional.silu(x) * y),
    "gelu_and_mul": _binary(lambda x, y: functional.gelu(x) * y),
    "pow_tensor_scalar": _one(lambda f, x: f(x, 2), lambda x: x**2, _matrix),
    "masked_fill": _one(
        lambda f, x, mask: f(x, mask, -1.0),
        lambda x, mask: x.masked_fill(mask, -1.0),
        lambda made: [*_matrix(made), made.truth(*made.size("rows", "columns"))],
    ),
    "mean_dim": _along_rows(lambda x: x.mean(-1, True), [-1], True),
    "sum_dim": _along_rows(lambda x: x.sum(-1, True), [-1], True),
    "amax": _along_rows(lambda x: x.amax(-1), [-1]),
    "softmax": _along_rows(lambda x: x.softmax(-1), -1),
    "log_softmax": _along_rows(lambda x: x.log_softmax(-1), -1),
    "cumsum": _along_rows(lambda x: x.cumsum(-1), -1),
    "argmax": _selected(
        lambda f, x: f(x, -1, True), lambda x: x.amax(-1, True), lambda x: x.argmax(-1, True), values=False
    ),
    "max_dim": _selected(
        lambda f, x: f(x, -1, True), lambda x: x.amax(-1, True), lambda x: x.max(-1, True), values=True
    ),
    "topk": _selected(lambda f, x: f(x, min(_MOST, x.shape[-1])), lambda x: _largest(x).values, _largest, values=True),
    "sort": _selected(lambda f, x: f(x, -1), lambda x: x.sort(-1).values, lambda x: x.sort(-1), values=True),
    "rms_norm": Question(
        _with_epsilon(_norm_inputs(1, 1)),
        lambda f, x, weight, epsilon: f(x, [x.shape[-1]], weight, epsilon),
        lambda answer, wide, made: [(answer, _rms(wide[0], wide[1], made))],
        lambda x, weight, epsilon: functional.rms_norm(x, [x.shape[-1]], weight, epsilon),
    ),
    "fused_add_rms_norm": Question(
        _with_epsilon(_norm_inputs(2, 1)),
        lambda f, x, residual, weight, epsilon: f(x, residual, [x.shape[-1]], weight, epsilon),
        _fused_norm_pairs,
        _added_and_normalised,
        changed=(0, 1),
    ),
    "layer_norm": _one(
        lambda f, x, weight, bias: f(x, [x.shape[-1]], weight, bias, 1e-5)[0],
        _layer,
        _norm_inputs(1, 2),
    ),
    "skip_layer_norm": _one(
        lambda f, x, residual, weight, bias: f(x, residual, [x.shape[-1]], weight, bias, 1e-5),
        lambda x, residual, weight, bias: _layer(x + residual, weight, bias),
        _norm_inputs(2, 2),
    ),
    "mm": _one(lambda f, a, b: f(a, b), lambda a, b: a @ b, _products),
    "bmm": _one(lambda f, a, b: f(a, b), lambda a, b: a @ b, _batched_products),
    "addmm": _one(lambda f, c, a, b: f(c, a, b), lambda c, a, b: c + a @ b, _biased_products, torch.addmm),
    "apply_rotary_pos_emb": Question(_rotary_inputs, lambda f, *inputs: f(*inputs), _rotary_pairs, _rotated),
    "scaled_dot_product_attention": _one(
        lambda f, q, k, v: f(q, k, v),
        functional.scaled_dot_product_attention,
        _attention_inputs,
    ),
    "topk_softmax": Question(
        _routing_inputs,
        _routed,
        _routing_pairs,
        lambda gates, weights, *_: gates.softmax(-1).topk(weights.shape[-1], -1),
    ),
    "moe_sum": _one(_summed, lambda parts, _: parts.sum(1), _experts_inputs),
    "embedding": _one(
        lambda f, table, where: f(table, where),
        lambda table, where: table[where],
        _looked_up,
        lambda table, where: functional.embedding(where, table),
    ),
    "index_select": _one(lambda f, x, i: f(x, 0, i), lambda x, i: x.index_select(0, i), _looked_up),
    "gather": _one(lambda f, x, i: f(x, 1, i), lambda x, i: x.gather(1, i), _gathered),
}
"""By the name of FlagGems' function; the same names as `cases.OPERATORS`."""
