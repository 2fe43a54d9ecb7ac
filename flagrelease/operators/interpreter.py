"""FlagGems on a CPU: its kernels run in Triton's interpreter, as NumPy, one block after the other.

What this shows is a kernel's arithmetic: indices, masks, accumulators, casts. It shows nothing of a compiler, a device
or a speed. Three things are not FlagGems' own here: its kernel cache (`flag_gems.utils.libentry`) and the tuners, which
measure on a device, are replaced by the first configuration that the kernel takes; the device's properties are those of
a made-up one; and the vendor is NVIDIA without its architecture's overrides.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any

from flagrelease.operators.interpreter_mends import mend_interpreter

PROPERTIES = {
    "name": "Triton interpreter",
    # No architecture that FlagGems has overrides for.
    "major": 7,
    "minor": 0,
    "multi_processor_count": 1,
    "total_memory": 1 << 34,
    "shared_memory_per_block": 49152,
    "shared_memory_per_block_optin": 166912,
    "max_threads_per_multi_processor": 2048,
    "warp_size": 32,
    "L2_cache_size": 1 << 22,
}


def prepare_environment() -> None:
    """Set what Triton and FlagGems read when they are imported; before either is."""
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["GEMS_VENDOR"] = "nvidia"
    # Generated wrappers for the interpreter and for a device are different files of one name.
    os.environ.pop("FLAGGEMS_DB_URL", None)


def import_flag_gems() -> Any:
    """FlagGems, importable without a device; for a process of its own, as it changes torch and Triton for good.

    Raises whatever FlagGems or Triton raise where their versions do not go with each other.
    """
    prepare_environment()
    import torch
    import triton

    _pretend_a_device(torch)
    _without_tuning(triton)
    _as_compiled_kernels(triton)
    mend_interpreter()
    with _interpreted_counts_as_compiled(triton):
        import flag_gems
    # Operators refuse tensors that are not on FlagGems' device.
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "flag_gems" and getattr(module, "device", None) == "cuda":
            vars(module)["device"] = "cpu"
    return flag_gems


def _pretend_a_device(torch: Any) -> None:
    """Answers of `torch.cuda` that FlagGems asks for while it is imported and before it launches."""

    class NoDevice(contextlib.nullcontext[None]):
        def __init__(self, device: object = None) -> None:
            super().__init__()
            self.idx = device

    properties = types.SimpleNamespace(**PROPERTIES)
    torch.cuda.device = NoDevice
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_name = lambda _=None: properties.name
    torch.cuda.get_device_properties = lambda _=None: properties
    torch.cuda.get_device_capability = lambda _=None: (properties.major, properties.minor)


class _FirstConfiguration:
    """A kernel that is launched with the first configuration of its tuner that it does not refuse."""

    def __init__(self, kernel: Any, configurations: list[dict[str, Any]]) -> None:
        self._kernel = kernel
        self._configurations = configurations

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        def launch(*args: Any, **named: Any) -> Any:
            for options in self._configurations[:-1]:
                try:
                    return self._launched(grid, options, args, named)
                except Exception as error:
                    # A kernel refuses a configuration by `tl.static_assert`; a tuner then takes another.
                    if "AssertionError" not in str(error):
                        raise
            return self._launched(grid, self._configurations[-1], args, named)

        return launch

    def _launched(self, grid: Any, options: dict[str, Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        chosen = {name: value for name, value in options.items() if name not in named}
        sized = (lambda meta: grid({**chosen, **meta})) if callable(grid) else grid
        return self._kernel[sized](*args, **named, **chosen)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)


def _tuner(configs: Any = None, *_: Any, **__: Any) -> Callable[[Any], _FirstConfiguration]:
    configurations = [dict(each.kwargs) for each in configs or []] or [{}]
    return lambda kernel: _FirstConfiguration(kernel, configurations)


class _Anything:
    """Stands in for names of `flag_gems.utils.libentry` that are imported and not used without a device."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *args: Any, **_: Any) -> Any:
        return args[0] if args else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def _without_tuning(triton: Any) -> None:
    module = types.ModuleType("flag_gems.utils.libentry")
    vars(module).update(libentry=lambda: lambda kernel: kernel, libtuner=_tuner)
    vars(module)["__getattr__"] = _Anything().__getattr__
    sys.modules[module.__name__] = module
    triton.autotune = _tuner


def _as_compiled_kernels(triton: Any) -> None:
    """Give interpreted kernels what FlagGems' code generation reads of compiled ones."""
    from triton.runtime.interpreter import GridExecutor, InterpretedFunction

    def source(kernel: Any) -> str:
        text = textwrap.dedent(inspect.getsource(kernel.fn))
        return text[text.index("def ") :]

    def parameters(kernel: Any) -> list[types.SimpleNamespace]:
        found = inspect.signature(kernel.fn).parameters.values()
        return [
            types.SimpleNamespace(
                num=number,
                name=each.name,
                annotation=each.annotation,
                is_constexpr="constexpr" in str(each.annotation),
                do_not_specialize=False,
            )
            for number, each in enumerate(found)
        ]

    InterpretedFunction.src = property(source)
    InterpretedFunction.cache_key = property(lambda kernel: hashlib.sha256(source(kernel).encode()).hexdigest())
    InterpretedFunction.params = property(parameters)
    InterpretedFunction.__globals__ = property(lambda kernel: kernel.fn.__globals__)
    # Everything lies in the CPU's memory already. FlagGems' views (StridedBuffer) have an address and no storage.
    GridExecutor._init_args_hst = lambda _, positional, named: (positional, named)
    GridExecutor._restore_args_dev = lambda *_: None
    # A compiled kernel sees constants as `tl.constexpr`, which have a value.
    triton.language.dtype.value = property(lambda self: self)


@contextlib.contextmanager
def _interpreted_counts_as_compiled(triton: Any) -> Iterator[None]:
    """FlagGems checks `isinstance(kernel, JITFunction)`: inside, interpreted kernels are such."""
    from triton.runtime import jit
    from triton.runtime.interpreter import InterpretedFunction

    compiled = jit.JITFunction

    class Either(type):
        def __instancecheck__(cls, kernel: object) -> bool:
            return isinstance(kernel, (compiled, InterpretedFunction))

    class Kernel(metaclass=Either): ...

    jit.JITFunction = triton.runtime.JITFunction = triton.JITFunction = Kernel
    try:
        yield
    finally:
        jit.JITFunction = triton.runtime.JITFunction = triton.JITFunction = compiled
