"""GPT-2 (Radford 2019), the shape of GPT-3 (arXiv:2005.14165) and Cerebras-GPT (arXiv:2304.03208), and GPT-1 (2018).

Learned positions, layer norms, plain feed-forward. GPT-1 norms after the sums and has no final norm. Projections are
stored transposed (Conv1D).
"""

from dataclasses import replace
from typing import Any

from fledge.checkpoint.families.llama import BLOCK, HEAD, SCORE
from fledge.checkpoint.families.table import TRANSPOSED, Family, HeadTable, Rule, linear
from fledge.checkpoint.families.words import activation_for, activation_of, refuse
from fledge.model.config import BIASES, ModelConfig

LAYER = "{p}h.{i}"


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json."""
    refuse(config, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    width, heads = config["n_embd"], config["n_head"]
    return BIASES | {
        "vocab_size": config["vocab_size"],
        "width": width,
        "layers": config["n_layer"],
        "heads": heads,
        "kv_heads": heads,
        "head_size": width // heads,
        "hidden": config.get("n_inner") or 4 * width,
        "context": config["n_positions"],
        "positions": "learned",
        "norm": "layer",
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "qk_norm": False,
        "attention_scale": None if config.get("scale_attn_weights", True) else 1.0,
        "gated": False,
        "activation": activation_of(config.get("activation_function", "gelu_new")),
        "tied": config.get("tie_word_embeddings", True),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.hidden,
        "n_positions": config.context,
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.attention_scale is None,
        "activation_function": activation_for(config.activation, tanh="gelu_new"),
        "tie_word_embeddings": config.tied,
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    }


def read_first(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a GPT-1's config.json, where gelu means the approximation."""
    activation = {"gelu": "gelu_new"}.get(config.get("afn", "gelu"), config.get("afn"))
    axes = read({**config, "activation_function": activation, "n_inner": None})
    return axes | {"residual": "post", "final_norm": False}


def write_first(config: ModelConfig) -> dict[str, Any]:
    """A GPT-1's config.json."""
    values = write(config)
    del values["n_inner"], values["scale_attn_weights"]
    return values | {"afn": {"gelu_new": "gelu"}.get(values.pop("activation_function"), config.activation)}


GPT2 = Family(
    model_type="gpt2",
    heads={
        "language": HeadTable("GPT2LMHeadModel", (HEAD,)),
        "scalar": HeadTable("GPT2ForSequenceClassification", SCORE),
        "classifier": HeadTable("GPT2ForSequenceClassification", SCORE),
        "tokens": HeadTable("GPT2ForTokenClassification", linear("score", "classifier")),
        "span": HeadTable("GPT2ForQuestionAnswering", linear("score", "qa_outputs")),
        "embedding": HeadTable("GPT2Model", prefix=""),
    },
    read=read,
    write=write,
    prefix="transformer.",
    backbone=(
        Rule("backbone.embedding.weight", ("{p}wte.weight",)),
        Rule("backbone.position_embedding.weight", ("{p}wpe.weight",)),
        *linear("backbone.norm", "{p}ln_f"),
    ),
    block=(
        *linear(f"{BLOCK}.attention_norm", f"{LAYER}.ln_1"),
        *linear(f"{BLOCK}.attention.qkv", f"{LAYER}.attn.c_attn", layout=TRANSPOSED),
        *linear(f"{BLOCK}.attention.out", f"{LAYER}.attn.c_proj", layout=TRANSPOSED),
        *linear(f"{BLOCK}.feedforward_norm", f"{LAYER}.ln_2"),
        *linear(f"{BLOCK}.feedforward.up", f"{LAYER}.mlp.c_fc", layout=TRANSPOSED),
        *linear(f"{BLOCK}.feedforward.down", f"{LAYER}.mlp.c_proj", layout=TRANSPOSED),
    ),
    ignored=(r"^lm_head\.weight$", r"h\.\d+\.attn\.(masked_)?bias$"),
)

GPT1 = replace(
    GPT2,
    model_type="openai-gpt",
    heads={
        "language": HeadTable("OpenAIGPTLMHeadModel", (HEAD,)),
        "scalar": HeadTable("OpenAIGPTForSequenceClassification", SCORE),
        "classifier": HeadTable("OpenAIGPTForSequenceClassification", SCORE),
        "embedding": HeadTable("OpenAIGPTModel", prefix=""),
    },
    read=read_first,
    write=write_first,
    backbone=(
        Rule("backbone.embedding.weight", ("{p}tokens_embed.weight",)),
        Rule("backbone.position_embedding.weight", ("{p}positions_embed.weight",)),
    ),
)
