"""The language objective: cross-entropy of the next token, and the log-probabilities everything else is made of.

Only supervised positions are projected to the vocabulary, and in chunks: the logits of a batch are never held.
`next_token` forms its gradient while it reads each chunk (as Liger, arXiv:2410.10989, does), so that nothing is
computed twice; `token_logprobs`, whose gradient depends on what comes after it, computes each chunk again in the
backward pass. Both follow autocast. `F.linear_cross_entropy` (torch 2.13) ignores autocast and is half as fast in
bfloat16 on a CPU, and no faster in float32, so it is not used.
Left out: label smoothing, z-loss.

Shapes: B batch, T time, E width, V vocabulary, N supervised positions.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fledge.core.device import compute_dtype
from fledge.objectives.loss import Biased, Loss, Projectable

IGNORED = -100


def next_token(output: Projectable, batch: dict[str, Tensor]) -> Loss:
    """Cross-entropy in nats, summed over the positions whose target is not -100 (the next token, or a hidden one).

    batch: targets [B,T]; optionally weights [B,T] ≥ 0 that multiply each position's loss, in which case the count
    is the sum of the weights.
    """
    places, labels = supervised(batch["targets"])
    weights = batch["weights"].flatten()[places].float() if "weights" in batch else None
    total = summed_cross_entropy(*projection(output, places), labels, weights)
    count = weights.sum() if weights is not None else torch.tensor(float(len(labels)), device=total.device)
    return Loss(total, count)


def token_logprobs(output: Projectable, targets: Tensor) -> Tensor:
    """log p(target) at each position, [B,T]; 0 where the target is -100."""
    return logprobs_and_entropy(output, targets)[0]


@torch.no_grad()
def token_entropy(output: Projectable, targets: Tensor) -> Tensor:
    """Entropy in nats of the prediction at each position with a target, [B,T]; 0 where the target is -100."""
    return logprobs_and_entropy(output, targets)[1]


def logprobs_and_entropy(output: Projectable, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p(target) [B,T] with gradient, and the entropy in nats [B,T] without; both 0 where the target is -100."""
    places, labels = supervised(targets)
    hidden, weight = projection(output, places)
    logprobs, entropy = _TokenLogprobs.apply(hidden, weight, labels, compute_dtype(hidden))
    blank = torch.zeros(targets.numel(), dtype=logprobs.dtype, device=logprobs.device)
    return (
        blank.index_put((places,), logprobs).view(targets.shape),
        blank.index_put((places,), entropy).view(targets.shape),
    )


def bits_per_byte(nats: float, count_of_bytes: int) -> float:
    """Summed cross-entropy of a text in nats → bits per byte of the text: comparable across tokenizers."""
    return nats / (math.log(2) * count_of_bytes)


def supervised(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Flat indices into [B·T] of the positions with a target, and their targets: both [N]."""
    flat = targets.flatten()
    places = (flat != IGNORED).nonzero()[:, 0]
    return places, flat[places]


def projection(output: Projectable, places: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden states [N,E] at flat places and the weight [V,E] that projects them to logits.

    A bias is one more column of the weight, which meets one more dimension of ones.
    """
    hidden = output.hidden.flatten(0, 1)[places]
    if not isinstance(output, Biased) or output.bias is None:
        return hidden, output.weight
    ones = hidden.new_ones(len(hidden), 1)
    return torch.cat([hidden, ones], 1), torch.cat([output.weight, output.bias[:, None]], 1)


def logits_at_once(device: torch.device) -> int:
    """How many logits are held at a time: what fits a CPU's cache, or fills a GPU without filling its memory."""
    return 2**21 if device.type == "cpu" else 2**26


def rows_per_chunk(vocabulary: int, device: torch.device) -> int:
    """Positions projected at once."""
    return max(16, logits_at_once(device) // vocabulary)


def summed_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, scale: Tensor | None) -> Tensor:
    """Σ scale·(-log softmax(hidden·weightᵀ)[label]): hidden [N,E], weight [V,E], labels [N], scale [N] or None."""
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    total: Tensor = _SummedCrossEntropy.apply(hidden, weight, labels, scale, compute_dtype(hidden), wanted)
    return total


def full(dtype: torch.dtype) -> torch.dtype:
    """The precision for exponentials and sums: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


class _SummedCrossEntropy(torch.autograd.Function):
    """The gradient is formed in the forward pass, chunk by chunk, and only scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        scale: Tensor | None,
        dtype: torch.dtype,
        wanted: bool,
    ) -> Tensor:
        x, w = hidden.to(dtype), weight.to(dtype)
        total = torch.zeros((), dtype=full(dtype), device=x.device)
        d_hidden = torch.empty_like(hidden) if wanted and ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if wanted and ctx.needs_input_grad[1] else None
        rows = rows_per_chunk(len(w), x.device)
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            logits, label = (x[part] @ w.T).to(total.dtype), labels[part, None]
            logits -= logits.amax(-1, keepdim=True)
            chosen = logits.gather(1, label)
            powers = logits.exp_()  # in place: passes over a chunk, not arithmetic, are what costs here
            normaliser = powers.sum(-1, keepdim=True)
            nats = normaliser.log() - chosen
            total += nats.sum() if scale is None else (nats[:, 0] * scale[part]).sum()
            if d_hidden is None and d_weight is None:
                continue
            residual = powers.div_(normaliser)
            residual.scatter_add_(1, label, residual.new_full(label.shape, -1.0))
            if scale is not None:
                residual *= scale[part, None]
            residual = residual.to(dtype)
            if d_hidden is not None:
                d_hidden[part] = residual @ w
            if d_weight is not None:
                d_weight += residual.T @ x[part]
        ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        scaled = (None if d is None else d * gradient.to(d.dtype) for d in (d_hidden, d_weight))
        return (*scaled, None, None, None, None)


class _TokenLogprobs(torch.autograd.Function):
    """The logits of a chunk are computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x, w = hidden.to(dtype), weight.to(dtype)
        logprobs = torch.empty(len(x), dtype=full(dtype), device=x.device)
        entropy, normalisers = torch.empty_like(logprobs), torch.empty_like(logprobs)
        rows = rows_per_chunk(len(w), x.device)
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            logits = (x[part] @ w.T).to(logprobs.dtype)
            highest = logits.amax(-1, keepdim=True)
            logits -= highest
            powers = logits.exp()
            total = powers.sum(-1)
            logprobs[part] = logits.gather(1, labels[part, None])[:, 0] - total.log()
            entropy[part] = total.log() - powers.mul_(logits).sum(-1) / total
            normalisers[part] = highest[:, 0] + total.log()
        ctx.save_for_backward(hidden, weight, labels, normalisers)
        ctx.dtype = dtype
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, normalisers = ctx.saved_tensors
        x, w = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        rows = rows_per_chunk(len(w), x.device)
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            logits = (x[part] @ w.T).to(normalisers.dtype)
            residual = logits.sub_(normalisers[part, None]).exp_().mul_(-gradient[part, None])
            residual.scatter_add_(1, labels[part, None], gradient[part, None])
            residual = residual.to(ctx.dtype)
            if d_hidden is not None:
                d_hidden[part] = residual @ w
            if d_weight is not None:
                d_weight += residual.T @ x[part]
        return d_hidden, d_weight, None, None
