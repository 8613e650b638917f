"""GPT-NeoX (arXiv:2204.06745) and Pythia (arXiv:2304.01373): rotary positions of a quarter of each head, attention
and feed-forward side by side. Queries, keys and values are stored head by head."""

from typing import Any

from fledge.checkpoint.families.llama import BLOCK, SCORE
from fledge.checkpoint.families.table import INTERLEAVED, Family, HeadTable, Rule, linear
from fledge.checkpoint.families.words import activation_for, activation_of, read_rope, write_rope
from fledge.model.config import ModelConfig

LAYER = "{p}layers.{i}"


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json."""
    width, heads, bias = config["hidden_size"], config["num_attention_heads"], config.get("attention_bias", True)
    return read_rope(config, fraction=0.25) | {
        "vocab_size": config["vocab_size"],
        "width": width,
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": heads,
        "head_size": width // heads,
        "hidden": config["intermediate_size"],
        "context": config["max_position_embeddings"],
        "residual": "parallel" if config.get("use_parallel_residual", True) else "pre",
        "norm": "layer",
        "norm_eps": config.get("layer_norm_eps", 1e-5),
        "qk_norm": False,
        "qkv_bias": bias,
        "output_bias": bias,
        "feedforward_bias": True,
        "gated": False,
        "activation": activation_of(config.get("hidden_act", "gelu")),
        "tied": config.get("tie_word_embeddings", False),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    rope = write_rope(config)
    rope["rope_parameters"] = rope["rope_parameters"] | {"partial_rotary_factor": config.rope_fraction}
    return rope | {
        "rotary_pct": config.rope_fraction,
        "rotary_emb_base": config.rope_base,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "use_parallel_residual": config.residual == "parallel",
        "layer_norm_eps": config.norm_eps,
        "attention_bias": config.qkv_bias,
        "hidden_act": activation_for(config.activation, tanh="gelu_new"),
        "tie_word_embeddings": config.tied,
        **{"attention_dropout": 0.0, "hidden_dropout": 0.0},
    }


NEOX = Family(
    model_type="gpt_neox",
    heads={
        "language": HeadTable("GPTNeoXForCausalLM", (Rule("head.weight", ("embed_out.weight",)),)),
        "scalar": HeadTable("GPTNeoXForSequenceClassification", SCORE),
        "classifier": HeadTable("GPTNeoXForSequenceClassification", SCORE),
        "tokens": HeadTable("GPTNeoXForTokenClassification", linear("score", "classifier")),
        "span": HeadTable("GPTNeoXForQuestionAnswering", linear("score", "qa_outputs")),
        "embedding": HeadTable("GPTNeoXModel", prefix=""),
    },
    read=read,
    write=write,
    prefix="gpt_neox.",
    backbone=(
        Rule("backbone.embedding.weight", ("{p}embed_in.weight",)),
        *linear("backbone.norm", "{p}final_layer_norm"),
    ),
    block=(
        *linear(f"{BLOCK}.attention_norm", f"{LAYER}.input_layernorm"),
        *linear(f"{BLOCK}.attention.qkv", f"{LAYER}.attention.query_key_value", layout=INTERLEAVED),
        *linear(f"{BLOCK}.attention.out", f"{LAYER}.attention.dense"),
        *linear(f"{BLOCK}.feedforward_norm", f"{LAYER}.post_attention_layernorm"),
        *linear(f"{BLOCK}.feedforward.up", f"{LAYER}.mlp.dense_h_to_4h"),
        *linear(f"{BLOCK}.feedforward.down", f"{LAYER}.mlp.dense_4h_to_h"),
    ),
    ignored=(r"^embed_out\.weight$", r"attention\.(masked_)?bias$"),
)
