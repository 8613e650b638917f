"""Rotary position embeddings (arXiv:2104.09864), halves rotated against each other, with scaling to longer contexts.

Shapes: B batch, T time, H heads, D head size, S positions.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each pair of dimensions, [D/2] float32."""
    exponents = torch.arange(0, config.head_size, 2, dtype=torch.int64).float() / config.head_size
    return scaled(1.0 / config.rope_base**exponents, config.rope_scaling)


def scaled(frequencies: Tensor, scaling: dict[str, Any] | None) -> Tensor:
    """Frequencies stretched as `scaling` says: linear (arXiv:2306.15595) or llama3 (arXiv:2407.21783)."""
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
        case other:
            raise FledgeError(f"rotary scaling '{other}' is not known", "known: linear, llama3")


def rotary_table(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sin of every position, [S, D/2] float32 each."""
    angles = torch.outer(torch.arange(config.context).float(), rotary_frequencies(config))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B,T,H,D] rotated by cos, sin [B,T,1,D/2] (or [T,1,D/2])."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
