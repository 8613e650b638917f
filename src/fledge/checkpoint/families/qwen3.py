"""Qwen3 (arXiv:2505.09388): LLaMA's block with RMS norms on queries and keys. What fledge creates as a decoder.

Dense, or with experts in every block.
"""

from dataclasses import replace
from typing import Any

from fledge.checkpoint.families import llama
from fledge.checkpoint.families.llama import BLOCK, LAYER
from fledge.checkpoint.families.mixtral import experts, read_experts
from fledge.checkpoint.families.table import EXPERTS, Rule
from fledge.checkpoint.families.words import refuse
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


def read_sparse(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json with experts."""
    refuse(config, decoder_sparse_step=1, mlp_only_layers=[])
    axes = read(config) | read_experts(config, config.get("num_experts", config.get("num_local_experts", 128)))
    routing = {"hidden": config["moe_intermediate_size"], "normalised_routing": config.get("norm_topk_prob", False)}
    return axes | routing


def write_sparse(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes with experts."""
    values = write(config)
    values.pop("max_window_layers", None)
    return values | experts(config) | {
        "num_experts": config.experts,
        "moe_intermediate_size": config.hidden,
        "norm_topk_prob": config.normalised_routing,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }  # fmt: skip


NORMS = (
    Rule(f"{BLOCK}.attention.q_norm.weight", (f"{LAYER}.self_attn.q_norm.weight",)),
    Rule(f"{BLOCK}.attention.k_norm.weight", (f"{LAYER}.self_attn.k_norm.weight",)),
)

QWEN3 = replace(
    llama.LLAMA,
    model_type="qwen3",
    heads=llama.heads_of("Qwen3"),
    read=read,
    write=write,
    block=(*llama.LLAMA.block, *NORMS),
)

QWEN3_MOE = replace(
    llama.LLAMA,
    model_type="qwen3_moe",
    heads=llama.heads_of("Qwen3Moe"),
    read=read_sparse,
    write=write_sparse,
    block=(
        *llama.ATTENTION,
        *NORMS,
        Rule(f"{BLOCK}.feedforward.router.weight", (f"{LAYER}.mlp.gate.weight",)),
        Rule(
            f"{BLOCK}.feedforward.up",
            (f"{LAYER}.mlp.experts.{{x}}.gate_proj.weight", f"{LAYER}.mlp.experts.{{x}}.up_proj.weight"),
            EXPERTS,
        ),
        Rule(f"{BLOCK}.feedforward.down", (f"{LAYER}.mlp.experts.{{x}}.down_proj.weight",), EXPERTS),
    ),
)
