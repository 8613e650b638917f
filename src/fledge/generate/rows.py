"""The live requests of an engine and the cache rows that are theirs.

Rows are compact: those that decode are [0, decoding), those whose prompt is not yet run come behind, so what a step
computes is a plain slice. The cache grows with what is asked of it, up to a budget; nothing is computed for the dead.

Shapes: B rows, T new tokens of each, S positions.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fledge.generate.detokenise import Detokeniser
from fledge.generate.packed import PackedModel
from fledge.generate.request import Finish, Request, Scored
from fledge.model.cache import Cache
from fledge.model.heads import LanguageModel

AnyModel = LanguageModel | PackedModel
GRAIN = 64  # positions: the cache's length is a multiple of it


@dataclass(slots=True, eq=False)
class Row:
    """A live request: `ids` are its prompt and what was drawn, `done` of them have keys and values in the cache."""

    ticket: int
    request: Request
    ids: list[int]
    text: Detokeniser | None
    matcher: Any = None
    done: int = 0
    drafted: int = 0  # as `done`, in the draft's cache
    cached: int = 0
    drawn: int = 0
    finish: Finish | None = None
    prompt: list[Scored] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Tokens of the prompt still to be run."""
        return len(self.ids) - self.done

    @property
    def need(self) -> int:
        """Positions it may come to use."""
        return len(self.request.ids) + max(1, self.request.max_new_tokens)


class RowCache:
    """A cache for a changing number of rows, within `budget` bytes."""

    def __init__(self, model: AnyModel, budget: int, draft: AnyModel | None = None) -> None:
        if isinstance(model, PackedModel):
            self.device, self.dtype = model.device, model.dtype
        else:
            weight = next(model.parameters())
            self.device, self.dtype = weight.device, weight.dtype
        self.models, self.config, self.budget = [model, *([draft] if draft else [])], model.config, budget
        self.capacity = self.length = 0
        self.caches = self._made(0, 0)
        numbers = sum(2 * one.config.kv_heads * one.config.head_size * one.config.layers for one in self.models)
        self.token_bytes = numbers * torch.empty((), dtype=self.dtype).element_size()

    @property
    def cache(self) -> Cache:
        """The model's own; behind it in `caches` is that of the draft."""
        return self.caches[0]

    def _made(self, capacity: int, length: int) -> list[Cache]:
        return [Cache(one.config, capacity, length, self.device, self.dtype) for one in self.models]

    def _all(self) -> Iterator[Tensor]:
        for cache in self.caches:
            yield from cache.keys
            yield from cache.values

    def most_rows(self, length: int) -> int:
        """How many rows of that length the budget allows."""
        return self.budget // (self.token_bytes * rounded(length, self.config.context))

    def reserve(self, rows: Sequence[Row], need: int) -> bool:
        """Make room for one more row of `need` positions, keeping what `rows` have; False if the budget is short."""
        wanted, context = len(rows) + 1, self.config.context
        if wanted <= self.capacity and need <= self.length:
            return True
        length, capacity = rounded(max(need, self.length), context), max(wanted, self.capacity)
        if wanted > self.capacity:
            capacity = max(wanted, min(2 * self.capacity, self.most_rows(length)))
        if capacity > self.most_rows(length):  # give up what nobody uses
            length, capacity = rounded(max([need, *(row.need for row in rows)]), context), wanted
        if capacity > self.most_rows(length):
            return False
        old, self.caches = self.caches, self._made(capacity, length)
        for one, other in zip(old, self.caches):
            for before, after in ((one.keys, other.keys), (one.values, other.values)):
                for layer, values in enumerate(after):
                    for place, row in enumerate(rows):
                        values[place, :, : row.done] = before[layer][place, :, : row.done]
                    before[layer] = values  # the old memory goes at once
        self.capacity, self.length = capacity, length
        return True

    def forward(self, first: int, ids: Tensor, starts: Sequence[int], which: int = 0) -> Any:
        """Run ids [B, T] in the rows from `first` on, at the positions from `starts` on; an output with hidden and
        logits().

        Padding is written behind a row's tokens, where later ones overwrite it before anyone looks.
        """
        width = ids.shape[1]
        last = min(self.length, self.config.context) - 1
        positions = (torch.tensor(starts)[:, None] + torch.arange(width)).clamp_max_(last)
        part = view(self.caches[which], first, first + len(ids), min(max(starts) + width, self.length))
        return self.models[which](ids.to(self.device), positions.to(self.device), cache=part)

    def clear(self) -> None:
        """Forget what the memory holds: keys that are no numbers would spoil the rows that come to lie there."""
        for values in self._all():
            values.zero_()

    def copy_row(self, source: int, to: int, length: int) -> None:
        """Copy the first `length` positions of a row over another's."""
        for values in self._all():
            values[to, :, :length] = values[source, :, :length]

    def swap(self, rows: list[Row], one: int, other: int) -> None:
        """Exchange two rows, keys and values with them."""
        if one == other:
            return
        first, second = rows[one], rows[other]
        if first.done and second.done:
            length = max(first.done, second.done)
            for values in self._all():
                held = values[one, :, :length].clone()
                values[one, :, :length] = values[other, :, :length]
                values[other, :, :length] = held
        elif first.done:
            self.copy_row(one, other, first.done)
        elif second.done:
            self.copy_row(other, one, second.done)
        rows[one], rows[other] = second, first


def view(cache: Cache, start: int, stop: int, reach: int) -> Cache:
    """The rows [start, stop) of a cache, sharing its memory."""
    part = copy(cache)
    part.keys = [keys[start:stop] for keys in cache.keys]
    part.values = [values[start:stop] for values in cache.values]
    part.lengths, part.reach = cache.lengths[start:stop], reach
    return part


def rounded(length: int, context: int) -> int:
    """A length of the cache that has room for `length` positions."""
    return min(-(-length // GRAIN) * GRAIN, context)
