"""Which operators of FlagGems ran, read from what servers write."""

from __future__ import annotations

import pytest

from flagrelease.records import Degree
from runtime import operators

# As a server with vllm-plugin-FL writes it (FlagGems 5), its values changed.
WITH_PLUGIN = """\
[DEBUG] vllm_fl.dispatch.ops.rms_norm: default.flagos
[DEBUG] flag_gems.modules.normalization.gems_rms_forward: GEMS CUSTOM RMS_NORM
[DEBUG] flag_gems.ops.rms_norm.rms_norm_forward: GEMS RMS_NORM FORWARD
[DEBUG] flag_gems.fused.fused_add_rms_norm.fused_add_rms_norm: GEMS FUSED_ADD_RMS_NORM FORWARD, [input shape]: torch.Size([64, 5120])
[DEBUG] vllm_fl.dispatch.ops.attention_backend: vendor.musa
[DEBUG] flag_gems.fused.silu_and_mul.forward: GEMS SILU AND MUL FORWARD
[DEBUG] flag_gems.ops.softmax.softmax_out: GEMS SOFTMAX_OUT
[DEBUG] flag_gems.ops.softmax.softmax_out: GEMS SOFTMAX_OUT
"""  # noqa: E501 - so long are its lines


def test_a_list_with_the_plugin_names_what_flaggems_ran_and_not_what_the_vendor_did() -> None:
    assert operators.parse(WITH_PLUGIN) == [
        "fused_add_rms_norm",
        "gems_rms_forward",
        "rms_norm",
        "silu_and_mul",
        "softmax_out",
    ]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("[DEBUG] flag_gems.ops.fill: GEMS FILL_SCALAR_", "fill_scalar_"),  # FlagGems 3: no function's name
        ("[DEBUG] flag_gems.fused.silu_and_mul: GEMS SILU AND MUL FORWARD", "silu_and_mul"),
        ("[DEBUG] flag_gems.runtime.backend._metax.ops.mm.mm: METAX GEMS MM", "mm"),
        ("[DEBUG] flag_gems.runtime.backend._kunlunxin.ops.prod.prod: GEMS_KUNLUNXIN PROD", "prod"),
        (
            "[DEBUG] flag_gems.runtime.backend._nvidia.hopper.ops.mm.general_mm: GEMS MM-hopper, [op]: mm",
            "mm",
        ),
        ("[DEBUG] flag_gems.ops.mean.mean_dim_comm: GEMS MEAN_DIM", "mean_dim"),
        ("[DEBUG] flag_gems.ops.baddbmm.forward: GEMS BADDBMM FORWARD", "baddbmm"),
        ("[DEBUG] flag_gems.fused.skip_layernorm.forward: GEMS SKIP LAYERNORM FORWARD", "skip_layer_norm"),
        ("[DEBUG] flag_gems.runtime.backend._mthreads.ops.mm.mm_sqmma: GEMS_MTHREADS MM(SQMMA)", "mm"),
        ("[DEBUG] flag_gems._metax.ops.mm.mm_out: METAX GEMS MM_OUT", "mm"),
        # Loggers of vendors' modules that are none of FlagGems'.
        ("[DEBUG] _hygon.ops.mm.mm: GEMS MM", "mm"),
        ("[DEBUG] hopper.ops.mul.mul: GEMS MUL", "mul"),
        ("\0\0\0[DEBUG] flag_gems.ops.mul.mul: GEMS MUL\r", "mul"),  # two processes, one file
    ],
)
def test_every_way_in_which_flaggems_names_an_operator(line: str, name: str) -> None:
    assert operators.parse(f"{line}\n") == [name]


def test_workers_that_write_one_file_over_each_other_lose_names_and_make_none_up() -> None:
    text = "[DEBUG] flag_gems.ops.mm.m[DEBUG] flag_gems.ops.add.add: GEMS ADD\n: GEMS MM\nops.sin.sin: GEMS SIN\n"
    assert operators.parse(text) == ["add"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[DEBUG] vllm_fl.dispatch.ops.rms_norm: reference.torch\n",
        "[DEBUG] flag_gems.utils.libentry.run: autotuning add_kernel\n",
        "[INFO] vllm.v1.worker: GEMS ADD\n",
        "[DEBUG] torch.ops.add.add: GEMS ADD\n",
        "add\nmul\n",  # names alone: a table of what could run
        "EBUG] flag_gems.ops.add.add: GEMS ADD\n",
    ],
)
def test_what_is_no_operator_that_ran_is_left_out(text: str) -> None:
    assert operators.parse(text) == []


def test_what_is_to_be_left_out_is_told_by_the_names_of_all_functions_that_write_the_line() -> None:
    assert operators.functions(["mm", "add", "arange_start"]) == ["add", "arange", "arange_start", "mm", "mm_out"]
    for name in operators.functions(["mm", "arange_start", "pad"]):
        assert operators.name_of(name) in {"mm", "arange_start", "pad"}


def test_files_are_read_together_and_those_without_an_operator_are_no_source() -> None:
    found = operators.read(
        {
            operators.WRITTEN: b"[DEBUG] flag_gems.ops.mul.mul: GEMS MUL\n\xff\xfe\n",
            "/tmp/gems_oplist.log.txt": b"[DEBUG] flag_gems.ops.add.add: GEMS ADD\n" * 2,
            "/root/gems.txt": b"",
        }
    )
    assert found.operators == ["add", "mul"]
    assert found.sources == [operators.WRITTEN, "/tmp/gems_oplist.log.txt"]
    assert operators.read({}).operators == []


KNOWN = operators.Known(["add", "mm", "topk"], "release 7 of qwen3-metax")


@pytest.mark.parametrize(
    ("ran", "only", "without", "known", "degree", "missing", "left_out"),
    [
        (["add", "mm", "topk", "new"], [], [], KNOWN, Degree.FULL, [], []),
        (["add"], [], [], KNOWN, Degree.PARTIAL, ["mm", "topk"], []),
        (["add", "mm"], [], ["topk"], KNOWN, Degree.FULL, [], []),
        (["add", "topk"], [], ["topk"], KNOWN, Degree.PARTIAL, ["mm"], ["topk"]),
        (["add"], [], [], None, Degree.UNKNOWN, [], []),
        (["add", "topk"], [], ["topk"], None, Degree.UNKNOWN, [], ["topk"]),
        (["add"], ["add", "mm"], [], None, Degree.PARTIAL, ["mm"], []),
        # The model is known to have no use for gelu.
        (["add"], ["add", "gelu"], [], KNOWN, Degree.FULL, [], []),
        (["add", "sum"], ["add"], [], KNOWN, Degree.FULL, [], ["sum"]),
        (["add"], [], ["add", "mm", "topk"], KNOWN, Degree.UNKNOWN, [], ["add"]),
        ([], [], [], KNOWN, Degree.NONE, ["add", "mm", "topk"], []),
        # A list calls mm_out mm as well.
        (["add", "topk"], [], ["mm", "mm_out"], KNOWN, Degree.FULL, [], []),
        (["mm"], ["mm_out"], [], None, Degree.FULL, [], []),
        # Triton's tuner calls it, and not again once it has tuned.
        (["add"], [], [], operators.Known(["add", "zero_"], "release 7 of qwen3-metax"), Degree.FULL, [], []),
        ([], [], [], None, Degree.NONE, [], []),
    ],
)
def test_what_ran_beside_what_should_have(
    *,
    ran: list[str],
    only: list[str],
    without: list[str],
    known: operators.Known | None,
    degree: Degree,
    missing: list[str],
    left_out: list[str],
) -> None:
    found = operators.compare(ran, only=only, without=without, known=known)
    assert (found.degree, found.missing, found.left_out_but_ran) == (degree, missing, left_out)
    assert bool(found.expectation) == bool(found.expected)


def test_an_expectation_says_where_it_is_from() -> None:
    def said(only: list[str], known: operators.Known | None) -> str:
        return operators.compare(["add"], only=only, without=[], known=known).expectation

    assert said([], KNOWN) == "listed by release 7 of qwen3-metax"
    assert said(["add"], None) == "named by the cell"
    assert said(["add"], KNOWN) == "named by the cell and listed by release 7 of qwen3-metax"
