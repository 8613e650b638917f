"""The live rows of an engine's run: their cache, their last tokens, and the step that gives each its next one.

Rows are compact, [0, live): a row that is freed is filled by one from the end, so every tensor of a step is a plain
slice. What the rows need at each step is gathered only when they change.

Shapes: N live rows, T prompt length, V vocabulary, R requests, K stop ids, M longest completion.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from fledge.generate.packed import PackedModel
from fledge.generate.request import Request
from fledge.generate.sampling import Settings, sample, settings, uniform
from fledge.model.cache import Cache
from fledge.model.heads import LanguageModel

AHEAD = 32  # steps for which random numbers are made at once


class Slots:
    """`capacity` rows for `requests`, the first `live` in use; `owners[row]` is the index of its request."""

    def __init__(self, model: LanguageModel | PackedModel, requests: Sequence[Request], capacity: int) -> None:
        if isinstance(model, PackedModel):
            device, dtype = model.device, model.dtype
        else:
            weight = next(model.parameters())
            device, dtype = weight.device, weight.dtype
        self.model, self.requests, self.capacity, self.device = model, requests, capacity, device
        length = max(len(request.ids) + request.max_new_tokens for request in requests)
        self.cache = Cache(model.config, capacity, length, device, dtype)
        self.live = 0
        self.owners: list[int] = []

        # of every request [R, …]
        self.all_settings = settings([request.sampling for request in requests], device)
        self.all_seeds = self._tensor([signed(request.seed) for request in requests])
        self.all_limits = self._tensor([request.max_new_tokens for request in requests])
        most = max(len(request.stop_ids) for request in requests)
        self.all_stops = self._tensor([pad(request.stop_ids, most) for request in requests])

        # of every row [capacity, …]
        longest = max(request.max_new_tokens for request in requests)
        self.last = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.position = torch.zeros_like(self.last)  # of `last` in its sequence
        self.count = torch.zeros_like(self.last)  # tokens drawn
        self.tokens = torch.zeros(capacity, longest, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(capacity, longest, device=device)
        self.state = [self.last, self.position, self.count, self.tokens, self.logprobs]
        if self.all_settings.penalised:
            size = model.config.vocab_size
            self.seen = torch.zeros(capacity, size, dtype=torch.bool, device=device)
            self.uses = torch.zeros(capacity, size, device=device)
            self.state += [self.seen, self.uses]
        self._gather()

    def prefill(self, new: Sequence[int]) -> Tensor | None:
        """Let in the requests `new`: run their prompts, right-padded, and draw their first tokens.

        A prompt that several of them share is run once. Returns which have ended, bool [len(new)], or None if none.
        """
        first, prompts = self.live, [self.requests[index].ids for index in new]
        places: dict[tuple[int, ...], int] = {}
        source = self._tensor([places.setdefault(tuple(prompt), len(places)) for prompt in prompts])
        longest, last = max(map(len, prompts)), self._tensor([len(prompt) - 1 for prompt in prompts])
        self.live += len(new)
        self.owners += new
        rows = slice(first, self.live)
        self.position[rows], self.count[rows] = last, 0
        self._gather()
        if self.all_settings.penalised:
            self.seen[rows], self.uses[rows] = False, 0
            for row, prompt in enumerate(prompts, first):
                self.seen[row, self._tensor(prompt)] = True
        ids = self._tensor([pad(prompt, longest, 0) for prompt in places])
        positions = torch.arange(longest, device=self.device).expand(len(places), -1)
        part = view(self.cache, first, first + len(places), longest)
        output = self.model(ids, positions, cache=part)
        if len(places) < len(new):
            for values in (*self.cache.keys, *self.cache.values):
                values[rows, :, :longest] = values[first : first + len(places), :, :longest][source]
        ended = self._advance(first, replace(output, hidden=output.hidden[source, last]).logits())
        self.view.reach = int(self.position[: self.live].max())
        return ended

    def decode(self) -> Tensor | None:
        """Give every live row its next token. Returns which have ended, bool [N], or None if none has."""
        rows = slice(0, self.live)
        self.view.reach += 1
        output = self.model(self.last[rows, None], self.position[rows, None], cache=self.view)
        return self._advance(0, output.logits()[:, 0])

    def free(self, rows: Sequence[int]) -> None:
        """End these live rows; others move into their places."""
        if not rows:
            return
        self.live -= len(rows)
        gone = set(rows)
        holes = [row for row in gone if row < self.live]
        movers = [row for row in range(self.live, self.live + len(rows)) if row not in gone]
        if holes:
            to, source = self._tensor(holes), self._tensor(movers)
            for values in self.state:
                values[to] = values[source]
            for values in (*self.cache.keys, *self.cache.values):
                values[to, :, : self.view.reach] = values[source, :, : self.view.reach]
            for hole, mover in zip(holes, movers):
                self.owners[hole] = self.owners[mover]
        del self.owners[self.live :]
        self._gather()

    def _gather(self) -> None:
        owners = self._tensor(self.owners)
        longest = int(self.position[: self.live].max()) if self.live else 0
        self.view = view(self.cache, 0, self.live, longest)
        self.seeds, self.limits, self.stops = self.all_seeds[owners], self.all_limits[owners], self.all_stops[owners]
        self.settings: Settings = self.all_settings.rows(owners)
        self.ahead = AHEAD  # stale

    def _advance(self, first: int, logits: Tensor) -> Tensor | None:
        """Draw a token for the rows from `first` on. logits: [N - first, V]."""
        rows = slice(first, self.live)
        position, count = self.position[rows], self.count[rows]
        how = self.settings.rows(rows) if first else self.settings
        seen, uses = (self.seen[rows], self.uses[rows]) if how.penalised else (None, None)
        position += 1
        ids, logprobs = sample(logits, self._uniforms(first), how, seen, uses)
        self.last[rows] = ids
        self.tokens[rows].scatter_(1, count[:, None], ids[:, None])
        self.logprobs[rows].scatter_(1, count[:, None], logprobs[:, None])
        if seen is not None and uses is not None:
            seen.scatter_(1, ids[:, None], True)
            uses.scatter_add_(1, ids[:, None], torch.ones_like(uses[:, :1]))
        count += 1
        ended = (count >= self.limits[rows]) | (ids[:, None] == self.stops[rows]).any(-1)
        return ended if bool(ended.any()) else None

    def _uniforms(self, first: int) -> Tensor:
        """The numbers that draw the tokens of the rows from `first` on, [N - first]; hashed some steps ahead."""
        if first or self.ahead == AHEAD:
            positions = self.position[first : self.live, None] + torch.arange(AHEAD, device=self.device)
            self.uniforms, self.ahead = uniform(self.seeds[first:, None], positions), 0
        now = self.uniforms[:, self.ahead]
        self.ahead = AHEAD if first else self.ahead + 1  # the other rows do not draw now
        return now

    def _tensor(self, values: Sequence[int] | Sequence[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def view(cache: Cache, start: int, stop: int, reach: int) -> Cache:
    """The rows [start, stop) of a cache, sharing its memory."""
    part = copy(cache)
    part.keys = [keys[start:stop] for keys in cache.keys]
    part.values = [values[start:stop] for values in cache.values]
    part.lengths, part.reach = cache.lengths[start:stop], reach
    return part


def pad(ids: Sequence[int], length: int, value: int = -1) -> list[int]:
    """`ids` with `value` on the right up to `length`."""
    return [*ids, *[value] * (length - len(ids))]


def signed(seed: int) -> int:
    """Any integer as an int64."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)
