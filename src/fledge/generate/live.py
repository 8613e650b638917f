"""A live engine: requests join and leave at every step (continuous batching: Orca, Yu et al., OSDI 2022).

A step is schedule (waiting requests take rows, fairly) → run (a chunk of prompts, then one token for every row that
decodes) → postprocess (draw, detokenise, find what has ended). A prompt is run in chunks (Sarathi, arXiv:2403.02310),
so that a long one delays the others by no more than a chunk; a prefix that was run before comes from `Blocks`. A
request gets the same tokens alone and under load. Nothing here knows of threads or HTTP; whoever drives it calls
`submit`, `cancel` and `step` from one thread.

Shapes: N rows, T tokens, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.generate.blocks import BLOCK, Blocks
from fledge.generate.detokenise import Detokeniser
from fledge.generate.draws import Draws
from fledge.generate.packed import PackedModel
from fledge.generate.queueing import FairQueue
from fledge.generate.request import Finish, Request, Scored, Update
from fledge.generate.rows import Row, RowCache
from fledge.generate.speculate import can_guess, check_draft, speculate
from fledge.model.heads import LanguageModel
from fledge.text.tokenizer import Tokenizer

CHUNK = 128  # prompt tokens that one step runs while others wait for their next token
ALONE = 1024  # and while nobody waits
CACHE = 1 << 30  # bytes for keys and values of live rows, if nobody says otherwise
LOGITS = 1 << 24  # numbers: of a prompt's logits held at once
SHARED = 1 << 28  # bytes for prefixes


class LiveEngine:
    """Serves `model` to at most `max_batch` requests at a time; the others wait in a fair queue."""

    def __init__(
        self,
        model: LanguageModel | PackedModel,
        tokenizer: Tokenizer | None = None,
        *,
        max_batch: int = 32,
        cache_bytes: int = CACHE,
        shared_bytes: int = SHARED,
        chunk: int = CHUNK,
        draft: LanguageModel | PackedModel | None = None,
    ) -> None:
        """`draft`: a small model with the same vocabulary that guesses ahead, see `speculate`."""
        self.model, self.tokenizer, self.max_batch, self.chunk = model, tokenizer, max_batch, max(chunk, BLOCK)
        self.hidden = frozenset(tokenizer.special.values()) if tokenizer else frozenset()
        if draft is not None:
            check_draft(model.config, draft.config)
        self.cache = RowCache(model, cache_bytes, draft)
        config = model.config
        like = torch.empty(0, device=self.cache.device, dtype=self.cache.dtype)
        self.blocks = Blocks(config.layers, config.kv_heads, config.head_size, like, shared_bytes)
        self.queue: FairQueue[Row] = FairQueue()
        self.rows: list[Row] = []  # the first `decoding` have their prompts behind them
        self.decoding = 0
        self.draws: Draws | None = None  # of the decoding rows, while they stay the same
        self.tickets = self.steps = self.guessed = 0

    def submit(self, request: Request, client: str = "") -> int:
        """Queue a request; its updates carry the number returned. Raises FledgeError if it can never be served."""
        self.check(request)
        self.tickets += 1
        text = self._detokeniser(request) if self.tokenizer else None
        row = Row(self.tickets, request, list(request.ids), text)
        if request.grammar is not None:
            row.matcher = request.grammar.matcher()
        self.queue.push(client, row, len(request.ids) + request.max_new_tokens)
        return row.ticket

    @torch.inference_mode()
    def cancel(self, ticket: int) -> None:
        """Forget a request, waiting or live; nothing more is said about it."""
        for place, row in enumerate(self.rows):
            if row.ticket == ticket:
                self._leave([place])
                return
        for items in list(self.queue.waiting.values()):
            for row, _ in items:
                if row.ticket == ticket:
                    self.queue.remove(row)
                    return

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.rows or self.queue)

    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Schedule, run, postprocess. Returns what is new, at most one update a request."""
        self.steps += 1
        self._admit()
        updates: dict[int, Update] = {}
        if self.decoding < len(self.rows):
            self._prefill(updates)
        if self.decoding:
            self._decode(updates)
        return list(updates.values())

    def check(self, request: Request) -> None:
        """Raise FledgeError for what this engine can never serve."""
        config, size = self.model.config, len(request.ids)
        if size == 0:
            raise FledgeError("the prompt is empty", "give at least one token")
        if request.max_new_tokens < (0 if request.prompt_logprobs else 1):
            raise FledgeError(f"{request.max_new_tokens} new tokens were asked for", "ask for 1 or more")
        if size + max(1, request.max_new_tokens) > config.context:
            raise FledgeError(
                f"the prompt has {size} tokens; with {request.max_new_tokens} new ones that is "
                f"{size + request.max_new_tokens - config.context} more than the model's context of {config.context}",
                "shorten the prompt or ask for fewer new tokens",
            )
        if not 0 <= min(request.ids) <= max(request.ids) < config.vocab_size:
            raise FledgeError(
                f"the prompt holds ids outside the vocabulary of {config.vocab_size}",
                "encode it with this model's tokenizer",
            )
        if ((request.stop or request.grammar) and self.tokenizer is None) or "" in request.stop:
            raise FledgeError("stop strings need a tokenizer and must not be empty", "give the engine the tokenizer")
        if self.cache.most_rows(size + request.max_new_tokens) < 1:
            raise FledgeError(
                f"{size + request.max_new_tokens} tokens need more memory than the engine has for its cache",
                "ask for fewer tokens or give it more memory",
            )

    # schedule

    def _admit(self) -> None:
        """Waiting requests take rows while there are rows and memory."""
        while len(self.rows) < self.max_batch and (row := self.queue.peek()) is not None:
            if not self.cache.reserve(self.rows, row.need):
                return
            self.queue.pop()
            self.rows.append(row)
            if not row.request.prompt_logprobs:
                places = self.blocks.find(row.ids, len(row.ids) - 1)
                row.done = row.cached = self.blocks.load(places, self.cache.cache, len(self.rows) - 1)

    def _chosen(self) -> tuple[list[Row], int]:
        """The rows whose prompts run now and how many tokens of each at most: one long prompt in part, or several
        whole. Steps alternate between the oldest and the shortest, so that neither waits for the other."""
        budget = self.chunk if self.decoding else max(ALONE, self.chunk)
        widest = max(row.request.prompt_logprobs for row in self.rows[self.decoding :])
        if widest:  # their logits are held
            budget = max(BLOCK, min(budget, LOGITS // self.model.config.vocab_size))
        waiting = self.rows[self.decoding :]
        waiting.sort(key=(lambda row: row.left) if self.steps % 2 else (lambda row: row.ticket))
        first = waiting[0]
        if first.left > budget:
            return [first], budget
        chosen, longest = [first], first.left
        for row in sorted(waiting[1:], key=lambda row: row.left):
            longest = max(longest, row.left)
            if longest * (len(chosen) + 1) > budget:
                break
            chosen.append(row)
        return chosen, longest

    # run

    def _prefill(self, updates: dict[int, Update]) -> None:
        chosen, longest = self._chosen()
        leaders: dict[tuple[int, ...], Row] = {}
        follows: list[Row] = []
        for row in chosen:  # a prompt that several ask for is run once
            if row.request.prompt_logprobs or leaders.setdefault(tuple(row.ids), row) is row:
                continue
            follows.append(row)
        order = [row for row in chosen if row not in follows] + follows
        for place, row in enumerate(order, self.decoding):
            self.cache.swap(self.rows, self.rows.index(row), place)
        running = order[: len(order) - len(follows)]
        takes = [min(row.left, longest) for row in running]
        starts = [row.done for row in running]
        ids = torch.zeros(len(running), max(takes), dtype=torch.int64)
        for place, (row, take) in enumerate(zip(running, takes)):
            ids[place, :take] = torch.tensor(row.ids[row.done : row.done + take])
        output = self.cache.forward(self.decoding, ids, starts)
        for place, (row, take) in enumerate(zip(running, takes)):
            if row.request.prompt_logprobs:
                self._score_prompt(row, replace(output, hidden=output.hidden[place, :take]).logits())
            row.done += take
        if any(row.left for row in running):
            return
        self._begin(order, running, output, [take - 1 for take in takes], updates)

    def _begin(
        self, order: list[Row], running: list[Row], output: Any, last: list[int], updates: dict[int, Update]
    ) -> None:
        """Rows whose prompts are done draw their first token and decode from now on."""
        place_of = {tuple(row.ids): place for place, row in enumerate(running)}
        source = [place if place < len(running) else place_of[tuple(row.ids)] for place, row in enumerate(order)]
        for place, row in enumerate(order):
            if place >= len(running):
                self.cache.copy_row(self.decoding + source[place], self.decoding + place, len(row.ids))
                row.done = row.cached = len(row.ids)
            elif row.done > row.cached:
                self.blocks.store(row.ids, self.cache.cache, self.decoding + place)
        hidden = output.hidden[torch.tensor(source), torch.tensor(last)[source]]
        logits = replace(output, hidden=hidden).logits()
        first, self.decoding, self.draws = self.decoding, self.decoding + len(order), None
        for row in order:
            update = updates[row.ticket] = Update(row.ticket, cached=row.cached)
            if row.request.prompt_logprobs:
                update.prompt = row.prompt
        self._postprocess(first, logits, Draws(order, self.cache), updates)

    def _decode(self, updates: dict[int, Update]) -> None:
        rows = self.rows[: self.decoding]
        if self.draws is None:
            self.draws = Draws(rows, self.cache)
        if ahead := can_guess(rows, self.draws, self.cache):
            over = speculate(rows, ahead, self.draws, self.cache, partial(self._take, updates))
            self.guessed += ahead * len(rows)
            if over:
                self._leave(over)
            return
        ids = torch.tensor([row.ids[-1:] for row in rows])
        output = self.cache.forward(0, ids, [row.done for row in rows])
        for row in rows:
            row.done = len(row.ids)
        self._postprocess(0, output.logits()[:, 0], self.draws, updates)

    # postprocess

    def _postprocess(self, first: int, logits: Tensor, draws: Draws, updates: dict[int, Update]) -> None:
        """Draw a token for each of the rows from `first` on that `logits` [N, V] are of; end those that are over."""
        scored = draws.draw(logits)
        over = []
        for place, token in enumerate(scored, first):
            self._take(updates, self.rows[place], token)
            if self.rows[place].finish:
                over.append(place)
        if over:
            self._leave(over)

    def _take(self, updates: dict[int, Update], row: Row, scored: Scored) -> None:
        """A row goes on by a token, or ends with it."""
        update = updates.setdefault(row.ticket, Update(row.ticket))
        if row.request.max_new_tokens:
            self._accept(row, scored, update)
        else:
            row.finish = "length"
        update.finish = row.finish

    def _accept(self, row: Row, scored: Scored, update: Update) -> None:
        token, request = scored.token, row.request
        if scored.logprob is None or not math.isfinite(scored.logprob):
            self.cache.clear()
            raise FledgeError(
                "the model's logits are not finite",
                "its weights hold NaN or infinity: go back to an earlier checkpoint",
            )
        row.ids.append(token)
        row.drawn += 1
        update.tokens.append(scored)
        finish: Finish | None = "stop" if token in request.stop_ids else None
        if row.matcher is not None and finish is None and not row.matcher.accept(token):
            finish = "stop"
        if finish is None and row.drawn >= request.max_new_tokens:
            finish = "length"
        if row.text is not None:
            update.text += row.text.add(token)
            if finish and not row.text.stopped:
                update.text += row.text.close()
            if row.text.stopped:
                finish = "stop"
        row.finish = finish

    def _score_prompt(self, row: Row, logits: Tensor) -> None:
        """Log-probabilities of the prompt's tokens behind the positions [T] that logits [T, V] are of."""
        if not row.prompt:
            row.prompt.append(Scored(row.ids[0], None))
        following = row.ids[row.done + 1 : row.done + 1 + len(logits)]
        logprobs = logits[: len(following)].float().log_softmax(-1)
        exact = logprobs.gather(1, torch.tensor(following, device=logprobs.device, dtype=torch.int64)[:, None])
        best = logprobs.topk(row.request.top_logprobs, dim=-1) if row.request.top_logprobs else None
        for place, token in enumerate(following):
            top = () if best is None else tuple(zip(best.indices[place].tolist(), best.values[place].tolist()))
            row.prompt.append(Scored(token, float(exact[place, 0]), top))

    def _leave(self, places: Sequence[int]) -> None:
        """Take rows out; others move into their places."""
        for place in sorted(places, reverse=True):
            if place < self.decoding:
                self.decoding -= 1
                self.draws = None
                self._move(self.decoding, place)
                place = self.decoding
            self._move(len(self.rows) - 1, place)
            self.rows.pop()

    def _move(self, source: int, to: int) -> None:
        if source != to:
            self.cache.copy_row(source, to, self.rows[source].done)
            self.rows[to] = self.rows[source]

    def _detokeniser(self, request: Request) -> Detokeniser:
        assert self.tokenizer
        known, silent = self.tokenizer.bytes_of, self.hidden.union(request.stop_ids)
        return Detokeniser(lambda token: b"" if token in silent else known.get(token, b""), request.stop)
