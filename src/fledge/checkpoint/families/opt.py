"""OPT (arXiv:2205.01068): GPT-3's shape with relu and positions that start at row 2 of their table.

The 350 M model norms after the sums and has a token table narrower than its blocks.
"""

from typing import Any

from fledge.checkpoint.families.llama import BLOCK, HEAD, SCORE
from fledge.checkpoint.families.table import Family, HeadTable, Rule, linear
from fledge.checkpoint.families.words import activation_for, activation_of, refuse
from fledge.model.config import ModelConfig

LAYER = "{p}decoder.layers.{i}"


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json."""
    refuse(config, layer_norm_elementwise_affine=True)
    width, heads, bias = config["hidden_size"], config["num_attention_heads"], config.get("enable_bias", True)
    narrow, before = config.get("word_embed_proj_dim") or width, config.get("do_layer_norm_before", True)
    return {
        "vocab_size": config["vocab_size"],
        "width": width,
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": heads,
        "head_size": width // heads,
        "hidden": config["ffn_dim"],
        "context": config["max_position_embeddings"],
        "positions": "learned",
        "position_offset": 2,
        "residual": "pre" if before else "post",
        "norm": "layer",
        "norm_eps": 1e-5,
        "final_norm": before and not config.get("_remove_final_layer_norm", False),
        "qk_norm": False,
        "qkv_bias": bias,
        "output_bias": bias,
        "feedforward_bias": bias,
        "gated": False,
        "activation": activation_of(config.get("activation_function", "relu")),
        "embedding_width": None if narrow == width else narrow,
        "tied": config.get("tie_word_embeddings", True),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "ffn_dim": config.hidden,
        "max_position_embeddings": config.context,
        "word_embed_proj_dim": config.out_width,
        "do_layer_norm_before": config.residual == "pre",
        "_remove_final_layer_norm": config.residual == "pre" and not config.final_norm,
        "enable_bias": config.qkv_bias,
        "layer_norm_elementwise_affine": True,
        "activation_function": activation_for(config.activation, tanh="gelu_new"),
        "tie_word_embeddings": config.tied,
        **{"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0},
    }


OPT = Family(
    model_type="opt",
    heads={
        "language": HeadTable("OPTForCausalLM", (HEAD,)),
        "scalar": HeadTable("OPTForSequenceClassification", SCORE),
        "classifier": HeadTable("OPTForSequenceClassification", SCORE),
        "span": HeadTable("OPTForQuestionAnswering", linear("score", "qa_outputs")),
        "embedding": HeadTable("OPTModel", prefix=""),
    },
    read=read,
    write=write,
    prefix="model.",
    backbone=(
        Rule("backbone.embedding.weight", ("{p}decoder.embed_tokens.weight",)),
        Rule("backbone.position_embedding.weight", ("{p}decoder.embed_positions.weight",)),
        Rule("backbone.widen.weight", ("{p}decoder.project_in.weight",)),
        Rule("backbone.narrow.weight", ("{p}decoder.project_out.weight",)),
        *linear("backbone.norm", "{p}decoder.final_layer_norm"),
    ),
    block=(
        *linear(f"{BLOCK}.attention_norm", f"{LAYER}.self_attn_layer_norm"),
        *linear(f"{BLOCK}.attention.qkv", *(f"{LAYER}.self_attn.{part}_proj" for part in "qkv")),
        *linear(f"{BLOCK}.attention.out", f"{LAYER}.self_attn.out_proj"),
        *linear(f"{BLOCK}.feedforward_norm", f"{LAYER}.final_layer_norm"),
        *linear(f"{BLOCK}.feedforward.up", f"{LAYER}.fc1"),
        *linear(f"{BLOCK}.feedforward.down", f"{LAYER}.fc2"),
    ),
    ignored=(r"^lm_head\.weight$",),
)
