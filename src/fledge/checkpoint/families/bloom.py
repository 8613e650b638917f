"""BLOOM (arXiv:2211.05100): ALiBi instead of positions, a norm behind the embedding, queries, keys and values stored
head by head."""

from typing import Any

from fledge.checkpoint.families.llama import BLOCK, HEAD, SCORE
from fledge.checkpoint.families.table import INTERLEAVED, Family, HeadTable, Rule, linear
from fledge.checkpoint.families.words import refuse
from fledge.model.config import BIASES, ModelConfig

LAYER = "{p}h.{i}"


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json. Without positions no length is a limit; `seq_length` is what it was trained at."""
    refuse(config, apply_residual_connection_post_layernorm=False)
    width = config.get("n_embed") or config["hidden_size"]
    heads = config.get("n_head") or config["num_attention_heads"]
    return BIASES | {
        "vocab_size": config["vocab_size"],
        "width": width,
        "layers": config.get("n_layer") or config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": heads,
        "head_size": width // heads,
        "hidden": 4 * width,
        "context": config.get("seq_length") or 2048,
        "positions": "alibi",
        "norm": "layer",
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "embedding_norm": True,
        "qk_norm": False,
        "gated": False,
        "activation": "gelu_tanh",
        "tied": config.get("tie_word_embeddings", True),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "seq_length": config.context,
        "layer_norm_epsilon": config.norm_eps,
        "apply_residual_connection_post_layernorm": False,
        "tie_word_embeddings": config.tied,
        **{"hidden_dropout": 0.0, "attention_dropout": 0.0},
    }


BLOOM = Family(
    model_type="bloom",
    heads={
        "language": HeadTable("BloomForCausalLM", (HEAD,)),
        "scalar": HeadTable("BloomForSequenceClassification", SCORE),
        "classifier": HeadTable("BloomForSequenceClassification", SCORE),
        "tokens": HeadTable("BloomForTokenClassification", linear("score", "classifier")),
        "span": HeadTable("BloomForQuestionAnswering", linear("score", "qa_outputs")),
        "embedding": HeadTable("BloomModel", prefix=""),
    },
    read=read,
    write=write,
    prefix="transformer.",
    backbone=(
        Rule("backbone.embedding.weight", ("{p}word_embeddings.weight",)),
        *linear("backbone.embedding_norm", "{p}word_embeddings_layernorm"),
        *linear("backbone.norm", "{p}ln_f"),
    ),
    block=(
        *linear(f"{BLOCK}.attention_norm", f"{LAYER}.input_layernorm"),
        *linear(f"{BLOCK}.attention.qkv", f"{LAYER}.self_attention.query_key_value", layout=INTERLEAVED),
        *linear(f"{BLOCK}.attention.out", f"{LAYER}.self_attention.dense"),
        *linear(f"{BLOCK}.feedforward_norm", f"{LAYER}.post_attention_layernorm"),
        *linear(f"{BLOCK}.feedforward.up", f"{LAYER}.mlp.dense_h_to_4h"),
        *linear(f"{BLOCK}.feedforward.down", f"{LAYER}.mlp.dense_4h_to_h"),
    ),
    ignored=(r"^lm_head\.weight$",),
)
