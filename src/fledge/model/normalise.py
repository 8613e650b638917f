"""RMS norm (arXiv:1910.07467), alone and followed by a rotation, with gradients written out for training on a CPU.

There autograd takes the norm apart into a dozen passes through memory, which cost a small model as much as its matrix
products. LayerNorm's backward kernel is one pass, and with mean 0 and our own scale it gives the gradient of the RMS
norm but for one term. A GPU has a fused kernel and a compiler fuses the plain formula, so both are left to them.

Shapes: B batch, T time, H heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge.model.config import ModelConfig
from fledge.model.positions import rotate


class Norm(nn.RMSNorm):
    """x / √(mean x² + eps) · weight over the last dimension, in the precision of x; sums are in float32 at least."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] → [..., E]."""
        if written_out(x):
            normed: Tensor = _Norm.apply(x, self.weight, self.eps)
            return normed
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)

    def rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Normed, then rotated: x [B,T,H,D], cos and sin [B,T,1,D/2] (or [T,1,D/2]) → [B,T,H,D]."""
        if written_out(x):
            turned: Tensor = _NormRotated.apply(x, self.weight, self.eps, cos, sin)
            return turned
        return rotate(self(x), cos, sin).to(x.dtype)


def norm_of(config: ModelConfig, size: int | None = None) -> "Norm | nn.LayerNorm":
    """The norm that a model of this config has everywhere, over its width or `size`."""
    if config.norm == "rms":
        return Norm(size or config.width, eps=config.norm_eps)
    return nn.LayerNorm(size or config.width, config.norm_eps, bias=config.norm_bias)


def written_out(x: Tensor) -> bool:
    """Whether the gradients below pay: when training on a CPU, not compiled."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision for sums: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / √(mean x² + eps) over the last dimension, which is kept."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide(x.dtype))
    return norm.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()


def norm_backward(grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the weight from the result's, all in the precision of `scale` = `inverse_rms(x)`."""
    size, zero = x.shape[-1], torch.zeros_like(scale)
    d_x, d_weight, _ = torch.ops.aten.native_layer_norm_backward(
        grad, x, [size], zero, scale, weight, None, [True, True, False]
    )
    with torch.autocast(x.device.type, enabled=False):
        # LayerNorm's gradient also loses the part along (1, …, 1): it is put back.
        d_x.addcmul_((grad @ weight)[..., None], scale, value=1 / size)
    return d_x, d_weight


def turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, sign: int = 1) -> None:
    """`rotate` into `out`; with sign -1 the inverse rotation."""
    (first, second), (to_first, to_second) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin, value=sign)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = inverse_rms(x, eps)
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, weight = ctx.saved_tensors
        dtype = scale.dtype
        d_x, d_weight = norm_backward(grad.to(dtype), x.to(dtype), scale, weight.to(dtype))
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None


class _NormRotated(torch.autograd.Function):
    """The result lies in memory as [B,H,T,D], as attention wants it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        scale = inverse_rms(x, eps)
        ctx.save_for_backward(x, scale, weight, cos, sin)
        normed = (x.to(scale.dtype) * scale).mul_(weight)
        result = normed.new_empty(normed.transpose(1, 2).shape).transpose(1, 2)
        turn(normed, cos, sin, result)
        return result.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, weight, cos, sin = ctx.saved_tensors
        dtype = scale.dtype
        d_normed = torch.empty(x.shape, dtype=dtype)
        turn(grad.to(dtype), cos, sin, d_normed, sign=-1)
        d_x, d_weight = norm_backward(d_normed, x.to(dtype), scale, weight.to(dtype))
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None, None, None
