"""What Triton's interpreter does otherwise than its compiler, mended for the time of a process.

Found with Triton 3.5.1 on the kernels of FlagGems 5.0.2. Each is about arithmetic or reach, none about speed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any


def mend_interpreter() -> None:
    """Change Triton's interpreter for good; for a process of its own."""
    _read_as_the_compiler()
    _replace_libdevice()
    _compute_bfloat16()


def _read_as_the_compiler() -> None:
    """Three things that Triton's compiler understands and its interpreter does not.

    `a and b` of two blocks is element by element; in Python it is `b`, and a mask that lost its half writes out of
    bounds. A kernel may do without the name `triton.language`. A grid may have a fourth dimension, of 1.
    """
    import triton
    from triton.runtime import interpreter

    def combine(method: str, left: Any, right: Callable[[], Any]) -> Any:
        if isinstance(left, triton.language.tensor):
            value = right()
            return getattr(left, method)(value) if isinstance(value, triton.language.tensor) else value and left
        return (left and right()) if method == "logical_and" else (left or right())

    def visit_boolean(self: Any, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        method = "logical_and" if isinstance(node.op, ast.And) else "logical_or"
        joined = node.values[0]
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        for value in node.values[1:]:
            later = ast.Lambda(args=nothing, body=value)
            name = ast.Name(id=combine.__name__, ctx=ast.Load())
            joined = ast.Call(func=name, args=[ast.Constant(method), joined, later], keywords=[])
        return joined

    # What the interpreter's module holds is visible in rewritten kernels.
    combine.__name__ = "_combine_conditions"
    vars(interpreter)[combine.__name__] = combine
    interpreter.ASTTransformer.visit_BoolOp = visit_boolean
    assign = interpreter.ASTTransformer.visit_Assign

    def visit_assignment(self: Any, node: ast.Assign) -> ast.AST:
        # Theirs does not look into what is assigned.
        self.generic_visit(node)
        changed: ast.AST = assign(self, node)
        return changed

    interpreter.ASTTransformer.visit_Assign = visit_assignment
    plain = interpreter._patch_lang

    def patch_language(function: Any) -> Any:
        function.__globals__.setdefault("_triton_language", triton.language)
        return plain(function)

    interpreter._patch_lang = patch_language
    launch = interpreter.GridExecutor.__call__

    def launch_flat(self: Any, *args: Any, **named: Any) -> Any:
        if isinstance(self.grid, tuple) and set(self.grid[3:]) <= {1}:
            self.grid = self.grid[:3]
        return launch(self, *args, **named)

    interpreter.GridExecutor.__call__ = launch_flat


def _replace_libdevice() -> None:
    """NumPy's functions for those of the device's library, which the interpreter does not know."""
    import math

    import numpy
    from triton.language.extra.cuda import libdevice
    from triton.runtime.interpreter import TensorHandle, interpreter_semantic

    def elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *others: Any, **_: Any) -> Any:
            first = interpreter_semantic.to_tensor(first)
            data = [first.handle.data]
            for other in others:
                first, second = interpreter_semantic.broadcast_impl_value(first, interpreter_semantic.to_tensor(other))
                data = [first.handle.data, second.handle.data]
            kind = first.handle.data.dtype
            return type(first)(TensorHandle(numpy.asarray(function(*data), dtype=kind), first.dtype), first.type)

        return call

    functions: dict[str, Callable[..., Any]] = {
        "acos": numpy.arccos,
        "atan": numpy.arctan,
        "atan2": numpy.arctan2,
        "div_rn": numpy.divide,
        "erf": numpy.vectorize(math.erf, otypes=[numpy.float64]),
        "exp": numpy.exp,
        "exp2": numpy.exp2,
        "pow": numpy.power,
        "rint": numpy.rint,
        "rsqrt": lambda value: 1 / numpy.sqrt(value),
        "tan": numpy.tan,
        "tanh": numpy.tanh,
    }
    for name, function in functions.items():
        setattr(libdevice, name, elementwise(function))


def _compute_bfloat16() -> None:
    """Widen bfloat16 for arithmetic: the interpreter holds it as whole numbers and would add those.

    And `maximum` of a number and no number is the number, as on devices, unless NaN is to be kept.
    """
    import numpy
    from triton import language
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle

    def wide(value: Any) -> Any:
        if value.dtype.scalar != language.bfloat16:
            return value
        bits = value.data.astype(numpy.uint32) << 16
        return handle(bits.view(numpy.float32), language.float32)

    def narrow(value: Any) -> Any:
        if value.data.dtype == numpy.bool_:
            return value
        data = interpreter._convert_float(value.data.astype(numpy.float32), language.float32, language.bfloat16, None)
        return handle(data.view(numpy.uint16).reshape(value.data.shape), language.bfloat16)

    def widening(plain: Callable[..., Any], operands: int) -> Callable[..., Any]:
        def compute(self: Any, *args: Any) -> Any:
            values, rest = args[:operands], args[operands:]
            narrowed = any(value.dtype.scalar == language.bfloat16 for value in values)
            # Bits of bfloat16 are moved and masked as they are.
            if not narrowed or rest[0] in (numpy.bitwise_and, numpy.bitwise_or, numpy.bitwise_xor, numpy.where):
                return plain(self, *args)
            return narrow(plain(self, *(wide(value) for value in values), *rest))

        return compute

    for name, operands in {"unary_op": 1, "binary_op": 2, "ternary_op": 3}.items():
        setattr(builder, name, widening(getattr(builder, name), operands))
    product = builder.create_dot
    builder.create_dot = lambda self, a, b, *rest: product(self, wide(a), wide(b), *rest)
    builder.get_bf16 = lambda _, number: narrow(handle(numpy.array([number], dtype=numpy.float32), language.float32))
    builder.create_minnumf = lambda self, a, b: self.binary_op(a, b, numpy.fmin)
    builder.create_maxnumf = lambda self, a, b: self.binary_op(a, b, numpy.fmax)
