"""Attention of H query heads over Hkv shared key-value heads (arXiv:1706.03762, 2305.13245), to itself or to a memory.

The fused kernel computes it where that pays; the rule of who sees whom comes from `visibility`.

Shapes: B batch, T time, E width, H heads, Hkv key-value heads, D head size, S keys in reach.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fledge.core.device import compute_dtype
from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.feedforward import Routing
from fledge.model.flex import Flexed, flex_attend, flexed, worth_flexing
from fledge.model.normalise import Norm
from fledge.model.positions import rotate_part
from fledge.model.visibility import Visibility

DENSE_UP_TO = {False: 2**26, True: 2**29}  # elements of a mask that are held at once, on a CPU and on a GPU
PIECE = 2**23  # elements of a piece's mask
PLAIN_UP_TO = 512  # keys: up to here plain attention in bfloat16 trains faster on a CPU than the fused kernel


@dataclass(frozen=True)
class Mask:
    """Who sees whom, in the form in which it costs least.

    dense: what is added to the scores, [B,1|H,T,S]. Where that would be large, the rule itself: `pieces`, from which it
    is made for some queries at a time, or `flexed`, for a GPU's own kernel. None of them: plain causal, or no bound.
    """

    dense: Tensor | None
    causal: bool
    pieces: Visibility | None = None
    flexed: Flexed | None = None


def mask_of(visible: Visibility, x: Tensor, heads: int, head_size: int) -> Mask:
    """The mask of a rule for x [B,T,E], in the precision in which products with x are computed."""
    if visible.trivial:
        return Mask(None, visible.causal)
    if worth_flexing(visible, x, head_size):
        return Mask(None, False, flexed=flexed(visible, len(x), x.shape[1]))
    if (
        len(x) * x.shape[1] * visible.keys * (1 if visible.bias is None else heads)
        > DENSE_UP_TO[x.device.type == "cuda"]
    ):
        return Mask(None, False, pieces=visible)
    return Mask(visible.mask(compute_dtype(x)), visible.causal)


@dataclass(frozen=True)
class Memory:
    """What a decoder reads from an encoder: hidden [B,S,E], the source's documents [B,S] (0: padding; None: all one).

    projected: keys and values [B,Hkv,S,D] of each decoder layer, where they were made beforehand (`encode` does).
    """

    hidden: Tensor
    documents: Tensor | None = None
    projected: tuple[tuple[Tensor, Tensor], ...] | None = None

    def rows(self, index: Tensor) -> "Memory":
        """The rows `index` [b], in that order: for beams, or for the live rows of a batch."""
        projected = self.projected and tuple((k[index], v[index]) for k, v in self.projected)
        documents = None if self.documents is None else self.documents[index]
        return Memory(self.hidden[index], documents, projected)


@dataclass(frozen=True)
class Surroundings:
    """What every block of a stack is given beside x.

    turn: cos and sin of each position, where positions are rotary. positions [B,T] and cache: when decoding.
    memory and memory_mask: what cross-attention reads. real [B,T] bool: tokens that are no padding (None: all).
    routed: where mixtures of experts note what their routers did. dropout: of each part's result, in training.
    """

    mask: Mask
    turn: tuple[Tensor, Tensor] | None = None
    positions: Tensor | None = None
    cache: Cache | None = None
    memory: Memory | None = None
    memory_mask: Mask | None = None
    real: Tensor | None = None
    routed: list[Routing] = field(default_factory=list)
    dropout: float = 0.0


class Attention(nn.Module):
    """Self-attention: queries, keys and values from one fused projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.heads, config.kv_heads, config.head_size
        self.scale = config.attention_scale
        inner = config.heads * config.head_size
        self.qkv = nn.Linear(config.width, inner + 2 * config.kv_heads * config.head_size, bias=config.qkv_bias)
        self.out = nn.Linear(inner, config.width, bias=config.output_bias)
        norm = partial(Norm, config.head_size, eps=config.norm_eps)
        self.q_norm: Norm | None = norm() if config.qk_norm else None
        self.k_norm: Norm | None = norm() if config.qk_norm else None

    def forward(self, x: Tensor, around: Surroundings, layer: int) -> Tensor:
        """x [B,T,E] → [B,T,E]."""
        batch, time, _ = x.shape
        qkv = self.qkv(x).view(batch, time, self.heads + 2 * self.kv_heads, self.head_size)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 2)
        q, k = self.placed(q, self.q_norm, around, v.dtype), self.placed(k, self.k_norm, around, v.dtype)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if around.cache is not None and around.positions is not None:
            k, v = around.cache.update(layer, around.positions, k, v)
        y = attend(q, k, v, around.mask, self.scale)
        return self.out(y.transpose(1, 2).reshape(batch, time, -1))

    def placed(self, x: Tensor, norm: Norm | None, around: Surroundings, dtype: torch.dtype) -> Tensor:
        """Queries or keys [B,T,H,D], normed and turned as the axes say."""
        if around.turn is None:
            return x if norm is None else norm(x)
        cos, sin = around.turn
        if norm is not None:
            return norm.rotated(x, cos, sin)
        return rotate_part(x, cos, sin).to(dtype)


class CrossAttention(nn.Module):
    """Attention to a memory; it knows no positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.heads, config.kv_heads, config.head_size
        self.scale = config.attention_scale
        inner = config.heads * config.head_size
        self.q = nn.Linear(config.width, inner, bias=config.qkv_bias)
        self.kv = nn.Linear(config.width, 2 * config.kv_heads * config.head_size, bias=config.qkv_bias)
        self.out = nn.Linear(inner, config.width, bias=config.output_bias)
        norm = partial(Norm, config.head_size, eps=config.norm_eps)
        self.q_norm: Norm | None = norm() if config.qk_norm else None
        self.k_norm: Norm | None = norm() if config.qk_norm else None

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values [B,Hkv,S,D] of a memory's hidden [B,S,E]."""
        kv = self.kv(hidden).view(*hidden.shape[:2], 2 * self.kv_heads, self.head_size)
        k, v = kv.split([self.kv_heads, self.kv_heads], 2)
        k = k if self.k_norm is None else self.k_norm(k)
        return k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Tensor, around: Surroundings, layer: int) -> Tensor:
        """x [B,T,E] → [B,T,E]."""
        memory, mask = around.memory, around.memory_mask
        assert memory is not None
        assert mask is not None
        batch, time, _ = x.shape
        q = self.q(x).view(batch, time, self.heads, self.head_size)
        q = q if self.q_norm is None else self.q_norm(q)
        k, v = self.project(memory.hidden) if memory.projected is None else memory.projected[layer]
        y = attend(q.transpose(1, 2), k, v, mask, self.scale)
        return self.out(y.transpose(1, 2).reshape(batch, time, -1))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None = None) -> Tensor:
    """q [B,H,T,D] over k, v [B,Hkv,S,D] → [B,H,T,D]."""
    if mask.flexed is not None:
        return flex_attend(q, k, v, mask.flexed, scale)
    if mask.pieces is not None:
        return attend_by_pieces(q, k, v, mask.pieces, scale)
    groups, added = q.shape[1] // k.shape[1], mask.dense
    trains_in_bfloat16 = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if added is None or not trains_in_bfloat16 or k.shape[2] > PLAIN_UP_TO:
        causal = mask.causal and added is None
        return F.scaled_dot_product_attention(q, k, v, added, is_causal=causal, scale=scale, enable_gqa=groups > 1)
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)) @ k.transpose(2, 3)
    return torch.softmax(scores.add_(added), -1, dtype=scores.dtype) @ v


def attend_by_pieces(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float | None) -> Tensor:
    """`attend` for some queries at a time, each with a mask of its own that is made again in the backward pass: memory
    grows with the length, not with its square."""
    heads = 1 if visible.bias is None else q.shape[1]
    rows = max(1, PIECE // (len(q) * heads * visible.keys))

    def piece(q: Tensor, k: Tensor, v: Tensor, part: slice) -> Tensor:
        return attend(q, k, v, Mask(visible.mask(q.dtype, part), False), scale)

    found = []
    for start in range(0, q.shape[2], rows):
        part = slice(start, start + rows)
        if torch.is_grad_enabled():
            found.append(checkpoint(piece, q[:, :, part], k, v, part, use_reentrant=False))
        else:
            found.append(piece(q[:, :, part], k, v, part))
    return torch.cat(found, 2)
