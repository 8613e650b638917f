"""The layers of a packed model on a processor: products (see `packed`), and between them the kernels of `native`.

Each token is computed as if it were alone, those of a prompt too: that is faster than torch's attention on a CPU, from
2.3 times for 128 tokens to 1.3 times for 2,000 (bfloat16), and it matters nowhere how a prompt was cut.

Shapes: B rows, T new tokens of each, N = B·T, E width, F feed-forward width, H heads, Hkv key-value heads, D head size.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.generate.int8 import Int8Linear
from fledge.generate.linear import Linear
from fledge.generate.native.attention import Heads, attend, turn
from fledge.generate.native.numbers import kind_of
from fledge.generate.native.stream import Rows, gate, prepare
from fledge.generate.native.threads import run
from fledge.generate.tiled import TiledLinear
from fledge.model.cache import Cache

if TYPE_CHECKING:
    from fledge.generate.packed import Layer, Norm, PackedModel

AnyLinear = Linear | Int8Linear | TiledLinear
ROWS = 256  # tokens in a feed-forward layer at once: what it holds stays in the cache


class Pass:
    """One pass of N tokens through the layers. `x` [B, T, E] float32 is the residual stream, changed in place."""

    def __init__(self, model: "PackedModel", x: Tensor, positions: Tensor, cache: Cache) -> None:
        config, layer = model.config, model.layers[0]
        batch, time, width = x.shape
        tokens, inner = batch * time, config.heads * config.head_size
        self.x, self.reach = x.view(tokens, width), cache.reach
        self.threads = torch.get_num_threads()
        self.places = torch.arange(batch) if time == 1 else torch.arange(batch).repeat_interleave(time)
        self.positions = positions.contiguous()
        self.q, self.attended = torch.empty(tokens, inner), torch.empty(tokens, inner)
        # the inputs of the products, and what the rows of the last one were divided by (int8)
        self.normed, self.gated = room(layer.qkv, tokens, width), room(layer.down, tokens, config.hidden)
        plain = layer.out.dtype == torch.float32 and not (layer.out.by_row or layer.out.pad)
        self.merged = None if plain else room(layer.out, tokens, inner)
        self.scale = torch.empty(tokens)
        self.due: tuple[Tensor, AnyLinear] | None = None  # a product that is still to be added to x, and whose it is
        self.rows = Rows()
        self.heads = Heads(
            rows=tokens, heads=config.heads, kv_heads=config.kv_heads, size=config.head_size,
            cos=model.cos.data_ptr(), sin=model.sin.data_ptr(), positions=self.positions.data_ptr(),
            places=self.places.data_ptr(), q=self.q.data_ptr(),
            length=cache.keys[0].shape[2], cache_kind=kind_of(cache.keys[0]), window=config.window or 0,
            out=self.attended.data_ptr(),
        )  # fmt: skip

    def prepare(
        self, x: Tensor, out: Tensor | None = None, ahead: AnyLinear | None = None, norm: "Norm | None" = None
    ) -> None:
        """x [n, width] += what is due; `out` = x, normalised if there is a norm, as the linear `ahead` wants it."""
        told = self.rows
        told.rows, told.width, told.x = x.shape[0], x.shape[1], x.data_ptr()
        if self.due is None:
            told.y = 0
        else:
            self._made(told, *self.due)
        if out is None:
            told.out = 0
        else:
            told.norm, told.floor = norm is not None, norm.least if norm else 0.0
            self._wanted(told, out, ahead)
        run(prepare, told, x.shape[0], x.numel(), self.threads)
        self.due = None

    def gate(self, layer: "Layer", y: Tensor, out: Tensor) -> None:
        """y [n, 2F] of `gate_up` → `out` [n, F] for `down`."""
        if layer.activation is F.silu:
            told = self.rows
            told.rows, told.width = y.shape[0], layer.hidden
            self._made(told, y, layer.gate_up)
            self._wanted(told, out, layer.down)
            run(gate, told, y.shape[0], y.numel(), self.threads)
            return
        if not isinstance(layer.gate_up, Linear) and layer.gate_up.by_row:
            y = layer.gate_up.finished(y, self.scale[: y.shape[0], None])
        gates, ups = y[:, : 2 * layer.hidden].chunk(2, -1)
        self.prepare((layer.activation(gates) * ups).float(), out, layer.down)

    def attention(self, layer: "Layer", y: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """y [N, (H + 2·Hkv)·D] of `qkv` → [N, H·D] float32; writes keys and values [B, Hkv, S, D]."""
        told = self.heads
        self._made(told, y, layer.qkv)
        told.keys, told.values = keys.data_ptr(), values.data_ptr()
        if layer.qk_norm is not None:
            told.weights, told.floor = layer.qk_scale.data_ptr(), layer.qk_norm.least
        run(turn, told, y.shape[0], y.numel(), self.threads)
        run(attend, told, y.shape[0] * layer.kv_heads, self.q.numel() * self.reach, self.threads)
        return self.attended

    def _made(self, told: Rows | Heads, y: Tensor, linear: AnyLinear) -> None:
        """The product `y` of a linear goes in."""
        told.y, told.y_half, told.y_stride = y.data_ptr(), y.dtype == torch.bfloat16, y.shape[1]
        told.y_scale = self.scale.data_ptr() if linear.by_row else 0
        told.y_bias = linear.bias.data_ptr() if linear.by_row and linear.bias is not None else 0

    def _wanted(self, told: Rows, out: Tensor, linear: AnyLinear | None) -> None:
        """`out` [n, stride], the input of a linear, comes out."""
        told.out, told.stride, told.kind = out.data_ptr(), out.shape[1], kind_of(out)
        told.scale = self.scale.data_ptr() if linear is not None and linear.by_row else 0


def run_layers(model: "PackedModel", x: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """The residual stream x [B, T, E] float32, which is used up, at positions [B, T] → hidden [B, T, E] after the final
    norm."""
    now = Pass(model, x, positions, cache)
    parts = now.x.split(ROWS)
    for layer, keys, values in zip(model.layers, cache.keys, cache.values):
        now.prepare(now.x, now.normed, layer.qkv, layer.norms[0])
        merged = now.attention(layer, layer.qkv.product(now.normed), keys, values)
        if now.merged is not None:
            now.prepare(merged, now.merged, layer.out)
            merged = now.merged
        now.due = layer.out.product(merged), layer.out
        if len(parts) > 1:
            now.prepare(now.x)
        for part in parts:
            normed, gated = now.normed[: part.shape[0]], now.gated[: part.shape[0]]
            now.prepare(part, normed, layer.gate_up, layer.norms[1])
            now.gate(layer, layer.gate_up.product(normed), gated)
            now.due = layer.down.product(gated), layer.down
            if len(parts) > 1:
                now.prepare(part)
    hidden = torch.empty(x.shape, dtype=torch.float32 if model.head.by_row else model.dtype)
    now.prepare(now.x, hidden.view(now.x.shape), None, model.norm)
    return hidden


def room(linear: AnyLinear, tokens: int, width: int) -> Tensor:
    """Memory for the input of a linear."""
    return (torch.zeros if linear.pad else torch.empty)(tokens, width + linear.pad, dtype=linear.dtype)
