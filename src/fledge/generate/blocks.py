"""Prefixes that were computed before: keys and values in blocks of tokens, shared by whoever begins alike.

System prompts and the earlier turns of a chat come again and again; their blocks are copied into the row of a new
request instead of being computed (the idea of vLLM's automatic prefix caching, arXiv:2309.06180). A block is named by
its tokens and by the block before it, compared exactly, so no collision can cross two conversations. Blocks that were
used longest ago go first, children before parents. Rows stay contiguous, as attention on a CPU wants them: sharing
saves the computing, the copy costs a memcpy.

Shapes: L layers, Hkv key-value heads, D head size, BLOCK tokens.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from fledge.model.cache import Cache

BLOCK = 16  # tokens
ROOT = -1

Key = tuple[int, tuple[int, ...]]  # the serial number of the block before, and the tokens


class Blocks:
    """A store of at most `budget` bytes for prefixes of caches like `cache`."""

    def __init__(self, layers: int, kv_heads: int, head_size: int, like: Tensor, budget: int) -> None:
        """`like` gives device and dtype."""
        size = layers * 2 * kv_heads * BLOCK * head_size * like.element_size()
        self.count = max(0, budget // size)
        shape = (self.count, layers, 2, kv_heads, BLOCK, head_size)
        self.pool = torch.empty(shape, device=like.device, dtype=like.dtype)  # pages are taken when they are written
        self.known: OrderedDict[Key, tuple[int, int]] = OrderedDict()  # → place, serial number; oldest first
        self.free = list(range(self.count))
        self.serial = 0

    def find(self, ids: Sequence[int], most: int) -> list[int]:
        """The places of the blocks that `ids` begins with, of at most `most` tokens together."""
        chain: list[Key] = []
        before = ROOT
        for start in range(0, min(len(ids), most) - BLOCK + 1, BLOCK):
            key = (before, tuple(ids[start : start + BLOCK]))
            if key not in self.known:
                break
            before = self.known[key][1]
            chain.append(key)
        for key in reversed(chain):  # parents are younger than their children
            self.known.move_to_end(key)
        return [self.known[key][0] for key in chain]

    def load(self, places: Sequence[int], cache: Cache, row: int) -> int:
        """Copy the blocks into the beginning of a row; returns how many tokens that is."""
        if not places:
            return 0
        size = len(places) * BLOCK
        chosen = self.pool[torch.tensor(places, device=self.pool.device)]  # [n, L, 2, Hkv, BLOCK, D]
        joined = chosen.permute(1, 2, 3, 0, 4, 5).flatten(3, 4)  # [L, 2, Hkv, n·BLOCK, D]
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values)):
            keys[row, :, :size], values[row, :, :size] = joined[layer, 0], joined[layer, 1]
        return size

    def store(self, ids: Sequence[int], cache: Cache, row: int) -> None:
        """Keep the whole blocks of `ids`, whose keys and values begin the row."""
        before = ROOT
        used: list[Key] = []
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = (before, tuple(ids[start : start + BLOCK]))
            if key not in self.known:
                place = self._room(used)
                if place is None:
                    break
                target, end = self.pool[place], start + BLOCK
                for layer, (keys, values) in enumerate(zip(cache.keys, cache.values)):
                    target[layer, 0], target[layer, 1] = keys[row, :, start:end], values[row, :, start:end]
                self.serial += 1
                self.known[key] = (place, self.serial)
            before = self.known[key][1]
            used.append(key)
        for key in reversed(used):
            self.known.move_to_end(key)

    def _room(self, used: list[Key]) -> int | None:
        """A place to write to; the oldest block goes if none is free, but not one of the chain in hand."""
        if self.free:
            return self.free.pop()
        key = next(iter(self.known), None)
        if key is None or key in used:
            return None
        return self.known.pop(key)[0]
