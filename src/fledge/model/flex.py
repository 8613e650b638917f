"""FlexAttention (arXiv:2412.05496): the rule of who sees whom compiled into a GPU's kernel, no mask in memory.

It skips the blocks of a packed row in which nobody sees anybody, and adds ALiBi's or T5's bias on the fly. Used where
the rule is not trivial, on a GPU, on rows that are long enough to repay it, and after a trial on that device has agreed
with the plain computation.

Shapes: B batch, H heads, T queries, S keys, D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from fledge.model.positions import bucket
from fledge.model.visibility import Visibility

WORTH = 512  # tokens in a row
Index = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Flexed:
    """A rule as FlexAttention takes it."""

    blocks: BlockMask
    score: Score | None
    compiled: bool


def rule_of(visible: Visibility) -> Index:
    """Whether query q of row b sees key k: `Visibility.allowed`, one pair at a time."""
    documents, theirs, prefix, order = visible.documents, visible.key_documents, visible.prefix, visible.order
    branches, window, causal = visible.branches, visible.window, visible.causal

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        if order is not None:
            mine, other = order[b, q], order[b, k]
            allowed = ((other >= 0) & (other < torch.where(mine < 0, -1 - mine, mine))) | (q == k)
        elif causal:
            allowed = k <= q if prefix is None else (k <= q) | prefix[b, k]
        else:
            allowed = k >= 0
        if theirs is not None:
            allowed = allowed & (theirs[b, k] != 0 if documents is None else documents[b, q] == theirs[b, k])
        if branches is not None:
            allowed = allowed & ((branches[b, k] == 0) | (branches[b, k] == branches[b, q]))
        if window is not None:
            allowed = allowed & (k > q - window) & (k < q + window)
        return allowed

    return sees


def score_of(visible: Visibility) -> Score | None:
    """The score of head h with its bias by distance."""
    bias = visible.bias
    if bias is None:
        return None
    slopes, table = bias.slopes, bias.table

    def biased(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        if slopes is not None:
            return score - slopes[h] * (k - q).abs()
        assert table is not None
        return score + table[bucket(k - q, len(table), bias.furthest, both_ways=bias.both_ways), h]

    return biased


def flexed(visible: Visibility, batch: int, queries: int, *, compiled: bool = True) -> Flexed:
    """The rule for `batch` rows of `queries` tokens. Not compiled: the plain computation of torch, for tests."""
    make: Any = fast(create_block_mask) if compiled else create_block_mask
    blocks = make(rule_of(visible), batch, None, queries, visible.keys, device=visible.queries.device)
    return Flexed(blocks, score_of(visible), compiled)


def flex_attend(q: Tensor, k: Tensor, v: Tensor, how: Flexed, scale: float | None) -> Tensor:
    """q [B,H,T,D] over k, v [B,Hkv,S,D] → [B,H,T,D]."""
    run: Any = fast(flex_attention) if how.compiled else flex_attention
    found: Tensor = run(
        q, k, v, score_mod=how.score, block_mask=how.blocks, scale=scale, enable_gqa=q.shape[1] > k.shape[1]
    )
    return found


def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled; as it is where a compiler already works on what is around it."""
    return function if torch.compiler.is_compiling() else compiled_once(function)


@cache
def compiled_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled by whoever asks first."""
    return torch.compile(function)


def worth_flexing(visible: Visibility, x: Tensor, head_size: int) -> bool:
    """Whether x [B,T,E] goes through FlexAttention."""
    if x.device.type != "cuda" or x.shape[1] < WORTH or visible.queries.ndim == 2:
        return False
    fits = 16 <= head_size <= 256 and head_size & (head_size - 1) == 0
    return fits and agrees(x.device)


@torch.compiler.assume_constant_result
def agrees(device: torch.device) -> bool:
    """Whether FlexAttention works on this device and gives what the plain computation gives, gradients included.

    It is asked within forward passes, so nothing of what surrounds one may reach the trial: no precision of autocast,
    no mode without gradients, no compiler (to which the answer is a constant); nor may it draw random numbers.
    """
    return tried(device)


@cache
def tried(device: torch.device) -> bool:
    """The trial itself, once for a device."""
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        steps, documents = torch.arange(256, device=device), torch.ones(1, 256, dtype=torch.int32, device=device)
        documents[:, 100:] = 2
        visible = Visibility(steps, 256, True, documents=documents, key_documents=documents)
        values = torch.arange(3 * 2 * 256 * 32, device=device, dtype=torch.float32).square().sin()
        q, k, v = (x.requires_grad_() for x in values.view(3, 1, 2, 256, 32).unbind())
        try:
            found = flex_attend(q, k, v, flexed(visible, 1, 256), None)
            expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, visible.mask(torch.float32))
            gradients = [torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (found, expected)]
        except Exception:  # whatever a compiler that does not know this GPU says
            return False
        return all(torch.allclose(a, b, atol=2e-2) for a, b in zip((found, *gradients[0]), (expected, *gradients[1])))
