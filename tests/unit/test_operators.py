"""Which operators of FlagGems ran, read from what servers write."""

from __future__ import annotations

import pytest

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
        "rms_norm_forward",
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
            "general_mm",
        ),
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
        "add\nmul\n",  # names alone: a table of what could run
        "EBUG] flag_gems.ops.add.add: GEMS ADD\n",
    ],
)
def test_what_is_no_operator_that_ran_is_left_out(text: str) -> None:
    assert operators.parse(text) == []


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
