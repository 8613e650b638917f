"""Beam search over anything that can be asked for the next token's logits: decoders, encoder-decoders, LSTMs.

At every step the best `beams` unfinished continuations of a request live on; whatever ends is kept by its summed
log-probability over a power of its length (arXiv:1609.08144 §7, in the form of `transformers`). The search ends when
no living continuation can still enter the n-best list. With as many beams as there are sequences it is exhaustive.
Constraints are exact: a prefix is fed as if it had been written, no n-gram comes twice (arXiv:1705.04304 §2.5), and
`allowed` names the tokens that may come next (the branches of a tree of valid outputs, arXiv:2010.00904).
Left out: diverse groups, coverage.

Shapes: N requests, K living beams, R = N·K rows, V vocabulary, C candidates, T steps so far, P longest prompt.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from fledge.core.config import Config
from fledge.core.errors import FledgeError

Allowed = Callable[[int, Sequence[int]], Sequence[int]]


class Decoding(Protocol):
    """A model in the midst of writing R texts, one row each. It begins with one row a request."""

    def start(self) -> Tensor:
        """Reads the prompts; logits [R,V] of the first token."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """Takes in one token of every row, [R]; logits [R,V] of the next."""
        ...

    def select(self, rows: Tensor) -> None:
        """Goes on with these rows [R'] only, in this order, each as often as it is named."""
        ...


class BeamConfig(Config):
    """length_penalty: the power of the length that a score is divided by: 0 none, 1 the mean, more favours length.

    stopping: `exact` goes on while anything could still get better; `likely` compares with the best living beam as if
    it ended now (the default of `transformers`); `first` stops when n-best candidates have ended. no_repeat_ngram 0
    is off; min_new_tokens keeps a text from ending sooner.
    """

    beams: int = Field(4, gt=0)
    length_penalty: float = 1.0
    no_repeat_ngram: int = Field(0, ge=0)
    min_new_tokens: int = Field(0, ge=0)
    stopping: Literal["exact", "likely", "first"] = "exact"


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: ids with the token that ended it, its summed log-probability, and the score it is ranked by."""

    ids: list[int]
    logprob: float
    score: float


@torch.inference_mode()
def beam_search(
    decoding: Decoding,
    requests: int,
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    config: BeamConfig | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    allowed: Allowed | None = None,
) -> list[list[Hypothesis]]:
    """The n-best lists of all requests, best first; at most `beams` each, fewer where fewer exist.

    `ends` are the ids that end a text; one that reaches `max_new_tokens` ends there too. `prompts` are what n-grams
    must not repeat besides the text itself. allowed(request, ids so far) → ids that may follow; none is a dead end.
    Raises FledgeError where the model's logits are not finite.
    """
    config = config or BeamConfig()
    logits = decoding.start()
    search = Search(config, requests, max_new_tokens, torch.tensor(list(ends), device=logits.device), prompts)
    for length in range(1, max_new_tokens + 1):
        logprobs = logits.float().log_softmax(-1)
        if not bool(logprobs.isfinite().all()):
            raise FledgeError("the model's logits are not finite", "its weights hold NaN or infinity: load another")
        rows, ids = search.advance(search.constrained(logprobs, length, allowed), length)
        if not len(rows) or length == max_new_tokens:
            break
        decoding.select(rows)
        logits = decoding.step(ids)
    return [[entry for entry in found if entry.score > -math.inf] for found in search.finished]


class Search:
    """Where a search stands: of each request still searched for, its living beams and what has ended."""

    def __init__(
        self,
        config: BeamConfig,
        requests: int,
        limit: int,
        ends: Tensor,
        prompts: Sequence[Sequence[int]] | None,
    ) -> None:
        self.config, self.limit, self.ends = config, limit, ends
        device = ends.device
        self.active = list(range(requests))
        self.finished: list[list[Hypothesis]] = [[] for _ in range(requests)]
        self.totals = torch.zeros(requests, 1, device=device)  # [N,K]
        self.written = torch.zeros(requests, 1, 0, dtype=torch.long, device=device)  # [N,K,T]
        longest = max(map(len, prompts), default=0) if prompts and config.no_repeat_ngram else 0
        self.prompts = torch.full((requests, longest), -1, device=device)  # [N,P], padded in front
        for row, prompt in enumerate(prompts or ()):
            if longest and prompt:
                self.prompts[row, longest - len(prompt) :] = torch.tensor(list(prompt), device=device)

    def constrained(self, logprobs: Tensor, length: int, allowed: Allowed | None) -> Tensor:
        """logprobs [R,V] with -inf where a token may not come as the `length`-th of its text."""
        beams, size = self.totals.shape[1], self.config.no_repeat_ngram
        written = self.written.flatten(0, 1)
        if size:
            history = torch.cat([self.prompts.repeat_interleave(beams, 0), written], 1)
            logprobs = without_repeats(logprobs, history, size)
        if length <= self.config.min_new_tokens:
            logprobs = logprobs.index_fill(1, self.ends, -math.inf)
        if allowed is not None:
            blocked = torch.full_like(logprobs, -math.inf)
            for row, ids in enumerate(written.tolist()):
                free = torch.tensor(list(allowed(self.active[row // beams], ids)), dtype=torch.long)
                blocked[row, free.to(blocked.device)] = 0
            logprobs = logprobs + blocked
        return logprobs

    def advance(self, logprobs: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Chooses among all continuations, given logprobs [R,V] of the next token.

        Returns which rows live on (indices into the R rows that were) and the token each has got; none at the end.
        """
        config, (requests, beams) = self.config, self.totals.shape
        totals = (self.totals[:, :, None] + logprobs.view(requests, beams, -1)).flatten(1)  # [N,K·V]
        wanted = max(2, 1 + len(self.ends)) * config.beams
        totals, index = totals.topk(min(wanted, totals.shape[1]))  # [N,C], best first
        parent, token = index // logprobs.shape[1], index % logprobs.shape[1]
        ended = torch.isin(token, self.ends) | (length == self.limit)
        self.collect(totals, parent, token, ended, length)

        living = totals.masked_fill(ended, -math.inf)
        self.totals, chosen = living.topk(min(config.beams, living.shape[1]))  # [N,K]
        parent, token = parent.gather(1, chosen), token.gather(1, chosen)
        history = self.written.gather(1, parent[:, :, None].expand(-1, -1, self.written.shape[2]))
        self.written = torch.cat([history, token[:, :, None]], 2)
        rows = parent + torch.arange(requests, device=parent.device)[:, None] * beams
        return self.still_open(rows, token, length)

    def collect(self, totals: Tensor, parent: Tensor, token: Tensor, ended: Tensor, length: int) -> None:
        """Takes the ended among the best K candidates [N,C] into their n-best lists."""
        most = self.config.beams
        counts = (ended & totals.isfinite())[:, :most].nonzero()
        if not len(counts):
            return
        n, c = counts.T
        texts = torch.cat([self.written[n, parent[n, c]], token[n, c, None]], 1).tolist()
        for place, ids, total in zip(n.tolist(), texts, totals[n, c].tolist()):
            found = self.finished[self.active[place]]
            found.append(Hypothesis(ids, total, total / length**self.config.length_penalty))
            found.sort(key=lambda entry: -entry.score)
            del found[most:]

    def still_open(self, rows: Tensor, token: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Closes the requests that nothing can better; the rows [R'] and tokens [R'] of the others."""
        power = self.config.length_penalty
        furthest = self.limit if self.config.stopping == "exact" and power > 0 else length
        keep = []
        for place, best in enumerate(self.totals[:, 0].tolist()):
            found = self.finished[self.active[place]]
            full = len(found) == self.config.beams
            beaten = full and (self.config.stopping == "first" or best / furthest**power <= found[-1].score)
            if best > -math.inf and not beaten:
                keep.append(place)
        if len(keep) < len(self.active):
            index = torch.tensor(keep, dtype=torch.long, device=rows.device)
            self.active = [self.active[place] for place in keep]
            self.totals, self.written, self.prompts = self.totals[index], self.written[index], self.prompts[index]
            rows, token = rows[index], token[index]
        return rows.flatten(), token.flatten()


def without_repeats(logprobs: Tensor, history: Tensor, size: int) -> Tensor:
    """logprobs [R,V] with -inf for every token that would complete an n-gram of `size` that history [R,T] has had.

    -1 in a history is padding in front of it.
    """
    if history.shape[1] < size:
        return logprobs
    windows = history.unfold(1, size, 1)  # [R,W,size]
    tail = history[:, history.shape[1] - size + 1 :]  # [R,size-1]
    same = (windows[:, :, :-1] == tail[:, None]).all(-1) & (windows >= 0).all(-1)
    rows, places = same.nonzero(as_tuple=True)
    banned = torch.zeros_like(logprobs)
    banned[rows, windows[rows, places, -1]] = -math.inf
    return logprobs + banned


def prefix_tree(texts: Sequence[Sequence[int]]) -> Allowed:
    """An `allowed` that lets through exactly these texts (each ids with its end)."""
    tree: dict[int, dict] = {}
    for text in texts:
        node = tree
        for token in text:
            node = node.setdefault(token, {})

    def allowed(request: int, ids: Sequence[int]) -> Sequence[int]:
        node = tree
        for token in ids:
            node = node.get(token, {})
        return list(node)

    return allowed


def padded(rows: Sequence[Sequence[int]], value: int = 0, front: bool = False) -> Tensor:
    """Rows of ids as one tensor [R,T], filled up with `value` behind (or in front)."""
    longest = max(map(len, rows))
    side = (lambda n: (n, 0)) if front else (lambda n: (0, n))
    return torch.stack([pad(torch.tensor(list(row)), side(longest - len(row)), value=value) for row in rows])
