"""Attention cut so that a row's result does not depend on who else is computed, nor on how its prompt was cut.

A fused attention kernel rounds differently for another number of queries, and perhaps of rows or of padded keys. So
queries that always belong together are attended together: the one new token of a row that decodes, or the tokens of a
prompt between two multiples of `BLOCK`. A prompt's are, row by row, over exactly the keys they see; on a CPU that is no
slower than one padded batch, since nothing is computed for padding. Tokens that are drawn are few, and the calls count:
one call serves all rows, over keys padded to a multiple of `BLOCK`, where the kernel was tried and minds neither rows
nor padding (`indifferent`: MKL does not if it is told to be reproducible, by MKL_CBWR=AUTO, as the command line does);
elsewhere they go row by row too.

Shapes: B rows, T new tokens, H heads, Hkv key-value heads, D head size, S positions.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache as memo

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 16  # tokens; prefixes are shared in whole blocks
TRIED = ((1, 17, 80, 96, 150), (3, 300, 511, 512, 513), (7, 600, 1100))  # keys that the rows of a batch see


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


def attend(q: Tensor, keys: Tensor, values: Tensor, parts: Iterable[Span]) -> Tensor:
    """q [B, H, T, D], keys and values [B, Hkv, S, D] → [B, H, T, D]; zero where no span is."""
    y, gqa = torch.zeros_like(q), q.shape[1] > keys.shape[1]
    for part in parts:
        row, seen = slice(part.row, part.row + 1), slice(part.low, part.high)
        query = q[row, :, part.first : part.last]
        y[row, :, part.first : part.last] = F.scaled_dot_product_attention(
            query, keys[row, :, seen], values[row, :, seen], part.mask, enable_gqa=gqa
        )
    return y


def attend_singly(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Each new token of every row by itself: q [B, H, T, D], keys and values [B, Hkv, S, D], mask [B, 1, T, S] additive
    → [B, H, T, D]."""
    gqa = q.shape[1] > keys.shape[1]
    pairs = zip(q.split(1, 2), mask.split(1, 2))
    found = [F.scaled_dot_product_attention(one, keys, values, seen, enable_gqa=gqa) for one, seen in pairs]
    return found[0] if len(found) == 1 else torch.cat(found, 2)


def padded(reach: int) -> int:
    """The number of keys that rows which see at most `reach` of them are attended over."""
    return -(-reach // BLOCK) * BLOCK


@memo
def indifferent(heads: int, kv_heads: int, size: int) -> bool:
    """Whether `attend_singly` gives a row of this shape the same bits alone and among others with more keys: tried."""
    generator = torch.Generator().manual_seed(0)
    for reaches in TRIED:
        longest = padded(max(reaches))
        q = torch.randn(len(reaches), heads, 1, size, generator=generator)
        keys, values = (torch.randn(len(reaches), kv_heads, longest, size, generator=generator) for _ in range(2))
        hidden = torch.arange(longest) >= torch.tensor(reaches)[:, None]
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, -math.inf)[:, None, None]
        together = attend_singly(q, keys, values, mask)
        for row, reach in enumerate(reaches):
            one, seen = slice(row, row + 1), padded(reach)
            alone = attend_singly(q[one], keys[one, :, :seen], values[one, :, :seen], mask[one, ..., :seen])
            if not torch.equal(alone, together[one]):
                return False
    return True
