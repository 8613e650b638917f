"""How much memory a step of training takes, by arithmetic: nothing is built.

What a block keeps for the backward pass was counted (saved tensors, forward passes of many shapes on a CPU and on an
imitated GPU); what it takes on the way back was measured on a CPU (`benchmarks/bench_memory.py`).
"""

import torch

from fledge.model.attention import DENSE_UP_TO, PLAIN_UP_TO
from fledge.model.config import ModelConfig
from fledge.objectives.language import logits_at_once

BACKWARD = 2.5  # blocks' worth of what is kept: gradients of one block, and what its operators need meanwhile
FIXED = 64 << 20  # bytes: room that libraries take for themselves
LOGITS = 12  # bytes of one logit in the chunk that is being read: itself, its exponential, its gradient


def step_bytes(
    config: ModelConfig, tokens: int, length: int, dtype: torch.dtype, device: torch.device, *, checkpointing: bool
) -> int:
    """Bytes beside weights and optimizer of a step on micro-batches of `tokens` in rows of `length`, in `dtype`."""
    block = kept_by_block(config, length, dtype, device)
    blocks = config.encoding_layers + config.layers * (1.5 if config.encoding_layers else 1)
    kept = (blocks * 4 * config.width + block) if checkpointing else blocks * block
    logits = LOGITS * logits_at_once(device)
    return int(tokens * (kept + BACKWARD * block) + mask_bytes(config, tokens, length, device)) + logits + FIXED


def kept_by_block(config: ModelConfig, length: int, dtype: torch.dtype, device: torch.device) -> float:
    """Bytes per token that a block keeps for its backward pass; attention is fused, so no scores are among them, but
    in bfloat16 on a CPU (short rows) and where the bias on them is learned."""
    half = dtype != torch.float32
    width, keys = max(config.width, config.heads * config.head_size), config.kv_heads * config.head_size
    chosen = max(1, config.top_k) if config.experts else 1
    inner = (chosen * config.hidden + config.shared_hidden) * (1 + config.gated) / 2
    kept = 42 * width + 8 * inner + 8 * keys if half else 48 * width + 16 * inner + 12 * keys
    if config.experts:
        kept += 12 * chosen * width
    plain = half and device.type == "cpu" and length <= PLAIN_UP_TO
    if plain or config.positions == "buckets":
        kept += (4 if half else 8) * config.heads * length
    return kept


def mask_bytes(config: ModelConfig, tokens: int, length: int, device: torch.device) -> int:
    """Bytes of who sees whom, and of the bias that lies on it."""
    heads = config.heads if config.positions in ("alibi", "buckets") else 1
    return 8 * min(tokens * length * heads, DENSE_UP_TO[device.type == "cuda"])
