"""LLaMA 1-3 (arXiv:2302.13971, 2407.21783): pre-norm RMS, rotary, grouped queries, SwiGLU. Also Mistral-like shapes."""

from typing import Any

from fledge.checkpoint.families.table import Family, Rule
from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig

ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}

BACKBONE: tuple[Rule, ...] = (
    ("backbone.embedding.weight", ("model.embed_tokens.weight",)),
    ("backbone.norm.weight", ("model.norm.weight",)),
    ("head.weight", ("lm_head.weight",)),
    ("score.weight", ("score.weight",)),
)


def projections(kind: str) -> tuple[Rule, ...]:
    """The rules of a block's projections: weights or biases."""
    attention, mlp = "model.layers.{i}.self_attn.", "model.layers.{i}.mlp."
    ours = "backbone.blocks.{i}."
    return (
        (f"{ours}attention.qkv.{kind}", tuple(f"{attention}{part}_proj.{kind}" for part in "qkv")),
        (f"{ours}attention.out.{kind}", (f"{attention}o_proj.{kind}",)),
        (f"{ours}feedforward.gate_up.{kind}", (f"{mlp}gate_proj.{kind}", f"{mlp}up_proj.{kind}")),
        (f"{ours}feedforward.down.{kind}", (f"{mlp}down_proj.{kind}",)),
    )


BLOCK: tuple[Rule, ...] = (
    ("backbone.blocks.{i}.attention_norm.weight", ("model.layers.{i}.input_layernorm.weight",)),
    ("backbone.blocks.{i}.feedforward_norm.weight", ("model.layers.{i}.post_attention_layernorm.weight",)),
    *projections("weight"),
    *projections("bias"),
)


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.setdefault("rope_type", rope.pop("type", "default"))
    base = rope.pop("rope_theta", config.get("rope_theta", 10_000.0))
    if kind == "llama3":
        rope.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    activation = config.get("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        raise FledgeError(f"the activation '{activation}' is not known", f"known: {', '.join(ACTIVATIONS)}")
    bias, heads = bool(config.get("attention_bias", False)), config["num_attention_heads"]
    return {
        "vocab_size": config["vocab_size"],
        "width": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_size": config.get("head_dim") or config["hidden_size"] // heads,
        "hidden": config["intermediate_size"],
        "context": config["max_position_embeddings"],
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "qk_norm": False,
        "qkv_bias": bias,
        "output_bias": bias,
        "feedforward_bias": bool(config.get("mlp_bias", False)),
        "activation": ACTIVATIONS[activation],
        "rope_base": base,
        "rope_scaling": None if kind == "default" else rope,
        "tied": bool(config.get("tie_word_embeddings", False)),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    rope = {"rope_type": "default", **(config.rope_scaling or {}), "rope_theta": config.rope_base}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.qkv_bias,
        "attention_dropout": 0.0,
        "mlp_bias": config.feedforward_bias,
        "hidden_act": names[config.activation],
        "rope_theta": config.rope_base,
        "rope_parameters": rope,
        **({"rope_scaling": config.rope_scaling} if config.rope_scaling else {}),
        "tie_word_embeddings": config.tied,
    }


LLAMA = Family(
    model_type="llama",
    architectures={"language": "LlamaForCausalLM", "scalar": "LlamaForSequenceClassification"},
    read=read,
    write=write,
    backbone=BACKBONE,
    block=BLOCK,
)
