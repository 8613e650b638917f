"""How each shape of model writes: what beam search and sampling ask of it, one row a text.

A decoder goes on from its prompts; an encoder-decoder and an LSTM read their sources once and begin from a start token
(or from any prefix the text must have). Keys and values are cached; rows may be dropped, repeated and reordered at any
step. Left out: joining rows in mid-flight, which is the engine's business.

Shapes: R rows, T prompt length, S source length, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.generate.beam import Decoding, padded
from fledge.generate.request import Request
from fledge.generate.sampling import sample, settings, uniform
from fledge.model.cache import Cache
from fledge.model.heads import LanguageModel
from fledge.model.lstm import LstmModel


class TransformerDecoding:
    """A decoder that goes on from `prompts`; with `sources`, an encoder-decoder that reads them first."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sources: Sequence[Sequence[int]] | None = None,
    ) -> None:
        weight = next(model.parameters())
        self.model, self.device = model, weight.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        longest = int(lengths.max())
        check_room(longest, max_new_tokens, model.config.context)
        self.ids = padded(prompts).to(self.device)
        self.position = lengths - 1  # of the last token taken in
        self.cache = Cache(model.config, len(prompts), longest + max_new_tokens, self.device, weight.dtype)
        self.cache.reach = longest
        self.sources = sources
        self.others: dict[str, Any] = {}
        self.owner = torch.arange(len(prompts), device=self.device)

    def start(self) -> Tensor:
        """Reads sources and prompts; logits [R,V]."""
        if self.sources is not None:
            self.others["memory"] = self.model.encode(**source_columns(self.sources, self.device))
        positions = torch.arange(self.ids.shape[1], device=self.device).expand_as(self.ids)
        output = self.model(self.ids, positions, cache=self.cache, **self.others)
        rows = torch.arange(len(self.ids), device=self.device)
        return replace(output, hidden=output.hidden[rows, self.position]).logits()

    def step(self, ids: Tensor) -> Tensor:
        """ids [R] → logits [R,V]."""
        self.position = self.position + 1
        self.cache.reach = int(self.position.max()) + 1
        return self.model(ids[:, None], self.position[:, None], cache=self.cache, **self.others).logits()[:, 0]

    def select(self, rows: Tensor) -> None:
        """Goes on with the rows [R']."""
        owner = self.owner[rows]
        if "memory" in self.others and not torch.equal(owner, self.owner):
            self.others["memory"] = self.others["memory"].rows(rows)
        self.owner, self.position = owner, self.position[rows]
        self.cache.keys = [keys[rows] for keys in self.cache.keys]
        self.cache.values = [values[rows] for values in self.cache.values]
        self.cache.lengths = self.cache.lengths[rows]


class LstmDecoding:
    """An LSTM that has read `sources` and goes on from `prompts`."""

    def __init__(self, model: LstmModel, prompts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]]) -> None:
        self.model, self.device = model, next(model.parameters()).device
        self.prompts, self.sources = prompts, sources

    def start(self) -> Tensor:
        """Reads sources and prompts; logits [R,V]."""
        self.state = self.model.encode(**source_columns(self.sources, self.device))
        ids, documents = padded(self.prompts).to(self.device), real(self.prompts).to(self.device)
        output = self.model(ids, documents=documents, cache=self.state)
        last = documents.sum(1) - 1
        rows = torch.arange(len(ids), device=self.device)
        return replace(output, hidden=output.hidden[rows, last]).logits()

    def step(self, ids: Tensor) -> Tensor:
        """ids [R] → logits [R,V]."""
        return self.model(ids[:, None], cache=self.state).logits()[:, 0]

    def select(self, rows: Tensor) -> None:
        """Goes on with the rows [R']."""
        self.state = self.state.rows(rows)


def decoding_of(
    model: LanguageModel | LstmModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sources: Sequence[Sequence[int]] | None = None,
) -> Decoding:
    """The way this model writes: `prompts` are what its texts begin with, `sources` what it reads first."""
    if isinstance(model, LstmModel):
        assert sources is not None
        return LstmDecoding(model, prompts, sources)
    return TransformerDecoding(model, prompts, max_new_tokens, sources)


def check_room(prompt: int, max_new_tokens: int, context: int) -> None:
    """Refuses what is longer than the model's context."""
    if prompt + max_new_tokens > context:
        raise FledgeError(
            f"a prompt of {prompt} tokens and {max_new_tokens} new ones make {prompt + max_new_tokens}, the model's "
            f"context is {context}",
            "shorten the prompt or lower max_new_tokens",
        )


def source_columns(sources: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """The arguments of `encode`, [R,S]."""
    return {"source_ids": padded(sources).to(device), "source_documents": real(sources).to(device)}


def real(rows: Sequence[Sequence[int]]) -> Tensor:
    """1 where a padded row [R,T] has a token, 0 behind it."""
    return padded([[1] * len(row) for row in rows]).int()


@torch.inference_mode()
def draw(decoding: Decoding, requests: Sequence[Request], device: torch.device) -> list[tuple[list[int], list[float]]]:
    """Samples a text for each request, as the engine does for decoders: (ids, log-probabilities) with what ended it.

    The same request draws the same tokens as in the engine: randomness is a function of its seed and of positions.
    """
    logits, live = decoding.start(), list(range(len(requests)))
    done: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
    how = settings([request.sampling for request in requests], device)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    uses = torch.zeros_like(logits)
    for row, request in enumerate(requests):
        seen[row, request.ids] = True
    while live:
        position = torch.tensor([len(requests[i].ids) + len(done[i][0]) for i in live], device=device)
        seeds = torch.tensor([requests[i].seed for i in live], device=device)
        penalised = (seen, uses) if how.penalised else (None, None)
        ids, logprobs = sample(logits, uniform(seeds, position), how, *penalised)
        seen.scatter_(1, ids[:, None], True)
        uses.scatter_add_(1, ids[:, None], torch.ones_like(uses[:, :1]))
        for i, token, logprob in zip(live, ids.tolist(), logprobs.tolist()):
            done[i][0].append(token)
            done[i][1].append(logprob)
        going = [row for row, i in enumerate(live) if not over(requests[i], done[i][0])]
        if not going:
            break
        rows = torch.tensor(going, device=device)
        if len(going) < len(live):
            live, how, seen, uses = [live[row] for row in going], how.rows(rows), seen[rows], uses[rows]
            decoding.select(rows)
        logits = decoding.step(ids[rows])
    return done


def over(request: Request, ids: Sequence[int]) -> bool:
    """Whether a text has ended."""
    return len(ids) >= request.max_new_tokens or ids[-1] in request.stop_ids
