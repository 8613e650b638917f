"""Tiny random configs of every family, as `transformers` makes them, and what the tests compare."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor


class Case(NamedTuple):
    """A model of transformers' and how its forward pass is asked."""

    family: str
    architecture: str
    config: Callable[[], Any]
    encodes: bool = False  # an encoder: no cache, token types
    reads: bool = False  # an encoder-decoder


SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
GPT = {"vocab_size": 97, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OPT = {name: value for name, value in SIZES.items() if name != "intermediate_size"} | {"ffn_dim": 80}
BLOOM = {"vocab_size": 97, "hidden_size": 48, "n_layer": 2, "n_head": 4, "pad_token_id": 0}
BLOOM |= {"bos_token_id": 1, "eos_token_id": 2}
T5 = {"vocab_size": 97, "d_model": 48, "d_kv": 10, "d_ff": 80, "num_layers": 2, "num_heads": 4}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "decoder_start_token_id": 0}
MOE = GROUPED | {"num_experts_per_tok": 2}
QWEN_MOE = GROUPED | {"num_experts": 4, "moe_intermediate_size": 56, "head_dim": 16}


def rope(kind: str, **values: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 16, **values}


def made(name: str, sizes: dict[str, Any], **values: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, f"{name}Config")(**(sizes | values))


def decoder(family: str, name: str, sizes: dict[str, Any], architecture: str = "", **values: Any) -> Case:
    return Case(family, architecture or f"{name}ForCausalLM", made(name, sizes, **values))


def bert(architecture: str, **values: Any) -> Case:
    return Case("BERT", f"Bert{architecture}", made("Bert", SIZES, **values), encodes=True)


def t5(family: str, **values: Any) -> Case:
    return Case(family, "T5ForConditionalGeneration", made("T5", T5, **values), reads=True)


LLAMA3 = rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0)
CASES: dict[str, Case] = {
    "gpt2": decoder("GPT-2", "GPT2", GPT, "GPT2LMHeadModel"),
    "gpt2-inner-relu": decoder("GPT-2", "GPT2", GPT, "GPT2LMHeadModel", n_inner=80, activation_function="relu"),
    "gpt2-unscaled": decoder("GPT-2", "GPT2", GPT, "GPT2LMHeadModel", scale_attn_weights=False),
    "gpt2-untied": decoder("GPT-2", "GPT2", GPT, "GPT2LMHeadModel", tie_word_embeddings=False),
    "cerebras": decoder("Cerebras-GPT", "GPT2", GPT, "GPT2LMHeadModel", activation_function="gelu", n_inner=192),
    "gpt1": decoder("GPT-1", "OpenAIGPT", GPT, "OpenAIGPTLMHeadModel"),
    "gpt1-relu": decoder("GPT-1", "OpenAIGPT", GPT, "OpenAIGPTLMHeadModel", afn="relu", layer_norm_epsilon=1e-3),
    "llama": decoder("LLaMA", "Llama", GROUPED),
    "llama-tied-bias": decoder(
        "LLaMA", "Llama", GROUPED, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-3
    ),
    "llama-llama3-rope": decoder("LLaMA", "Llama", GROUPED, rope_parameters=LLAMA3),
    "llama-linear-rope": decoder("LLaMA", "Llama", GROUPED, rope_parameters=rope("linear")),
    "llama-yarn-rope": decoder("LLaMA", "Llama", GROUPED, rope_parameters=rope("yarn")),
    "llama-head-size": decoder("LLaMA", "Llama", GROUPED, head_dim=20, hidden_act="gelu"),
    "qwen3": decoder("Qwen3", "Qwen3", GROUPED, head_dim=16),
    "qwen3-tied": decoder("Qwen3", "Qwen3", GROUPED, head_dim=12, tie_word_embeddings=True),
    "qwen3-window": decoder(
        "Qwen3", "Qwen3", GROUPED, head_dim=12, sliding_window=5, use_sliding_window=True, max_window_layers=0
    ),
    "qwen3-yarn": decoder("Qwen3", "Qwen3", GROUPED, head_dim=16, rope_parameters=rope("yarn", beta_fast=4.0)),
    "qwen3-moe": decoder("Qwen3-MoE", "Qwen3Moe", QWEN_MOE, num_experts_per_tok=3),
    "qwen3-moe-normed": decoder("Qwen3-MoE", "Qwen3Moe", QWEN_MOE, num_experts_per_tok=1, norm_topk_prob=True),
    "mixtral": decoder("Mixtral", "Mixtral", MOE, num_local_experts=4),
    "mixtral-window-tied": decoder(
        "Mixtral", "Mixtral", MOE | {"num_experts_per_tok": 1}, num_local_experts=3, sliding_window=6,
        tie_word_embeddings=True,
    ),
    "opt": decoder("OPT", "OPT", OPT),
    "opt-350m": decoder("OPT", "OPT", OPT, do_layer_norm_before=False, word_embed_proj_dim=24),
    "opt-no-bias": decoder(
        "OPT", "OPT", OPT, enable_bias=False, activation_function="gelu", _remove_final_layer_norm=True
    ),
    "neox": decoder("GPT-NeoX", "GPTNeoX", SIZES, rotary_pct=0.5),
    "pythia-sequential": decoder("GPT-NeoX", "GPTNeoX", SIZES, use_parallel_residual=False, rotary_pct=0.5),
    "neox-no-bias": decoder("GPT-NeoX", "GPTNeoX", SIZES, attention_bias=False, rotary_pct=1.0, hidden_act="gelu_new"),
    "neox-linear-rope": decoder(
        "GPT-NeoX", "GPTNeoX", SIZES, rope_parameters=rope("linear") | {"partial_rotary_factor": 0.5}
    ),
    "bloom": decoder("BLOOM", "Bloom", BLOOM),
    "bloom-heads": decoder("BLOOM", "Bloom", BLOOM, n_head=6, tie_word_embeddings=False, layer_norm_epsilon=1e-3),
    "bert-masked": bert("ForMaskedLM"),
    "bert-masked-relu": bert("ForMaskedLM", hidden_act="relu", type_vocab_size=3, layer_norm_eps=1e-3),
    "bert-pretraining": bert("ForPreTraining"),
    "bert-pair": bert("ForNextSentencePrediction"),
    "bert-classifier": bert("ForSequenceClassification", num_labels=5),
    "bert-regression": bert("ForSequenceClassification", num_labels=1),
    "bert-tokens": bert("ForTokenClassification", num_labels=4),
    "bert-span": bert("ForQuestionAnswering"),
    "t5": t5("T5"),
    "t5-uneven": t5("T5", num_decoder_layers=1, feed_forward_proj="gelu", layer_norm_epsilon=1e-3),
    "flan-t5": t5("FLAN-T5", feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5-gated-relu": t5("FLAN-T5", feed_forward_proj="gated-relu"),
}  # fmt: skip


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that a mistake shows, norms and biases included; a T5 1.1 is given a head of its own."""
    torch.manual_seed(1)
    if getattr(model.config, "scale_decoder_outputs", True) is False:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name.lower() or "ln_" in name else 0.0, 0.2)
    return model.eval()


def theirs_of(name: str) -> torch.nn.Module:
    case = CASES[name]
    return randomised(getattr(transformers, case.architecture)(case.config()))


def logits_of(output: Any) -> Tensor:
    """The logits of either side's output: of tokens, labels, or starts and ends; of a pretraining head the tokens'."""
    if hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits], -1)
    if hasattr(output, "prediction_logits"):
        return output.prediction_logits
    return output.logits() if callable(output.logits) else output.logits
