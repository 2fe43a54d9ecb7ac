"""Which sizes an operator meets in a model, from the model's config.json.

Sources of the names: Hugging Face's configurations of Llama, Qwen2, Qwen3, Qwen2/3-MoE, Mixtral, DeepSeek-V2/V3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagrelease.errors import WeightsError

FLOATS = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Shapes:
    """Sizes of one model, in elements."""

    model: str
    hidden: int
    intermediate: int
    """Of the dense feed-forward layer, or of one expert where there is none."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    experts: int = 0
    experts_per_token: int = 0
    epsilon: float = 1e-6
    """Of the normalisation."""
    dtype: str = "bfloat16"

    def as_json(self) -> dict[str, Any]:
        """For the key of stored results, and for people."""
        return asdict(self)


SMALL_MODEL = Shapes("SmolLM2-135M's shapes", 576, 1536, 9, 3, 64, 49152, epsilon=1e-5)
"""What is taken where no model is named: a Llama of 135 million parameters."""


def read_shapes(path: Path, model: str) -> Shapes:
    """The sizes in a config.json, or in that of a folder.

    Raises WeightsError where there is none, or where a size is missing or no number.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise WeightsError(
            f"the model {model} has no config.json: {file}: {error.strerror}",
            remedy="--model takes a folder with a config.json, or one's path; without --model a small Llama is taken",
        ) from error
    except ValueError as error:
        raise WeightsError(f"{file} is no JSON: {error}", remedy="download the model's config.json again") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{file} holds no object", remedy="download the model's config.json again")
    # A model of pictures and text keeps its language model's configuration in an inner one.
    inner = next((config[name] for name in ("text_config", "llm_config") if isinstance(config.get(name), dict)), config)
    return _shapes(inner if "hidden_size" not in config else config, file, model)


def _shapes(config: Mapping[str, Any], file: Path, model: str) -> Shapes:
    def size(*names: str, default: int | None = None) -> int:
        for name in names:
            value = config.get(name)
            if value is None:
                continue
            # A list is one size a layer; the first stands for all.
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise WeightsError(f"{file}: {name} is {value!r}", remedy="a whole number above 0 is needed")
            return value
        if default is None:
            raise WeightsError(f"{file} has no {names[0]}", remedy="name the config.json of a language model")
        return default

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    experts = size("num_experts", "n_routed_experts", "num_local_experts", default=0)
    said = config.get("torch_dtype") or config.get("dtype")
    epsilon = config.get("rms_norm_eps", config.get("layer_norm_eps"))
    return Shapes(
        model=model,
        hidden=hidden,
        intermediate=size(*(("intermediate_size", "moe_intermediate_size")[:: -1 if experts else 1])),
        heads=heads,
        kv_heads=size("num_key_value_heads", default=heads),
        head_dim=size("head_dim", default=max(hidden // heads, 1)),
        vocabulary=size("vocab_size"),
        experts=experts,
        experts_per_token=size("num_experts_per_tok", default=1) if experts else 0,
        epsilon=float(epsilon) if isinstance(epsilon, (int, float)) else Shapes.epsilon,
        dtype=said if said in FLOATS else Shapes.dtype,
    )
