"""LLaMA 1-3 (arXiv:2302.13971, 2407.21783): pre-norm RMS, rotary, grouped queries, SwiGLU. Also Mistral-like shapes."""

from typing import Any

from fledge.checkpoint.families.table import Family, HeadTable, Rule, linear
from fledge.checkpoint.families.words import activation_for, activation_of, read_rope, write_rope
from fledge.model.config import ModelConfig

LAYER, BLOCK = "{p}layers.{i}", "backbone.blocks.{i}"
HEAD = Rule("head.weight", ("lm_head.weight",))
SCORE = linear("score", "score")


def heads_of(name: str, *, answers: str = "transformer.") -> dict[str, HeadTable]:
    """The heads of a decoder family whose classes are called `name`For…; `answers`: what its tensors' names begin with
    under the head that points at answers."""
    return {
        "language": HeadTable(f"{name}ForCausalLM", (HEAD,)),
        "scalar": HeadTable(f"{name}ForSequenceClassification", SCORE),
        "classifier": HeadTable(f"{name}ForSequenceClassification", SCORE),
        "tokens": HeadTable(f"{name}ForTokenClassification", SCORE),
        "span": HeadTable(f"{name}ForQuestionAnswering", linear("score", "qa_outputs"), prefix=answers),
        "embedding": HeadTable(f"{name}Model", prefix=""),
    }


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json."""
    bias, heads = bool(config.get("attention_bias", False)), config["num_attention_heads"]
    return read_rope(config) | {
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
        "activation": activation_of(config.get("hidden_act", "silu")),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    return write_rope(config) | {
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
        "hidden_act": activation_for(config.activation),
        "tie_word_embeddings": config.tied,
    }


ATTENTION = (
    *linear(f"{BLOCK}.attention_norm", f"{LAYER}.input_layernorm"),
    *linear(f"{BLOCK}.feedforward_norm", f"{LAYER}.post_attention_layernorm"),
    *linear(f"{BLOCK}.attention.qkv", *(f"{LAYER}.self_attn.{part}_proj" for part in "qkv")),
    *linear(f"{BLOCK}.attention.out", f"{LAYER}.self_attn.o_proj"),
)

LLAMA = Family(
    model_type="llama",
    heads=heads_of("Llama"),
    read=read,
    write=write,
    prefix="model.",
    backbone=(
        Rule("backbone.embedding.weight", ("{p}embed_tokens.weight",)),
        Rule("backbone.norm.weight", ("{p}norm.weight",)),
    ),
    block=(
        *ATTENTION,
        *linear(f"{BLOCK}.feedforward.gate_up", f"{LAYER}.mlp.gate_proj", f"{LAYER}.mlp.up_proj"),
        *linear(f"{BLOCK}.feedforward.down", f"{LAYER}.mlp.down_proj"),
    ),
    ignored=(r"^lm_head\.weight$",),
)
