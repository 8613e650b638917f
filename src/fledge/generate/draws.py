"""Drawing the next token of a fixed set of rows: their settings as tensors, gathered once while they stay together.

Shapes: N rows, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fledge.generate.request import Scored
from fledge.generate.rows import Row, RowCache
from fledge.generate.sampling import sample, settings, uniform

AHEAD = 32  # steps for which random numbers are made at once


class Draws:
    """The draws of `rows`, in order; call `draw` once a step."""

    def __init__(self, rows: Sequence[Row], cache: RowCache) -> None:
        self.rows, self.device, size = rows, cache.device, cache.config.vocab_size
        self.how = settings([row.request.sampling for row in rows], self.device)
        self.seeds = torch.tensor([[signed(row.request.seed)] for row in rows], device=self.device)
        self.top = max(row.request.top_logprobs for row in rows)
        self.ahead = AHEAD
        self.seen = self.uses = self.bias = None
        if self.how.penalised:
            self.seen = torch.zeros(len(rows), size, dtype=torch.bool, device=self.device)
            self.uses = torch.zeros(len(rows), size, device=self.device)
            for place, row in enumerate(rows):
                drawn = torch.tensor(row.ids[len(row.ids) - row.drawn :], dtype=torch.int64, device=self.device)
                self.seen[place, torch.tensor(row.ids, device=self.device)] = True
                self.uses[place].scatter_add_(0, drawn, torch.ones(len(drawn), device=self.device))
        if any(row.request.logit_bias for row in rows):
            self.bias = torch.zeros(len(rows), size, device=self.device)
            for place, row in enumerate(rows):
                for token, value in row.request.logit_bias.items():
                    self.bias[place, token] = value
        self.ruled = [(place, row) for place, row in enumerate(rows) if row.matcher is not None]

    @property
    def guessable(self) -> bool:
        """Whether a token is drawn by the logits and its number alone, whatever was drawn before."""
        return self.seen is None and not self.ruled

    def guess(self, logits: Tensor, ahead: int) -> Tensor:
        """The tokens [N] that these logits [N, V] would give `ahead` places after the next."""
        return sample(logits, self.uniforms[:, ahead], self.how, bias=self.bias)[0]

    def look_ahead(self) -> None:
        """Make the random numbers of the next places, from the next on."""
        positions = torch.tensor([[len(row.ids)] for row in self.rows], device=self.device)
        self.uniforms = uniform(self.seeds, positions + torch.arange(AHEAD, device=self.device))
        self.ahead = 0

    def forget(self) -> None:
        """Rows have gone on by different numbers of tokens: the numbers in hand are no longer theirs."""
        self.ahead = AHEAD

    def draw(self, logits: Tensor) -> list[Scored]:
        """The next token of each row; logits [N, V]."""
        if self.ahead == AHEAD:
            self.look_ahead()
        bias = self.bias
        if self.ruled:
            bias = torch.zeros(logits.shape, device=self.device) if bias is None else bias.clone()
            for place, row in self.ruled:
                row.matcher.forbid(bias[place])
        ids, logprobs = sample(logits, self.uniforms[:, self.ahead], self.how, self.seen, self.uses, bias)
        self.ahead += 1
        if self.seen is not None and self.uses is not None:
            self.seen.scatter_(1, ids[:, None], True)
            self.uses.scatter_add_(1, ids[:, None], torch.ones_like(self.uses[:, :1]))
        if not self.top:
            return [Scored(token, logprob) for token, logprob in zip(ids.tolist(), logprobs.tolist())]
        raw = logits.float()
        total, best = raw.logsumexp(-1, keepdim=True), raw.topk(self.top, dim=-1)
        logprobs = (raw.gather(1, ids[:, None]) - total)[:, 0]  # rounded as those beside it
        found = zip(ids.tolist(), logprobs.tolist(), best.indices.tolist(), (best.values - total).tolist(), self.rows)
        return [
            Scored(token, logprob, tuple(zip(tokens, values))[: row.request.top_logprobs])
            for token, logprob, tokens, values, row in found
        ]


def signed(seed: int) -> int:
    """Any integer as an int64."""
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)
