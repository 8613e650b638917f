"""T5 (arXiv:1910.10683) and FLAN-T5 (arXiv:2210.11416): an encoder-decoder with learned distances, RMS norms and no
biases. T5 1.0 has relu and scales what it projects with its tied table; 1.1 and FLAN are gated and untied.

What fledge creates as an encoder-decoder is gated and tied.
"""

from typing import Any

from fledge.checkpoint.families.llama import BLOCK, HEAD
from fledge.checkpoint.families.table import Family, HeadTable, Rule, linear
from fledge.checkpoint.families.words import activation_for, activation_of
from fledge.model.config import ModelConfig

ENCODER, DECODER = "{p}encoder.block.{i}.layer", "{p}decoder.block.{i}.layer"
ENCODER_BLOCK = "backbone.encoder.blocks.{i}"


def read(config: dict[str, Any]) -> dict[str, Any]:
    """The axes of a config.json. Without positions no length is a limit; `n_positions` is what it was trained at.

    `scale_decoder_outputs` is how transformers 5 notes that a tied table is not to be scaled.
    """
    layers, width = config["num_layers"], config["d_model"]
    gate, _, activation = config.get("feed_forward_proj", "relu").rpartition("-")
    tied = config.get("tie_word_embeddings", True)
    return {
        "shape": "encoder_decoder",
        "vocab_size": config["vocab_size"],
        "width": width,
        "layers": config.get("num_decoder_layers") or layers,
        "encoder_layers": layers,
        "heads": config["num_heads"],
        "kv_heads": config["num_heads"],
        "head_size": config["d_kv"],
        "hidden": config["d_ff"],
        "context": config.get("n_positions") or 512,
        "positions": "buckets",
        "buckets": config.get("relative_attention_num_buckets", 32),
        "bucket_distance": config.get("relative_attention_max_distance", 128),
        "norm_eps": config.get("layer_norm_epsilon", 1e-6),
        "qk_norm": False,
        "attention_scale": 1.0,
        "gated": gate == "gated",
        "activation": activation_of("gelu_new" if (gate, activation) == ("gated", "gelu") else activation),
        "tied": tied,
        "output_scale": width**-0.5 if config.get("scale_decoder_outputs", tied) else 1.0,
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The config.json of these axes."""
    activation = activation_for(config.activation, tanh="gelu" if config.gated else "gelu_new")
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.width,
        "d_kv": config.head_size,
        "d_ff": config.hidden,
        "num_layers": config.encoding_layers,
        "num_decoder_layers": config.layers,
        "num_heads": config.heads,
        "n_positions": config.context,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.bucket_distance,
        "layer_norm_epsilon": config.norm_eps,
        "feed_forward_proj": f"gated-{activation}" if config.gated else activation,
        "tie_word_embeddings": config.tied,
        "scale_decoder_outputs": config.output_scale != 1,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.0,
    }


def attention(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The rules of self-attention with its norm, the first part of a block."""
    parts = linear(f"{ours}.attention.qkv", *(f"{theirs}.0.SelfAttention.{part}" for part in "qkv"))
    norm = linear(f"{ours}.attention_norm", f"{theirs}.0.layer_norm")
    return (*parts, *linear(f"{ours}.attention.out", f"{theirs}.0.SelfAttention.o"), *norm)


def feedforward(ours: str, theirs: str) -> tuple[Rule, ...]:
    """The rules of a feed-forward with its norm, the last part of a block."""
    dense = f"{theirs}.DenseReluDense"
    return (
        *linear(f"{ours}.feedforward.gate_up", f"{dense}.wi_0", f"{dense}.wi_1"),
        *linear(f"{ours}.feedforward.up", f"{dense}.wi"),
        *linear(f"{ours}.feedforward.down", f"{dense}.wo"),
        *linear(f"{ours}.feedforward_norm", f"{theirs}.layer_norm"),
    )


T5 = Family(
    model_type="t5",
    heads={
        "language": HeadTable("T5ForConditionalGeneration", (HEAD,)),
        "classifier": HeadTable(
            "T5ForSequenceClassification",
            (
                *linear("score.pooler", "classification_head.dense"),
                *linear("score.out", "classification_head.out_proj"),
            ),
            prefix="transformer.",
        ),
        "span": HeadTable("T5ForQuestionAnswering", linear("score", "qa_outputs")),
    },
    read=read,
    write=write,
    prefix="",
    backbone=(
        Rule("backbone.embedding.weight", ("{p}shared.weight",)),
        *(
            Rule(
                f"backbone.{ours}distances",
                (f"{{p}}{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
            )
            for ours, side in (("", "decoder"), ("encoder.", "encoder"))
        ),
        *linear("backbone.norm", "{p}decoder.final_layer_norm"),
        *linear("backbone.encoder.norm", "{p}encoder.final_layer_norm"),
    ),
    block=(
        *attention(BLOCK, DECODER),
        *linear(f"{BLOCK}.cross.q", f"{DECODER}.1.EncDecAttention.q"),
        *linear(f"{BLOCK}.cross.kv", f"{DECODER}.1.EncDecAttention.k", f"{DECODER}.1.EncDecAttention.v"),
        *linear(f"{BLOCK}.cross.out", f"{DECODER}.1.EncDecAttention.o"),
        *linear(f"{BLOCK}.cross_norm", f"{DECODER}.1.layer_norm"),
        *feedforward(BLOCK, f"{DECODER}.2"),
    ),
    encoder_block=(*attention(ENCODER_BLOCK, ENCODER), *feedforward(ENCODER_BLOCK, f"{ENCODER}.1")),
    ignored=(
        r"^lm_head\.weight$",
        r"(en|de)coder\.embed_tokens\.weight$",
        r"EncDecAttention\.relative_attention_bias\.weight$",
    ),
)
