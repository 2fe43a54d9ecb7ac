"""FlagGems: which operators ran, read from the list that the server wrote while it ran, and which should have.

Two writers, one file. FlagGems (`flag_gems.logging_utils`) writes one line when an operator of its is called, with
`once` only the first time; before it logged the function's name the logger was the last part:

    [DEBUG] flag_gems.ops.softmax.softmax_out: GEMS SOFTMAX_OUT
    [DEBUG] flag_gems.runtime.backend._metax.ops.mm.mm: METAX GEMS MM
    [DEBUG] flag_gems.ops.fill: GEMS FILL_SCALAR_

vllm-plugin-FL (`vllm_fl.dispatch.manager`) adds what it dispatched, whoever's it is; `default.flagos` is FlagGems:

    [DEBUG] vllm_fl.dispatch.ops.rms_norm: default.flagos
    [DEBUG] vllm_fl.dispatch.ops.attention_backend: vendor.musa
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
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
_METHODS = frozenset({"forward", "backward"})
"""Functions that say nothing without their module."""


def parse(text: str) -> list[str]:
    """Names of the operators of FlagGems that a list names: the functions, sorted, each once.

    Lines that are no such line are left out: other loggers, operators that were the vendor's, and what several worker
    processes leave behind that write the same file.
    """
    return sorted(set(_names(text)))


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
    if known is not None:
        expected, expectation = set(known.operators) - set(without), f"listed by {known.source}"
    if only:
        used = expected & set(only)
        expectation = f"named by the cell{f' and {expectation}' if used else ''}"
        expected = used or set(only)
    if not expected:
        expectation = ""
    missing = expected - set(ran)
    degree = Degree.UNKNOWN if not expected else Degree.PARTIAL if missing else Degree.FULL
    left_out = set(ran) - set(only) if only else set(ran) & set(without)
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
        elif logger.startswith("flag_gems.") and (called := _CALLED.search(message)):
            yield _function(logger.split("."), called["name"].strip())


def _function(logger: list[str], said: str) -> str:
    """The operator's function, from the logger's name and the function's behind it, or from what was `said`."""
    kind = next((index for index, part in enumerate(logger) if part in {"ops", "fused"}), None)
    if kind is not None and len(logger) == kind + 2:
        # Without the function's name there is only the module's, which may hold several operators.
        return said.lower() if NAME.fullmatch(said) else logger[-1]
    return logger[-2] if logger[-1] in _METHODS else logger[-1]
