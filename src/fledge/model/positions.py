"""Where a token stands: rotary (arXiv:2104.09864), sinusoidal (arXiv:1706.03762), ALiBi (arXiv:2108.12409), T5 buckets.

Shapes: B batch, T time, H heads, D head size, R rotated dimensions of a head, S positions.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each pair of dimensions, [R/2] float32."""
    size = config.rotary_size
    exponents = torch.arange(0, size, 2, dtype=torch.int64).float() / size
    return scaled(1.0 / config.rope_base**exponents, config.rope_scaling, config.rope_base)


def scaled(frequencies: Tensor, scaling: dict[str, Any] | None, base: float = 10_000.0) -> Tensor:
    """Frequencies stretched as `scaling` says, `rope_type` being

    linear (arXiv:2306.15595): all by `factor`;
    llama3 (arXiv:2407.21783): by how often a pair turns in `original_max_position_embeddings`, between
    `low_freq_factor` and `high_freq_factor`;
    yarn (arXiv:2309.00071): the same idea with a ramp over the dimensions from `beta_fast` (32) to `beta_slow` (1)
    turns; the attention is sharpened too, see `sharpening`.
    NTK-aware scaling is a larger base, not a type of its own: see `ntk_base`.
    """
    if scaling is None:
        return frequencies
    factor = scaling["factor"]
    match scaling["rope_type"]:
        case "linear":
            return frequencies / factor
        case "llama3":
            context = scaling["original_max_position_embeddings"]
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            turns = context * frequencies / (2 * math.pi)
            smooth = ((turns - low) / (high - low)).clamp(0, 1)
            return frequencies * (smooth + (1 - smooth) / factor)
        case "yarn":
            context, half = scaling["original_max_position_embeddings"], len(frequencies)

            def dimension(turns: float) -> float:
                return half * math.log(context / (turns * 2 * math.pi)) / math.log(base)

            low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
            if scaling.get("truncate", True):
                low, high = math.floor(low), math.ceil(high)
            low, high = max(low, 0), min(high, 2 * half - 1)
            ramp = ((torch.arange(half).float() - low) / max(high - low, 0.001)).clamp(0, 1)
            return frequencies * (1 - ramp) + frequencies / factor * ramp
        case other:
            raise FledgeError(f"rotary scaling '{other}' is not known", "known: linear, llama3, yarn")


def sharpening(scaling: dict[str, Any] | None) -> float:
    """What YaRN multiplies queries and keys with: 0.1·ln(factor) + 1, or `attention_factor`."""
    if scaling is None or scaling["rope_type"] != "yarn":
        return 1.0
    given, factor = scaling.get("attention_factor"), scaling["factor"]
    if given is not None:
        return float(given)
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def ntk_base(base: float, factor: float, size: int) -> float:
    """The rotary base that stretches the slowest pair by `factor` and leaves the fastest (NTK-aware scaling)."""
    return base * factor ** (size / (size - 2))


def rotary_table(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sin of every position, [S, R/2] float32 each."""
    angles = torch.outer(torch.arange(config.context).float(), rotary_frequencies(config))
    sharp = sharpening(config.rope_scaling)
    return (angles.cos(), angles.sin()) if sharp == 1 else (angles.cos() * sharp, angles.sin() * sharp)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B,T,H,D] rotated by cos, sin [B,T,1,D/2] (or [T,1,D/2])."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def rotate_part(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first R dimensions of each head rotated, the others left: cos and sin have R/2."""
    size = 2 * cos.shape[-1]
    if size == x.shape[-1]:
        return rotate(x, cos, sin)
    return torch.cat([rotate(x[..., :size], cos, sin), x[..., size:].to(cos.dtype)], -1)


def sinusoids(context: int, width: int) -> Tensor:
    """[S,E]: sine and cosine in turn, wavelengths from 2π to 2π·10,000."""
    rates = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10_000.0) / width))
    angles = torch.outer(torch.arange(context).float(), rates)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


def alibi_slopes(heads: int) -> Tensor:
    """[H] float32: how much each head dislikes distance. Of a power of two: 2^(-8/H), 2^(-16/H) …; else the slopes of
    the next lower power, then every other one of the next higher."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(slopes)


def bucket(distance: Tensor, buckets: int, furthest: int, *, both_ways: bool) -> Tensor:
    """T5's bucket of a key that stands `distance` after its query (negative: before); same shape, int64.

    Half of the buckets are single distances, the others grow logarithmically up to `furthest`. both_ways: keys after
    the query have a half of their own; else they all fall into bucket 0.
    """
    first = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        first = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(furthest / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, far)
