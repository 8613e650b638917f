"""Qwen3, dense (arXiv:2505.09388): LLaMA's block with RMS norms on queries and keys. What fledge itself creates."""

from dataclasses import replace
from typing import Any

from fledge.checkpoint.families import llama
from fledge.model.config import ModelConfig


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json."""
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    return llama.read(config) | {
        "qk_norm": True,
        "head_size": config.get("head_dim", 128),
        "feedforward_bias": False,
        "window": window,
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    values = llama.write(config)
    del values["mlp_bias"]
    windowed: dict[str, Any] = {"sliding_window": config.window, "use_sliding_window": config.window is not None}
    if config.window is not None:
        windowed |= {"max_window_layers": 0, "layer_types": ["sliding_attention"] * config.layers}
    return values | windowed


QWEN3 = replace(
    llama.LLAMA,
    model_type="qwen3",
    architectures={"language": "Qwen3ForCausalLM", "scalar": "Qwen3ForSequenceClassification"},
    read=read,
    write=write,
    block=(
        *llama.BLOCK,
        ("backbone.blocks.{i}.attention.q_norm.weight", ("model.layers.{i}.self_attn.q_norm.weight",)),
        ("backbone.blocks.{i}.attention.k_norm.weight", ("model.layers.{i}.self_attn.k_norm.weight",)),
    ),
)
