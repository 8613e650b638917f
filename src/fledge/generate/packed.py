"""An inference copy of a language model that decodes faster.

For small models the number of operators per token decides: norms are folded into the linears behind them, queries and
keys are normalised and rotated as one. On a CPU the layers run by compiled kernels (`fused`), their products by tiles
where the processor has AVX-512 (`tiled`), else by oneDNN (`linear`) or torch's 8-bit operators (`int8`); there a row's
result does not depend on how many others there are, to the bit, in every precision. On a GPU the same copy runs on
torch's operators. The residual stream and the norms stay in float32 as in training under autocast. The copy is of the
weights as they are now; embeddings are shared with the model.

Shapes: B batch, T time, E width, F feed-forward width, H heads, Hkv key-value heads, D head size, S keys in reach,
V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.core.errors import FledgeError
from fledge.generate.int8 import Int8Linear, can_quantise
from fledge.generate.linear import Linear
from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel

if TYPE_CHECKING:
    from fledge.generate.fused import AnyLinear


@dataclass(frozen=True)
class PackedOutput:
    """hidden [..., E] after the final norm, and the head that makes logits of it."""

    hidden: Tensor
    head: "AnyLinear"

    def logits(self) -> Tensor:
        """[..., V] float32."""
        return self.head(self.hidden).float()


class PackedModel:
    """The weights of a LanguageModel laid out for decoding in `dtype` (float32 or bfloat16), no gradients."""

    @torch.no_grad()
    def __init__(self, model: LanguageModel, dtype: torch.dtype, int8: bool = False) -> None:
        backbone: Any = model.backbone
        self.config, self.dtype, self.device = model.config, dtype, backbone.embedding.weight.device
        self.fused = self.device.type == "cpu"
        linear = linears(self.device, dtype, int8)
        self.embedding = backbone.embedding.weight
        self.cos = torch.cat([backbone.cos, backbone.cos], -1)  # [context, D]
        self.sin = torch.cat([-backbone.sin, backbone.sin], -1)
        self.layers = [Layer(block, linear) for block in backbone.blocks]
        self.norm = Norm(backbone.norm.eps, self.config.width, self.device)
        weight = self.embedding if model.head is None else model.head.weight
        self.head = linear(weight * self.norm.folded(backbone.norm.weight), None)

    def __call__(self, ids: Tensor, positions: Tensor, cache: Cache) -> PackedOutput:
        """ids, positions int64 [B, T]: tokens written to the cache at their positions, each seeing what is cached up
        to its own. `cache` has B rows."""
        x = F.embedding(ids, self.embedding).float()
        if self.fused:
            from fledge.generate.fused import run_layers

            return PackedOutput(run_layers(self, x, positions, cache), self.head)
        cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]  # [B, T, 1, D]
        mask = self._mask(positions, cache.reach)
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        for layer, keys, values in zip(self.layers, cache.keys, cache.values):
            x = layer(x, cos, sin, mask, rows, positions, keys, values, cache.reach)
        return PackedOutput(self.norm(x), self.head)

    def _mask(self, positions: Tensor, reach: int) -> Tensor | None:
        """What may be seen, additive [B, 1, T, S]; None if that is everything."""
        window = self.config.window
        if positions.numel() == 1 and (window is None or window >= reach):
            return None
        keys = torch.arange(reach, device=positions.device)
        hidden = keys > positions[:, :, None]
        if window is not None:
            hidden |= keys <= positions[:, :, None] - window
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=keys.device)
        return mask.masked_fill_(hidden, -math.inf)[:, None]


def can_be_packed(config: ModelConfig) -> bool:
    """Whether this copy knows the axes: the shape that fledge creates as a decoder, LLaMA's, and their like."""
    axes = {
        "shape": "decoder", "head": "language", "positions": "rotary", "rope_fraction": 1.0, "residual": "pre",
        "norm": "rms", "final_norm": True, "embedding_norm": False, "attention_scale": None, "gated": True,
        "experts": 0, "embedding_scale": 1.0, "embedding_width": None, "token_types": 0, "output_scale": 1.0,
        "head_bias": False,
    }  # fmt: skip
    return all(getattr(config, name) == value for name, value in axes.items())


def linears(device: torch.device, dtype: torch.dtype, int8: bool) -> "Callable[[Tensor, Tensor | None], AnyLinear]":
    """What makes a linear of a weight and a bias: the fastest that this machine has."""
    if device.type == "cpu":
        from fledge.generate.native import tiles  # compiled code is loaded by who needs it
        from fledge.generate.tiled import TiledLinear

        kind = torch.uint8 if int8 else dtype
        if tiles.can_tile(kind):
            return partial(TiledLinear, dtype=kind)
    return Int8Linear if int8 else partial(Linear, dtype=dtype)


def packed(model: LanguageModel, dtype: torch.dtype, int8: bool = False) -> PackedModel:
    """A copy of the current weights for decoding in `dtype`, the linears in 8 bits if `int8`.

    Raises FledgeError if int8 is asked for where torch does not have it.
    """
    if int8 and not (model.backbone.embedding.weight.device.type == "cpu" and can_quantise()):
        raise FledgeError("int8 is for processors that torch has 8-bit linears for", "use bfloat16 or float32")
    return PackedModel(model, dtype, int8)


class Layer:
    """A `Block`, with the norms folded into the linears that follow them."""

    def __init__(self, block: Any, linear: "Callable[[Tensor, Tensor | None], AnyLinear]") -> None:
        attention, feedforward = block.attention, block.feedforward
        self.heads, self.kv_heads, self.head_size = attention.heads, attention.kv_heads, attention.head_size
        device, width = attention.qkv.weight.device, attention.qkv.in_features
        self.norms = [Norm(norm.eps, width, device) for norm in (block.attention_norm, block.feedforward_norm)]
        first, second = block.attention_norm.weight, block.feedforward_norm.weight
        self.qkv = linear(attention.qkv.weight * self.norms[0].folded(first), attention.qkv.bias)
        self.out = linear(attention.out.weight, attention.out.bias)
        weight = feedforward.gate_up.weight * self.norms[1].folded(second)
        self.gate_up = linear(weight, feedforward.gate_up.bias)
        self.activation, self.hidden = feedforward.activation, feedforward.down.in_features
        self.down = linear(feedforward.down.weight, feedforward.down.bias)
        self.qk_norm: Norm | None = None
        if attention.q_norm is not None and attention.k_norm is not None:
            self.qk_norm = Norm(attention.q_norm.eps, self.head_size, device)
            both = [attention.q_norm.weight] * self.heads + [attention.k_norm.weight] * self.kv_heads
            self.qk_scale = torch.stack([self.qk_norm.folded(weight) for weight in both])  # [H+Hkv, D]

    def __call__(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        rows: Tensor,
        positions: Tensor,
        keys: Tensor,
        values: Tensor,
        reach: int,
    ) -> Tensor:
        """x [B, T, E] float32 → [B, T, E]; writes keys and values [B, Hkv, ·, D] in place."""
        batch, time, _ = x.shape
        turned = self.heads + self.kv_heads
        qkv = self.qkv(self.norms[0](x)).view(batch, time, turned + self.kv_heads, self.head_size)
        qk = qkv[:, :, :turned]
        if self.qk_norm is not None:
            qk = self.qk_norm(qk) * self.qk_scale
        qk = torch.addcmul(qk * cos, qk.roll(self.head_size // 2, -1), sin).to(keys.dtype)
        v = qkv[:, :, turned:].to(keys.dtype)
        if batch == time == 1:
            at = reach - 1  # the one token is the last
            keys[:, :, at], values[:, :, at] = qk[:, 0, self.heads :], v[:, 0]
        else:
            keys[rows, :, positions], values[rows, :, positions] = qk[:, :, self.heads :], v
        q = qk[:, :, : self.heads].transpose(1, 2)
        k, v, grouped = keys[:, :, :reach], values[:, :, :reach], self.heads > self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=grouped)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, -1))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(self.activation(gate) * up)


class Norm:
    """x / √(Σx² + size·eps): an RMSNorm without its weight and √size, which go into the linear behind it."""

    def __init__(self, eps: float | None, size: int, device: torch.device) -> None:
        self.size, self.least = size, size * (eps or 0.0)
        self.floor = torch.tensor(math.sqrt(self.least), device=device)

    def __call__(self, x: Tensor) -> Tensor:
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32), self.floor)

    def folded(self, weight: Tensor) -> Tensor:
        """What the weights behind this norm are multiplied with."""
        return weight.float() * math.sqrt(self.size)
