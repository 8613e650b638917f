"""Mixtral (arXiv:2401.04088): LLaMA's block with a mixture of experts, each token through the top two."""

from dataclasses import replace
from typing import Any

from fledge.checkpoint.families import llama
from fledge.checkpoint.families.llama import BLOCK, LAYER
from fledge.checkpoint.families.table import EXPERTS, Rule
from fledge.checkpoint.families.words import refuse
from fledge.model.config import ModelConfig


def read_experts(config: dict[str, Any], count: int) -> dict[str, Any]:
    """The axes of a mixture. Their coefficient weighs a loss that is top_k where ours is 1."""
    refuse(config, router_jitter_noise=0.0)
    top_k = config.get("num_experts_per_tok", 2)
    return {
        "experts": count,
        "top_k": top_k,
        "balance": round(config.get("router_aux_loss_coef", 0.001) * top_k, 12),
        "router_z": config.get("router_z_loss_coef", 0.0),
    }


def experts(config: ModelConfig) -> dict[str, Any]:
    """The keys of a mixture in config.json."""
    z = {"router_z_loss_coef": config.router_z} if config.router_z else {}
    return {"num_experts_per_tok": config.top_k, "router_aux_loss_coef": config.balance / config.top_k, **z}


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json."""
    base = {"rope_theta": 1_000_000.0, "rms_norm_eps": 1e-5}
    axes = llama.read(base | config) | {"feedforward_bias": False, "window": config.get("sliding_window")}
    return axes | read_experts(config, config.get("num_local_experts", 8))


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    values = llama.write(config)
    del values["mlp_bias"], values["attention_bias"]
    mixture = experts(config) | {"num_local_experts": config.experts, "sliding_window": config.window}
    return values | mixture | {"router_jitter_noise": 0.0}


MOE = f"{LAYER}.block_sparse_moe"

MIXTRAL = replace(
    llama.LLAMA,
    model_type="mixtral",
    heads=llama.heads_of("Mixtral", answers="model."),
    read=read,
    write=write,
    block=(
        *llama.ATTENTION,
        Rule(f"{BLOCK}.feedforward.router.weight", (f"{MOE}.gate.weight",)),
        Rule(f"{BLOCK}.feedforward.up", (f"{MOE}.experts.{{x}}.w1.weight", f"{MOE}.experts.{{x}}.w3.weight"), EXPERTS),
        Rule(f"{BLOCK}.feedforward.down", (f"{MOE}.experts.{{x}}.w2.weight",), EXPERTS),
    ),
)
