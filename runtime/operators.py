"""FlagGems: which operators ran, read from the list that the server wrote while it ran, and which should have.

Two writers, one file. FlagGems (`flag_gems.logging_utils`) writes one line when an operator of its is called, with
`once` only the first time; before it logged the function's name the logger was the last part:

    [DEBUG] flag_gems.ops.softmax.softmax_out: GEMS SOFTMAX_OUT
    [DEBUG] flag_gems.runtime.backend._metax.ops.mm.mm: METAX GEMS MM
    [DEBUG] flag_gems.ops.fill: GEMS FILL_SCALAR_

vllm-plugin-FL (`vllm_fl.dispatch.manager`) adds what it dispatched, whoever's it is; `default.flagos` is FlagGems:

    [DEBUG] vllm_fl.dispatch.ops.rms_norm: default.flagos
    [DEBUG] vllm_fl.dispatch.ops.attention_backend: vendor.musa

The function that writes a line is not always the one that FlagGems registers, and leaves out by its name: `mm` never
says anything, `general_mm` does. Names here, and in all that is stored, are those that can be left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from flagrelease.records import Degree, OperatorEvidence, OperatorList

WRITTEN = "/tmp/flagrelease-operators.txt"  # noqa: S108 - in the server's container; the name is no image's own
"""Where our servers are told to write the list."""

PATHS = (
    WRITTEN,
    "/tmp/flaggems_enable_oplist.txt",  # noqa: S108 - vllm-plugin-FL, where it is not told
    "/tmp/gems_oplist.log.txt",  # noqa: S108 - vLLM and SGLang as FlagScale patches them, which cannot be told
    "/tmp/gems.txt",  # noqa: S108 - files of this name: vLLM that was patched by hand
    "/root/gems.txt",
    "/root/.flaggems/oplist.log",  # FlagGems, where nobody says
)
"""Where lists are written in a server's container. An image may carry one from before, which is no evidence."""

_LINE = re.compile(r"\[[A-Z]+\] (?P<logger>[A-Za-z_][\w.]*): (?P<message>\S.*)", re.ASCII)
# `GEMS ADD`, `METAX GEMS ADD`, `GEMS_KUNLUNXIN ADD`; the name is what the older lines have.
_CALLED = re.compile(r"\bGEMS(?:_[A-Z]+)? (?P<name>[^,]+)", re.ASCII)
NAME = re.compile(r"[\w.]+", re.ASCII)
"""An operator's name."""
# Workers write one file over each other: a line may begin within another, or behind the zeros of a hole.
_BROKEN = re.compile(r"\0+|(?=\[DEBUG\] )")
_DISPATCHED = "vllm_fl.dispatch.ops."
# Modules of vendors and architectures are imported under names of their own; some take those for their loggers.
_GEMS = re.compile(r"flag_gems\.|(?:_[a-z]+|ampere|hopper|gcu\d+)\.(?:ops|fused)\.", re.ASCII)
_METHODS = frozenset({"forward", "backward"})
"""Functions that say nothing without their module."""
_WRITES_FOR = {
    # Of all chips, or of Hopper's.
    **dict.fromkeys(("general_mm", "streamk_mm", "gemv_mm"), "mm"),
    **dict.fromkeys(("rms_norm_forward", "rms_norm_backward"), "rms_norm"),
    **dict.fromkeys(("scatter_add_0", "scatter_add_1"), "scatter_add_"),
    **dict.fromkeys(
        ("scaled_dot_product_attention_forward", "scaled_dot_product_attention_backward"),
        "scaled_dot_product_attention",
    ),
    "mean_dim_comm": "mean_dim",
    "trunc_divide": "div_mode",
    "trunc_divide_": "div_mode_",
    "normed_cumsum": "multinomial",
    "skip_layernorm": "skip_layer_norm",  # a module; of `forward` in it
    # Of one vendor's: mthreads, kunlunxin, ascend, metax, cambricon.
    **dict.fromkeys(("mm_fma", "mm_sqmma", "mm_sqmma_v31"), "mm"),
    **dict.fromkeys(("addmm_fma", "addmm_sqmma"), "addmm"),
    "bmm_fma": "bmm",
    "rms_norm_backward_fusion": "rms_norm",
    "mv_cluster": "mv",
    "gather_flat_fixed": "gather",
    **dict.fromkeys(("fused_repeat_and_index_select", "fused_repeat_interleave_dim0"), "repeat_interleave_self_tensor"),
    "groupnorm": "group_norm",  # a module, and those that follow
    "repeat_interleave": "repeat_interleave_self_int",
    "attention": "scaled_dot_product_attention",
}
"""The function that FlagGems registers, or hands to engines, by the one that writes its line: FlagGems 5.0.2."""
_TOGETHER = {"mm": ("mm_out",), "arange_start": ("arange",), "pad": ("constant_pad_nd",)}
"""Registered functions that write the same line, which a list cannot tell apart: they go together."""
_NAMES = _WRITES_FOR | {other: name for name, others in _TOGETHER.items() for other in others}
_OF_TUNING = frozenset({"zero_"})
"""Triton's `do_bench` clears the cache with it between two runs of a kernel that it tunes. Once what was tuned is on
disk, it is called no more: it says nothing of the model."""


def parse(text: str) -> list[str]:
    """Names of the operators of FlagGems that a list names, as FlagGems leaves them out: sorted, each once.

    Lines that are no such line are left out: other loggers, operators that were the vendor's, and what several worker
    processes leave behind that write the same file.
    """
    return sorted({name_of(name) for name in _names(text)})


def name_of(function: str) -> str:
    """An operator's name in all that `parse` yields, of a function that FlagGems registers or that writes its line."""
    return _NAMES.get(function, function)


def functions(names: Iterable[str]) -> list[str]:
    """What FlagGems has to be told so that just these operators are left out, or run: sorted."""
    return sorted({function for name in names for function in (name, *_TOGETHER.get(name, ()))})


def read(files: Mapping[str, bytes]) -> OperatorList:
    """What the files of `PATHS` name together, by path; `sources` are those that name an operator."""
    named = {path: parse(content.decode(errors="replace")) for path, content in files.items()}
    return OperatorList(
        sources=[path for path, names in named.items() if names],
        operators=sorted({name for names in named.values() for name in names}),
    )


class Known(NamedTuple):
    """Operators that another release of the same model listed."""

    operators: Collection[str]
    source: str
    """Which release it is, for people."""


def compare(
    ran: Collection[str], *, only: Collection[str], without: Collection[str], known: Known | None
) -> OperatorEvidence:
    """What ran beside what should have: `only`, where a server was told to run nothing else, else what is `known`.

    `only` says what may run, so where it is known which operators the model uses, those alone are expected. `without`:
    what the server was told to leave out. Where neither says anything, some that ran are all that is known.
    """
    expected, expectation = set[str](), ""
    told, not_to_run = {name_of(name) for name in only}, {name_of(name) for name in without}
    if known is not None:
        expected, expectation = set(known.operators) - not_to_run, f"listed by {known.source}"
    if told:
        used = expected & told
        expectation = f"named by the cell{f' and {expectation}' if used else ''}"
        expected = used or told
    expected -= _OF_TUNING
    if not expected:
        expectation = ""
    missing = expected - set(ran)
    degree = Degree.UNKNOWN if not expected else Degree.PARTIAL if missing else Degree.FULL
    left_out = set(ran) - told if told else set(ran) & not_to_run
    return OperatorEvidence(
        degree=degree if ran else Degree.NONE,
        ran=sorted(set(ran)),
        expected=sorted(expected),
        missing=sorted(missing),
        left_out_but_ran=sorted(left_out),
        expectation=expectation,
    )


def _names(text: str) -> Iterator[str]:
    for line in _BROKEN.sub("\n", text).splitlines():
        found = _LINE.fullmatch(line.strip())
        if found is None:
            continue
        logger, message = found["logger"], found["message"]
        if logger.startswith(_DISPATCHED):
            if message == "default.flagos":
                yield logger.removeprefix(_DISPATCHED)
        elif _GEMS.match(logger) and (called := _CALLED.search(message)):
            yield _function(logger.split("."), called["name"].strip())


def _function(logger: list[str], said: str) -> str:
    """The operator's function, from the logger's name and the function's behind it, or from what was `said`."""
    kind = next((index for index, part in enumerate(logger) if part in {"ops", "fused"}), None)
    if kind is not None and len(logger) == kind + 2:
        # Without the function's name there is only the module's, which may hold several operators.
        return said.lower() if NAME.fullmatch(said) else logger[-1]
    return logger[-2] if logger[-1] in _METHODS else logger[-1]
