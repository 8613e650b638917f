"""An inference copy of a language model that decodes faster: weights packed for oneDNN, norms folded into them.

A plain `F.linear` of a few rows uses a third of a CPU's memory bandwidth and hardly its bfloat16 units; oneDNN's own
weight layout uses both. The copy is made from the current weights of the blocks and the head (embeddings are shared
with the model); the residual stream and the norms stay in float32 as in training under autocast. Where oneDNN is
missing, and on a GPU, the same copy runs on plain linears. Leaves out int8.

Shapes: B batch, T time, E width, H heads, Hkv key-value heads, D head size, S keys in reach, V vocabulary.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge.model.cache import Cache
from fledge.model.heads import LanguageModel, Output
from fledge.model.positions import rotate
from fledge.model.transformer import Block

ROWS = 8  # the batch oneDNN lays weights out for; close to the best for 1 and for 128 too


def packed(model: LanguageModel, dtype: torch.dtype) -> "PackedModel":
    """A copy of the current weights for decoding in `dtype` (float32 or bfloat16)."""
    with torch.no_grad():
        return PackedModel(model, dtype)


@dataclass(frozen=True)  # no slots: it adds a field to a class with slots
class PackedOutput(Output):
    """An Output whose logits go through the packed head."""

    head: "PackedLinear"

    def logits(self) -> Tensor:
        """[B, T, V] float32."""
        return self.head(self.hidden).float()


class PackedModel(nn.Module):
    """A LanguageModel for inference: the same forward, no gradients."""

    def __init__(self, model: LanguageModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.dtype = model.config, dtype
        whole = model.backbone
        blocks, whole.blocks = whole.blocks, nn.ModuleList()
        try:
            self.backbone = deepcopy(whole, {id(t): t for t in (*whole.parameters(), *whole.buffers())})
        finally:
            whole.blocks = blocks
        self.backbone.blocks = nn.ModuleList(PackedBlock(block, dtype) for block in blocks)
        self.weight = whole.embedding.weight if model.head is None else model.head.weight
        self.head = PackedLinear(self.weight, None, dtype)

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None, cache: Cache | None = None
    ) -> PackedOutput:
        """ids [B, T] → Output; the arguments are those of `Transformer.forward`."""
        return PackedOutput(self.backbone(ids, positions, documents, cache), self.weight, self.head)


class PackedBlock(nn.Module):
    """A `Block` in fewer and faster steps, with the same arguments."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        attention, feedforward = block.attention, block.feedforward
        self.heads, self.kv_heads, self.head_size = attention.heads, attention.kv_heads, attention.head_size
        self.attention_norm = FoldedNorm(block.attention_norm)
        self.qkv = self.attention_norm.before(attention.qkv, dtype)
        self.out = PackedLinear(attention.out.weight, attention.out.bias, dtype)
        self.feedforward_norm = FoldedNorm(block.feedforward_norm)
        self.gate_up = self.feedforward_norm.before(feedforward.gate_up, dtype)
        self.down = PackedLinear(feedforward.down.weight, feedforward.down.bias, dtype)
        self.activation = feedforward.activation
        self.qk_norm: FoldedNorm | None = None
        if attention.q_norm is not None and attention.k_norm is not None:
            self.qk_norm = FoldedNorm(attention.q_norm)
            scale = [attention.q_norm.weight] * self.heads + [attention.k_norm.weight] * self.kv_heads
            self.qk_scale = torch.stack(scale).float() * math.sqrt(self.head_size)  # [H+Hkv, D]

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
        x = x.float()
        batch, time, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, time, -1, self.head_size)
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], 2)
        if self.qk_norm is not None:
            qk = self.qk_norm(qk) * self.qk_scale
        q, k = rotate(qk, cos, sin).to(v.dtype).transpose(1, 2).split([self.heads, self.kv_heads], 1)
        v = v.transpose(1, 2)
        if cache is not None and positions is not None:
            k, v = cache.update(layer, positions, k, v)
        mask = mask if mask is None else mask.to(q.dtype)
        grouped = self.heads > self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=grouped)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, -1))
        gate, up = self.gate_up(self.feedforward_norm(x)).chunk(2, -1)
        return x + self.down(self.activation(gate) * up)


class FoldedNorm(nn.Module):
    """An RMSNorm without its weight and without its √size, both of which the linear `before` which it stands takes."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        size = norm.weight.numel()
        self.scale = norm.weight.float() * math.sqrt(size)
        self.floor = torch.tensor(math.sqrt(size * (norm.eps or 0.0)), device=norm.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """x / √(Σx² + size·eps) over the last dimension, float32."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32), self.floor)

    def before(self, linear: nn.Linear, dtype: torch.dtype) -> "PackedLinear":
        """The linear that follows this norm, with the norm's weight in it."""
        return PackedLinear(linear.weight * self.scale, linear.bias, dtype)


class PackedLinear(nn.Module):
    """x @ weight.T + bias in `dtype`, by oneDNN's packed weights where there are any."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.is_packed = weight.device.type == "cpu" and can_pack(dtype)
        weight = weight.detach().to(dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS) if self.is_packed else weight

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.is_packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN's packed linear exists here and is right; it is a private operator of torch."""
    weight, x = torch.eye(16, 32, dtype=dtype), torch.ones(2, 32, dtype=dtype)
    try:
        layout = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        y = torch.ops.mkldnn._linear_pointwise(x, layout, None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(y, F.linear(x, weight))
