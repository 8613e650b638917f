"""Requests in, completions out: one batch of slots that is always full of live rows.

Schedule (waiting requests take free slots) → run (right-padded prefill of the new rows, or one token for all rows)
→ postprocess (draw, store, find what has ended). Rows are compact: when one ends, the last takes its place, so no
step computes for the dead. A request gives the same tokens alone and in any batch, up to the rounding of the
matrix products. Follows the shape of nano-vllm; continuous batching: Orca (Yu et al., OSDI 2022).

The engine reads the model's weights at every step and changes nothing in it: it serves the very model that trains.
Leaves out paged memory, prompts shared between runs and speculative decoding.

Shapes: N live rows, V vocabulary, R requests, M longest completion.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.generate.detokenise import Detokeniser
from fledge.generate.packed import PackedModel, can_be_packed, packed
from fledge.generate.request import Completion, Event, Request
from fledge.generate.slots import Slots
from fledge.model.heads import LanguageModel
from fledge.text.tokenizer import Tokenizer

PREFILL = 8192  # padded prompt tokens run at once: bounds the memory of a prefill


class Engine:
    """Generates with `model`, at most `max_batch` requests at a time.

    `dtype` None runs the model as it is. With a dtype each run makes a copy of the current weights in that
    precision, packed for fast decoding: worth it from about twenty tokens a request on.
    """

    def __init__(
        self,
        model: LanguageModel | PackedModel,
        tokenizer: Tokenizer | None = None,
        *,
        max_batch: int = 64,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.dtype = dtype
        self.hidden = frozenset(tokenizer.special.values()) if tokenizer else frozenset()

    def run(
        self, requests: Sequence[Request], on_progress: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """Complete all requests, in order. `on_progress(finished, total)` is called whenever some finish."""
        done: dict[int, Completion] = {}
        for index, completion in self.completions(requests):
            done[index] = completion
            if on_progress:
                on_progress(len(done), len(requests))
        return [done[index] for index in range(len(requests))]

    def completions(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Yield (index, completion) as requests finish."""
        for _, ended in self._steps(requests, follow=False):
            yield from ended

    def stream(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Yield every token as it is drawn."""
        for events, _ in self._steps(requests, follow=True):
            yield from events

    @torch.inference_mode()
    def _steps(
        self, requests: Sequence[Request], follow: bool
    ) -> Iterator[tuple[list[Event], list[tuple[int, Completion]]]]:
        if not requests:
            return
        for index, request in enumerate(requests):
            self._check(index, request)
        trained = () if isinstance(self.model, PackedModel) else self.model.modules()
        training = [module for module in trained if module.training]
        for module in training:
            module.training = False
        try:
            model = self._current()
            slots = Slots(model, requests, min(self.max_batch, len(requests)))
            waiting = deque(range(len(requests)))
            texts: dict[int, Detokeniser] = {}
            while waiting or slots.live:
                new = admitted(requests, waiting, slots.capacity - slots.live, slots.capacity)
                texts.update({i: self._detokeniser(requests[i]) for i in new if follow or requests[i].stop})
                ended = slots.prefill(new) if new else slots.decode()
                yield self._report(requests, slots, len(new) or slots.live, ended, texts, follow)
        finally:
            for module in training:
                module.training = True

    def _current(self) -> LanguageModel | PackedModel:
        """What runs: the model, or a fresh packed copy of it where the copy knows the shape."""
        if self.dtype is None or isinstance(self.model, PackedModel) or not can_be_packed(self.model.config):
            return self.model
        return packed(self.model, self.dtype)

    def _report(
        self,
        requests: Sequence[Request],
        slots: "Slots",
        drawn: int,
        ended: Tensor | None,
        texts: dict[int, Detokeniser],
        follow: bool,
    ) -> tuple[list[Event], list[tuple[int, Completion]]]:
        """Text for those who want it, completions of those who ended; frees their slots.

        drawn: the last so many live rows have a new token. ended: bool [drawn] of those rows, None if none has.
        """
        first = slots.live - drawn
        events: list[Event] = []
        done: list[tuple[int, Completion]] = []
        over = [] if ended is None else (ended.nonzero()[:, 0] + first).tolist()
        pieces: dict[int, str] = {}
        if texts:
            at_end = set(over)
            for row, token in enumerate(slots.last[first : slots.live].tolist(), first):
                index = slots.owners[row]
                if (text := texts.get(index)) is None:
                    continue
                pieces[row] = text.add(token)
                if row in at_end and not text.stopped:
                    pieces[row] += text.close()
                if text.stopped and row not in at_end:
                    over.append(row)
                if follow and row not in over:
                    events.append(Event(index, token, pieces[row], None))
        for row in over:
            index = slots.owners[row]
            completion = self._completion(requests[index], slots, row, texts.pop(index, None))
            done.append((index, completion))
            if follow:
                events.append(Event(index, completion.ids[-1], pieces[row], completion.finish))
        slots.free(over)
        return events, done

    def _completion(self, request: Request, slots: "Slots", row: int, text: Detokeniser | None) -> Completion:
        size = int(slots.count[row])
        ids, logprobs = slots.tokens[row, :size].tolist(), slots.logprobs[row, :size].tolist()
        if not math.isfinite(sum(logprobs)):
            raise FledgeError(
                "the model's logits are not finite",
                "its weights hold NaN or infinity: go back to an earlier checkpoint",
            )
        if text is None and self.tokenizer:
            text = self._detokeniser(request)
            for token in ids:
                text.add(token)
            text.close()
        stopped = ids[-1] in request.stop_ids or (text is not None and text.stopped)
        return Completion(ids, logprobs, "stop" if stopped else "length", text.text if text else "")

    def _detokeniser(self, request: Request) -> Detokeniser:
        assert self.tokenizer
        known, silent = self.tokenizer.bytes_of, self.hidden.union(request.stop_ids)
        return Detokeniser(lambda token: b"" if token in silent else known.get(token, b""), request.stop)

    def _check(self, index: int, request: Request) -> None:
        config, size = self.model.config, len(request.ids)
        if size == 0:
            raise FledgeError(f"request {index} has an empty prompt", "give at least one token")
        if request.max_new_tokens < 1:
            raise FledgeError(f"request {index} asks for {request.max_new_tokens} new tokens", "ask for 1 or more")
        if size + request.max_new_tokens > config.context:
            raise FledgeError(
                f"request {index}: a prompt of {size} tokens and {request.max_new_tokens} new ones make "
                f"{size + request.max_new_tokens}, the model's context is {config.context}",
                "shorten the prompt or lower max_new_tokens",
            )
        if not 0 <= min(request.ids) <= max(request.ids) < config.vocab_size:
            raise FledgeError(
                f"request {index} holds ids outside the vocabulary of {config.vocab_size}",
                "encode it with this model's tokenizer",
            )
        if request.stop and (self.tokenizer is None or "" in request.stop):
            raise FledgeError("stop strings need a tokenizer and must not be empty", "give Engine the tokenizer")


def admitted(requests: Sequence[Request], waiting: deque[int], free: int, capacity: int) -> list[int]:
    """The requests to let in now. A few free slots are left open while others work: a prefill costs about a step."""
    if not waiting or free < min(len(waiting), max(1, capacity // 8)):
        return []
    new: list[int] = []
    longest = 0
    while waiting and len(new) < free:
        longest = max(longest, len(requests[waiting[0]].ids))
        if new and longest * (len(new) + 1) > PREFILL:
            break
        new.append(waiting.popleft())
    return new
