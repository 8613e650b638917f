"""Who sees whom: the one rule of attention, from which masks are made.

A query sees a key iff all of these hold: the key is in its document; it is not in the query's future (causal stacks),
unless it belongs to the document's prefix; it is inside the window; it is on the query's branch, or on the trunk that
a document's branches share; and, where an order of factorisation is given
(permutation language modelling, arXiv:1906.08237), it comes earlier in that order or is the query itself.

On what is visible lies a bias by distance: ALiBi's slope or T5's learned bucket.

Shapes: B batch, H heads, T queries, S keys.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.model.positions import bucket


@dataclass(frozen=True)
class Bias:
    """An additive bias by the distance of key and query: slopes [H] × -|distance|, or table [buckets, H] of buckets."""

    slopes: Tensor | None
    table: Tensor | None
    furthest: int
    both_ways: bool

    def of(self, distance: Tensor) -> Tensor:
        """distance [B,T,S] (key - query, in positions) → [B,H,T,S] float32."""
        if self.slopes is not None:
            return -self.slopes[:, None, None] * distance.abs()[:, None]
        assert self.table is not None
        places = bucket(distance, len(self.table), self.furthest, both_ways=self.both_ways)
        return self.table[places].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Visibility:
    """The rule for one call: where queries stand ([T], or [B,T] in a cache) among S keys, and what bounds them.

    documents [B,T] and key_documents [B,S]: of queries and keys. prefix [B,S] bool. branches [B,S] int, of queries and
    keys: 0 is the trunk (not with a window or a bias, which count distances along the row). order [B,S] int, from 0: a
    negative entry -1-r is a query slot of rank r, which sees what came before rank r and is seen by nobody else.
    """

    queries: Tensor
    keys: int
    causal: bool
    window: int | None = None
    documents: Tensor | None = None
    key_documents: Tensor | None = None
    prefix: Tensor | None = None
    order: Tensor | None = None
    branches: Tensor | None = None
    bias: Bias | None = None

    @property
    def trivial(self) -> bool:
        """Whether nothing but causality (or nothing at all) bounds what is seen, and no bias lies on it."""
        bounds = (self.window, self.key_documents, self.prefix, self.order, self.branches, self.bias)
        return self.queries.ndim == 1 and all(bound is None for bound in bounds)

    def allowed(self, part: slice = slice(None)) -> Tensor:
        """Which keys the queries of `part` see, bool [B,t,S] (or [1,t,S])."""
        where = self.queries[..., part, None] if self.queries.ndim == 2 else self.queries[part, None][None]
        steps = torch.arange(self.keys, device=where.device)
        if self.order is not None:
            mine = self.order[:, part, None]
            rank = torch.where(mine < 0, -1 - mine, mine)
            theirs = self.order[:, None, :]
            allowed = ((theirs >= 0) & (theirs < rank)) | (steps == where)
        elif self.causal:
            allowed = steps <= where
            if self.prefix is not None:
                allowed = allowed | self.prefix[:, None, :]
        else:
            allowed = torch.ones(1, where.shape[1], self.keys, dtype=torch.bool, device=where.device)
        if self.key_documents is not None:
            if self.documents is None:
                allowed = allowed & (self.key_documents != 0)[:, None, :]
            else:
                allowed = allowed & (self.documents[:, part, None] == self.key_documents[:, None, :])
        if self.branches is not None:
            theirs = self.branches[:, None, :]
            allowed = allowed & ((theirs == 0) | (theirs == self.branches[:, part, None]))
        if self.window is not None:
            near = steps > where - self.window
            allowed = allowed & (near if self.causal else near & (steps < where + self.window))
        return allowed

    def mask(self, dtype: torch.dtype, part: slice = slice(None)) -> Tensor:
        """The rule and the bias as what is added to the scores, [B,1,t,S], or [B,H,t,S] with a bias."""
        allowed = self.allowed(part)[:, None]
        lowest = torch.finfo(dtype).min
        if self.bias is None:
            return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, lowest)
        where = self.queries[..., part]
        steps = torch.arange(self.keys, device=where.device)
        distance = steps - (where[..., None] if where.ndim == 2 else where[None, :, None])
        return self.bias.of(distance).to(dtype).masked_fill(~allowed, lowest)
