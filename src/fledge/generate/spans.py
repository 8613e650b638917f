"""Attention cut so that a row's result does not depend on who else is computed, nor on how its prompt was cut.

A fused attention kernel rounds differently for another number of rows, of queries or of padded keys. Here every row
is attended alone, over exactly the keys it sees, by queries that always belong together: the one new token of a row
that decodes, or the tokens of a prompt between two multiples of `BLOCK`. On a CPU that is no slower than one padded
batch, since nothing is computed for padding.

Shapes: B rows, T new tokens, H heads, Hkv key-value heads, D head size, S positions.
"""

import math
from collections.abc import Sequence
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


def singles(starts: Sequence[int], counts: Sequence[int], window: int | None, dtype: torch.dtype) -> list[Span]:
    """As `spans`, each token by itself, as it is when it is drawn."""
    return [
        span(row, place, start + place, start + place + 1, window, dtype)
        for row, (start, count) in enumerate(zip(starts, counts))
        for place in range(count)
    ]


def span(row: int, first: int, position: int, stop: int, window: int | None, dtype: torch.dtype) -> Span:
    """The span of the tokens at positions [position, stop), the first of which is new token number `first`."""
    low = 0 if window is None else max(0, position - window + 1)
    mask = None
    if stop - position > 1:
        queries, keys = torch.arange(position, stop)[:, None], torch.arange(low, stop)
        hidden = keys > queries if window is None else (keys > queries) | (keys <= queries - window)
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -math.inf)
    return Span(row, first, first + stop - position, low, stop, mask)


def attend(q: Tensor, keys: Tensor, values: Tensor, parts: Sequence[Span]) -> Tensor:
    """q [B, H, T, D], keys and values [B, Hkv, S, D] → [B, H, T, D]; zero where no span is."""
    gqa = q.shape[1] > keys.shape[1]
    if q.shape[2] == 1 and len(parts) == len(q):  # a token for every row: the same with fewer views
        each = zip(parts, q.split(1), keys.split(1), values.split(1))
        found = [
            F.scaled_dot_product_attention(
                query,
                key.narrow(2, part.low, part.high - part.low),
                value.narrow(2, part.low, part.high - part.low),
                enable_gqa=gqa,
            )
            for part, query, key, value in each
        ]
        return torch.cat(found)
    y = torch.zeros_like(q)
    for part in parts:
        row, seen = slice(part.row, part.row + 1), slice(part.low, part.high)
        query = q[row, :, part.first : part.last]
        y[row, :, part.first : part.last] = F.scaled_dot_product_attention(
            query, keys[row, :, seen], values[row, :, seen], part.mask, enable_gqa=gqa
        )
    return y
