"""A prompt's attention cut so that a row's result does not depend on who else is computed, nor on how it was cut.

A fused attention kernel rounds differently for another number of queries, and perhaps of rows or of padded keys. So
queries that always belong together are attended together: the tokens of a prompt between two multiples of `BLOCK`, row
by row, over exactly the keys they see. On a CPU that is no slower than one padded batch, since nothing is computed for
padding. (Tokens that are drawn attend one by one, see `kernels`.)

Shapes: B rows, T new tokens, H heads, Hkv key-value heads, D head size, S positions.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 16  # tokens; prefixes are shared in whole blocks


@dataclass(frozen=True)
class Span:
    """Queries [first, last) of the new tokens of `row`, which see the keys [low, high); mask [last - first, high - low]
    additive, or None if they see all of them."""

    row: int
    first: int
    last: int
    low: int
    high: int
    mask: Tensor | None


def spans(starts: Sequence[int], counts: Sequence[int], window: int | None, dtype: torch.dtype) -> list[Span]:
    """The spans of rows whose new tokens begin at positions `starts`, `counts` of each; cut at multiples of BLOCK."""
    found = []
    for row, (start, count) in enumerate(zip(starts, counts)):
        position, end = start, start + count
        while position < end:
            stop = min(end, (position // BLOCK + 1) * BLOCK)
            found.append(span(row, position - start, position, stop, window, dtype))
            position = stop
    return found


def span(row: int, first: int, position: int, stop: int, window: int | None, dtype: torch.dtype) -> Span:
    """The span of the tokens at positions [position, stop), the first of which is new token number `first`."""
    low = 0 if window is None else max(0, position - window + 1)
    mask = None
    if stop - position > 1:
        queries, keys = torch.arange(position, stop)[:, None], torch.arange(low, stop)
        hidden = keys > queries if window is None else (keys > queries) | (keys <= queries - window)
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -math.inf)
    return Span(row, first, first + stop - position, low, stop, mask)


def attend_spans(q: Tensor, keys: Tensor, values: Tensor, parts: Iterable[Span]) -> Tensor:
    """q [B, H, T, D], keys and values [B, Hkv, S, D] → [B, H, T, D]; zero where no span is."""
    y, gqa = torch.zeros_like(q), q.shape[1] > keys.shape[1]
    for part in parts:
        row, seen = slice(part.row, part.row + 1), slice(part.low, part.high)
        query = q[row, :, part.first : part.last]
        y[row, :, part.first : part.last] = F.scaled_dot_product_attention(
            query, keys[row, :, seen], values[row, :, seen], part.mask, enable_gqa=gqa
        )
    return y
