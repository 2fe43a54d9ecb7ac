"""GGUF weights of the llama architecture as a Hugging Face checkpoint in float32.

float32 holds every value that the quantised blocks stand for exactly, so an engine that reads the
checkpoint computes with the same weights as one that reads the GGUF file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flagrelease.errors import PreflightError, WeightsError

if TYPE_CHECKING:
    from gguf import GGUFReader

VERSION = 1
# GGUF's tensor names (left) and those of transformers' LlamaForCausalLM.
LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
CONTROL_TOKEN = 3


class Gguf:
    """A GGUF file, opened."""

    def __init__(self, reader: GGUFReader) -> None:
        self.reader = reader

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the metadata."""
        field = self.reader.fields.get(key)
        return default if field is None else field.contents()


def open_gguf(path: Path) -> Gguf:
    """Open a GGUF file; raises WeightsError where it is none."""
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise PreflightError(
            "the package gguf is needed to read GGUF weights", remedy='pip install "flagrelease[gguf]"'
        ) from error
    try:
        return Gguf(GGUFReader(path))
    except (ValueError, IndexError, OSError) as error:
        raise WeightsError(
            f"{path} is not a readable GGUF file: {error}", remedy="install or download the weights again"
        ) from error


def chat_template(path: Path) -> str:
    """The chat template that the GGUF file carries; empty where it has none."""
    return str(open_gguf(path).get("tokenizer.chat_template", ""))


def tokenizer_facts(path: Path) -> list[Any]:
    """What decides which ids a text becomes: kind of tokenizer, pre-tokenizer, vocabulary, merges."""
    gguf = open_gguf(path)
    keys = ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.merges")
    return [gguf.get(key, None) for key in keys]


def convert(source: Path, target: Path) -> None:
    """Write config, tokenizer and dequantised weights of `source` into the new folder `target`."""
    gguf = open_gguf(source)
    architecture, pre_tokenizer = gguf.get("general.architecture"), gguf.get("tokenizer.ggml.pre")
    if (architecture, pre_tokenizer) != ("llama", "smollm"):
        raise WeightsError(
            f"{source.name}: architecture {architecture} with pre-tokenizer {pre_tokenizer} cannot be converted",
            remedy="use the engine llama_cpp for this model, or name its safetensors weights in the matrix",
        )
    target.mkdir(parents=True)
    tensors = _tensors(gguf)
    _write_json(target / "config.json", _config(gguf, tied="lm_head.weight" not in tensors))
    _write_tokenizer(gguf, target)
    from safetensors.numpy import save_file

    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _tensors(gguf: Gguf) -> dict[str, NDArray[np.float32]]:
    from gguf import dequantize

    heads = {
        "attn_q": gguf.get("llama.attention.head_count"),
        "attn_k": gguf.get("llama.attention.head_count_kv"),
    }
    tensors = {}
    for tensor in gguf.reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        name = TOP_NAMES.get(tensor.name)
        if name is None:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"
            if part in heads:
                # GGUF interleaves the rotary halves of each head; transformers keeps them side by side.
                halves = weight.reshape(heads[part], shape[0] // heads[part] // 2, 2, shape[1])
                weight = halves.swapaxes(1, 2).reshape(shape)
        tensors[name] = np.ascontiguousarray(weight)
    return tensors


def _config(gguf: Gguf, *, tied: bool) -> dict[str, Any]:
    hidden = gguf.get("llama.embedding_length")
    heads = gguf.get("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": gguf.get("llama.feed_forward_length"),
        "num_hidden_layers": gguf.get("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.get("llama.attention.head_count_kv"),
        "head_dim": hidden // heads,
        "max_position_embeddings": gguf.get("llama.context_length"),
        "rms_norm_eps": float(gguf.get("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": float(gguf.get("llama.rope.freq_base")),
        "vocab_size": gguf.get("llama.vocab_size") or len(gguf.get("tokenizer.ggml.tokens")),
        "tie_word_embeddings": tied,
        "bos_token_id": gguf.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.get("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float32",
    }


def _write_tokenizer(gguf: Gguf, target: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = gguf.get("tokenizer.ggml.tokens")
    kinds = gguf.get("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in gguf.get("tokenizer.ggml.merges")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL_TOKEN
        ]
    )
    tokenizer.save(str(target / "tokenizer.json"))
    eos = gguf.get("tokenizer.ggml.eos_token_id")
    _write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[gguf.get("tokenizer.ggml.bos_token_id")],
            "eos_token": tokens[eos],
            "pad_token": tokens[gguf.get("tokenizer.ggml.padding_token_id", eos)],
            "unk_token": tokens[gguf.get("tokenizer.ggml.unknown_token_id", 0)],
            "model_max_length": gguf.get("llama.context_length"),
            "clean_up_tokenization_spaces": False,
            "chat_template": gguf.get("tokenizer.chat_template"),
        },
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1))
