"""The feed-forward of a block: plain or gated (arXiv:2002.05202), dense or a mixture of experts.

A mixture (Shazeer, arXiv:1701.06538; GLaM, arXiv:2112.06905; Mixtral, arXiv:2401.04088) sends each token to the top-k
of X experts and adds up their outputs, weighted by the router's probabilities. No expert has a capacity: tokens are
sorted by expert and each expert multiplies its own group, so none is dropped or padded. The router's losses are those
of Switch (arXiv:2101.03961: balance) and ST-MoE (arXiv:2202.08906: z).

Shapes: N tokens, E width, F feed-forward width, X experts, K chosen.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge.model.config import ModelConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class Routing(NamedTuple):
    """What one mixture's router did in one call, with gradient: its losses, and the share of tokens per expert [X]."""

    balance: Tensor
    z: Tensor
    load: Tensor


class FeedForward(nn.Module):
    """down(activation(gate(x)) · up(x)), or down(activation(up(x)))."""

    def __init__(self, config: ModelConfig, hidden: int | None = None) -> None:
        super().__init__()
        inner, self.gated = hidden or config.hidden, config.gated
        if config.gated:
            self.gate_up = nn.Linear(config.width, 2 * inner, bias=config.feedforward_bias)
        else:
            self.up = nn.Linear(config.width, inner, bias=config.feedforward_bias)
        self.down = nn.Linear(inner, config.width, bias=config.feedforward_bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """[B,T,E] → [B,T,E]."""
        if not self.gated:
            return self.down(self.activation(self.up(x)))
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(self.activation(gate) * up)


class Experts(nn.Module):
    """A mixture of X feed-forwards, and one shared by all tokens where the config has it. No biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k, self.normalised, self.gated = config.top_k, config.normalised_routing, config.gated
        self.router = nn.Linear(config.width, config.experts, bias=False)
        inner = config.hidden * (1 + config.gated)
        self.up = nn.Parameter(torch.empty(config.experts, inner, config.width))
        self.down = nn.Parameter(torch.empty(config.experts, config.width, config.hidden))
        self.shared = FeedForward(config, config.shared_hidden) if config.shared_hidden else None
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, real: Tensor | None) -> tuple[Tensor, Routing]:
        """[B,T,E] → [B,T,E] and what the router did; real [B,T] bool: the tokens that its losses count."""
        flat = x.flatten(0, -2)
        logits = self.router(flat).float()
        chances = logits.softmax(-1)
        weights, chosen = chances.topk(self.top_k, -1)  # [N,K]
        if self.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(self.up))
        token = order // self.top_k
        h = grouped(flat[token], self.up, counts)
        if self.gated:
            gate, up = h.chunk(2, -1)
            h = self.activation(gate) * up
        else:
            h = self.activation(h)
        h = grouped(h, self.down, counts) * weights.flatten()[order, None].to(h.dtype)
        y = torch.zeros(flat.shape, dtype=h.dtype, device=h.device).index_add(0, token, h).view(x.shape)
        if self.shared is not None:
            y = y + self.shared(x)
        return y, routing(logits, chances, chosen, None if real is None else real.flatten())


def routing(logits: Tensor, chances: Tensor, chosen: Tensor, real: Tensor | None) -> Routing:
    """The router's losses, from logits and chances [N,X], chosen [N,K] and real [N] bool (None: all).

    balance: X · Σ_e (share of choices that fell on e · mean chance of e), 1 where all experts are used alike
    (times K/K: shares sum to 1). z: the mean of logsumexp(logits)².
    """
    experts = chances.shape[1]
    share = torch.zeros_like(chances).scatter(1, chosen, 1 / chosen.shape[1])
    normaliser = logits.logsumexp(-1).square()
    if real is None:
        load, mean, z = share.mean(0), chances.mean(0), normaliser.mean()
    else:
        keep = real.to(chances.dtype)
        total = keep.sum().clamp(min=1)
        load, mean, z = keep @ share / total, keep @ chances / total, keep @ normaliser / total
    return Routing(experts * (load @ mean), z, load)


def grouped(x: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Rows of x [M,I], sorted by group, each times its group's matrix: weights [X,O,I], counts [X] → [M,O]."""
    if x.device.type == "cuda":
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        if dtype == torch.bfloat16 and x.shape[1] % 8 == 0 and weights.shape[1] % 8 == 0:
            ends = counts.cumsum(0).to(torch.int32)
            return torch._grouped_mm(x.to(dtype), weights.to(dtype).transpose(1, 2), offs=ends)
    pieces = x.split(counts.tolist())
    return torch.cat([F.linear(piece, weight) for piece, weight in zip(pieces, weights)])


def initial_std(name: str, layers: int) -> float:
    """The standard deviation of a fresh weight: 0.02, output projections scaled down by √(2·layers) (GPT-2)."""
    output = name.endswith(("out.weight", "down.weight", "down"))
    return 0.02 / math.sqrt(2 * layers) if output else 0.02
