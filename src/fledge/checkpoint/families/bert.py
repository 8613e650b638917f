"""BERT (arXiv:1810.04805): an encoder with learned positions, token types, norms after the sums, and heads that name
hidden tokens, judge pairs, classify, tag, and point at answers. What fledge creates as an encoder."""

from typing import Any

from fledge.checkpoint.families.llama import BLOCK
from fledge.checkpoint.families.table import Family, HeadTable, Rule, linear
from fledge.checkpoint.families.words import activation_for, activation_of, refuse
from fledge.model.config import BIASES, ModelConfig

LAYER = "{p}encoder.layer.{i}"


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json."""
    refuse(config, is_decoder=False, add_cross_attention=False, position_embedding_type="absolute")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    return BIASES | {
        "shape": "encoder",
        "vocab_size": config["vocab_size"],
        "width": width,
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": heads,
        "head_size": width // heads,
        "hidden": config["intermediate_size"],
        "context": config["max_position_embeddings"],
        "positions": "learned",
        "residual": "post",
        "norm": "layer",
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "final_norm": False,
        "embedding_norm": True,
        "qk_norm": False,
        "gated": False,
        "activation": activation_of(config.get("hidden_act", "gelu")),
        "token_types": config.get("type_vocab_size", 2),
        "tied": config.get("tie_word_embeddings", True),
        "head_bias": True,
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": activation_for(config.activation, tanh="gelu_new"),
        "tie_word_embeddings": config.tied,
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    }


def pooled(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The rules of a pooler and the projection behind it."""
    return (*linear(f"{ours}.pooler", "{p}pooler.dense"), *linear(f"{ours}.out", theirs))


MASKED = (
    *linear("transform", "cls.predictions.transform.dense"),
    *linear("transform_norm", "cls.predictions.transform.LayerNorm"),
    Rule("head.weight", ("cls.predictions.decoder.weight",)),
    Rule("bias", ("cls.predictions.bias",)),
)

BERT = Family(
    model_type="bert",
    heads={
        "masked": HeadTable("BertForMaskedLM", MASKED),
        "pretraining": HeadTable("BertForPreTraining", (*MASKED, *pooled("pair", "cls.seq_relationship"))),
        "pair": HeadTable("BertForNextSentencePrediction", pooled("score", "cls.seq_relationship")),
        "classifier": HeadTable("BertForSequenceClassification", pooled("score", "classifier")),
        "tokens": HeadTable("BertForTokenClassification", linear("score", "classifier")),
        "span": HeadTable("BertForQuestionAnswering", linear("score", "qa_outputs")),
        "embedding": HeadTable("BertModel", prefix=""),
    },
    read=read,
    write=write,
    prefix="bert.",
    backbone=(
        Rule("backbone.embedding.weight", ("{p}embeddings.word_embeddings.weight",)),
        Rule("backbone.position_embedding.weight", ("{p}embeddings.position_embeddings.weight",)),
        Rule("backbone.type_embedding.weight", ("{p}embeddings.token_type_embeddings.weight",)),
        *linear("backbone.embedding_norm", "{p}embeddings.LayerNorm"),
    ),
    block=(
        *linear(f"{BLOCK}.attention.qkv", *(f"{LAYER}.attention.self.{part}" for part in ("query", "key", "value"))),
        *linear(f"{BLOCK}.attention.out", f"{LAYER}.attention.output.dense"),
        *linear(f"{BLOCK}.attention_norm", f"{LAYER}.attention.output.LayerNorm"),
        *linear(f"{BLOCK}.feedforward.up", f"{LAYER}.intermediate.dense"),
        *linear(f"{BLOCK}.feedforward.down", f"{LAYER}.output.dense"),
        *linear(f"{BLOCK}.feedforward_norm", f"{LAYER}.output.LayerNorm"),
    ),
    ignored=(r"position_ids$", r"^cls\.predictions\.decoder\.(weight|bias)$", r"^(bert\.)?pooler\.dense\."),
)
