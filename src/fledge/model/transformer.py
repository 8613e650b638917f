"""ONE Transformer (arXiv:1706.03762) whose architecture is the point `ModelConfig` in a space of axes.

Tokens to hidden states: embedding, pre-norm blocks of grouped-query attention (arXiv:2305.13245) with rotary
positions and a gated feed-forward (arXiv:2002.05202), a final norm. Heads are in `heads`; distribution, precision
and caching policy are applied from outside. Projections that read the same input are fused (qkv, gate_up).

Shapes: B batch, T time, E width, H heads, Hkv key-value heads, D head size, F feed-forward width, S keys in reach.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fledge.core.device import compute_dtype
from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.normalise import Norm
from fledge.model.positions import rotary_table, rotate

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
PLAIN_UP_TO = 512  # keys: up to here plain attention in bfloat16 trains faster on a CPU than the fused kernel


class Attention(nn.Module):
    """Causal attention of H query heads over Hkv shared key-value heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.heads, config.kv_heads, config.head_size
        inner = config.heads * config.head_size
        self.qkv = nn.Linear(config.width, inner + 2 * config.kv_heads * config.head_size, bias=config.qkv_bias)
        self.out = nn.Linear(inner, config.width, bias=config.output_bias)
        norm = partial(Norm, config.head_size, eps=config.norm_eps)
        self.q_norm: Norm | None = norm() if config.qk_norm else None
        self.k_norm: Norm | None = norm() if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: Cache | None,
        layer: int,
    ) -> Tensor:
        """x [B,T,E] → [B,T,E]; mask [B,1,T,S] additive, or None for plain causal."""
        batch, time, _ = x.shape
        qkv = self.qkv(x).view(batch, time, self.heads + 2 * self.kv_heads, self.head_size)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm.rotated(q, cos, sin), self.k_norm.rotated(k, cos, sin)
        else:
            q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None and positions is not None:
            k, v = cache.update(layer, positions, k, v)
        y = attend(q, k, v, mask)
        return self.out(y.transpose(1, 2).reshape(batch, time, -1))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q [B,H,T,D] over k, v [B,Hkv,S,D] → [B,H,T,D]; mask as in Attention."""
    groups = q.shape[1] // k.shape[1]
    trains_in_bfloat16 = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if mask is None or not trains_in_bfloat16 or k.shape[2] > PLAIN_UP_TO:
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=groups > 1)
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(2, 3)
    return torch.softmax(scores.add_(mask), -1, dtype=scores.dtype) @ v


class FeedForward(nn.Module):
    """down(activation(gate(x)) · up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, bias=config.feedforward_bias)
        self.down = nn.Linear(config.hidden, config.width, bias=config.feedforward_bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,E] → [B,T,E]."""
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(self.activation(gate) * up)


class Block(nn.Module):
    """A pre-norm residual block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.feedforward_norm = Norm(config.width, eps=config.norm_eps)
        self.feedforward = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: Cache | None,
        layer: int,
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, positions, cache, layer)
        return x + self.feedforward(self.feedforward_norm(x))


class Transformer(nn.Module):
    """Embedding, blocks and final norm: token ids to hidden states."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width, eps=config.norm_eps)
        cos, sin = rotary_table(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.checkpointing = False
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Normal weights of std 0.02, output projections scaled down by √(2·layers) (GPT-2)."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 2:
                output = name.endswith(("out.weight", "down.weight"))
                parameter.normal_(0, 0.02 / math.sqrt(2 * self.config.layers) if output else 0.02)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """ids [B,T] → hidden [B,T,E].

        positions [B,T]: 0, 1, 2 … by default. documents [B,T]: tokens see only their own document's past; 0 is
        padding. cache: token t of row b is written at positions[b,t] and sees the cached positions up to it.
        """
        if positions is None:
            cos, sin = self.cos[: ids.shape[1], None], self.sin[: ids.shape[1], None]
        else:
            cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        x = self.embedding(ids)
        mask = self.mask(ids, positions, documents, cache, x)
        for layer, block in enumerate(self.blocks):
            arguments = (x, cos, sin, mask, positions, cache, layer)
            if self.checkpointing and self.training:
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
        return self.norm(x)

    def mask(
        self, ids: Tensor, positions: Tensor | None, documents: Tensor | None, cache: Cache | None, x: Tensor
    ) -> Tensor | None:
        """Additive [B,1,T,S] in the compute precision, or None where plain causal attention is meant."""
        window = self.config.window
        if cache is not None and positions is not None:
            keys = torch.arange(cache.reach, device=ids.device)
            allowed = keys <= positions[:, :, None]
            if window:
                allowed &= keys > positions[:, :, None] - window
        elif documents is None and window is None:
            return None
        else:
            steps = torch.arange(ids.shape[1], device=ids.device)
            allowed = (steps[:, None] >= steps)[None]
            if documents is not None:
                allowed = allowed & (documents[:, :, None] == documents[:, None, :])
            if window:
                allowed = allowed & (steps > steps[:, None] - window)
        dtype = compute_dtype(x)
        blocked = torch.zeros(allowed.shape, dtype=dtype, device=x.device)
        return blocked.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
