"""From logits to tokens: pure functions on whole batches whose rows may each have their own settings.

Penalties, temperature, top-k, top-p (arXiv:1904.09751) and min-p (arXiv:2407.01082), applied in the order of
`transformers`. The filters work on the sorted head of the distribution and come down to one threshold per row,
so tokens of equal probability stay or go together, and no row needs a full sort unless its nucleus is wide.

Randomness is counter-based: the number that draws a token is a hash of the request's seed and the token's
position in its sequence. So a request gives the same tokens alone, in any batch, and when it is continued from
any point of itself; there is no generator state to keep. Leaves out beam search and grammars.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor

from fledge.core.config import Config

HEAD = 256  # how many of the largest weights top-p looks at before it falls back to sorting all


class Sampling(Config):
    """How the next token is drawn. `temperature` 0 is greedy; the other defaults switch each filter off.

    `repetition_penalty` (arXiv:1909.05858) concerns the prompt and the completion, the presence and frequency
    penalties (as in OpenAI's API) the completion only.
    """

    temperature: float = Field(1.0, ge=0)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class Settings:
    """The `Sampling`s of a batch as tensors [B], and which steps any of its rows needs at all."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    greedy: bool  # every row is
    greedy_some: bool
    scaled: bool  # a row has a temperature other than 0 and 1
    largest_k: int
    nucleus: bool
    floor: bool
    penalised: bool

    def rows(self, index: Tensor | slice) -> "Settings":
        """The settings of the rows `index` [N] or of a slice of rows."""
        names = ("temperature", "top_k", "top_p", "min_p", "repetition", "presence", "frequency")
        return replace(self, **{name: getattr(self, name)[index] for name in names})


def settings(samplings: Sequence[Sampling], device: torch.device | str = "cpu") -> Settings:
    """Gather the settings of a batch, one `Sampling` per row."""
    drawn = [s for s in samplings if s.temperature > 0]

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(s, name) for s in samplings], device=device)

    return Settings(
        temperature=column("temperature").float(),
        top_k=column("top_k").long(),
        top_p=column("top_p").float(),
        min_p=column("min_p").float(),
        repetition=column("repetition_penalty").float(),
        presence=column("presence_penalty").float(),
        frequency=column("frequency_penalty").float(),
        greedy=not drawn,
        greedy_some=len(drawn) < len(samplings),
        scaled=any(s.temperature != 1 for s in drawn),
        largest_k=max((s.top_k for s in drawn), default=0),
        nucleus=any(s.top_p < 1 for s in drawn),
        floor=any(s.min_p > 0 for s in drawn),
        penalised=any(
            s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0 for s in samplings
        ),
    )


def sample(
    logits: Tensor,
    uniforms: Tensor,
    how: Settings,
    seen: Tensor | None = None,
    counts: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    logits: [B, V], raw. uniforms: [B] in [0, 1). seen: bool [B, V], tokens of prompt and completion so far;
    counts: [B, V], how often each occurs in the completion; both needed only if `how.penalised`.
    bias: [B, V], added before all else; -inf forbids a token.
    Returns ids [B] int64 and their log-probabilities [B] float32 under the softmax of the *raw* logits.
    """
    raw = logits.float()
    chosen_from = raw if bias is None else raw + bias
    if seen is not None and counts is not None:
        chosen_from = penalise(chosen_from, how, seen, counts)
    weights, ids, mass = weigh(chosen_from, how)
    if chosen_from is not raw:
        mass = weigh(raw, replace(how, greedy=True))[2]
    if weights is not None:
        drawn = draw(truncate(weights, how), uniforms)
        ids = torch.where(how.temperature == 0, ids, drawn) if how.greedy_some else drawn
    return ids, raw.gather(-1, ids[:, None])[:, 0] - mass


def by_kernels(scores: Tensor) -> bool:
    """Whether compiled kernels weigh and draw: on CPUs."""
    return scores.device.type == "cpu"


def weigh(scores: Tensor, how: Settings) -> tuple[Tensor | None, Tensor, Tensor]:
    """scores: [B, V] float32. Returns exp((score - largest) / temperature) [B, V], or None if every row is greedy;
    the id of the largest score [B]; log Σ exp(score) [B]."""
    temperature = how.temperature.clamp_min(1e-6) if how.scaled or how.greedy_some else None
    if by_kernels(scores):
        from fledge.generate.native.draw import weighed  # compiled code is loaded by who needs it

        return weighed(scores, temperature, keep=not how.greedy)
    top, ids = scores.max(-1)
    weights = scores - top[:, None]
    mass = top + weights.exp().sum(-1).log()
    if how.greedy:
        return None, ids, mass
    return (weights if temperature is None else weights / temperature[:, None]).exp_(), ids, mass


def penalise(logits: Tensor, how: Settings, seen: Tensor, counts: Tensor) -> Tensor:
    """Make what was said less likely. Divides positive logits of seen tokens by the repetition penalty and
    multiplies negative ones; subtracts presence once and frequency per occurrence in the completion. [B, V]"""
    repetition = how.repetition[:, None]
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(seen, repeated, logits)
    return logits - how.presence[:, None] * (counts > 0) - how.frequency[:, None] * counts


def truncate(weights: Tensor, how: Settings) -> Tensor:
    """Set to 0 what top-k, top-p and min-p leave out.

    weights: [B, V], probabilities up to a factor per row whose largest is 1, i.e. exp(scores - max).
    """
    if not (how.largest_k or how.nucleus or how.floor):
        return weights
    size = weights.shape[-1]
    threshold = how.min_p.clone()
    if how.largest_k or how.nucleus:
        width = min(size, max(how.largest_k, HEAD if how.nucleus else 0))
        head = weights.topk(width, dim=-1).values
        if how.largest_k:
            last = head.gather(-1, (how.top_k.clamp(1, width) - 1)[:, None])
            last = torch.where(how.top_k[:, None] > 0, last, 0.0)
            weights = torch.where(weights >= last, weights, 0.0)
            head = torch.where(head >= last, head, 0.0)
        if how.nucleus:
            mass = how.top_p[:, None] * weights.sum(-1, keepdim=True)
            open_ = how.top_p[:, None] >= 1
            if width < size and not bool(((head.sum(-1, keepdim=True) >= mass) | open_).all()):
                head = weights.sort(dim=-1, descending=True).values
            better = head.cumsum(-1) - head
            kept = (better < mass).sum(-1, keepdim=True)
            nucleus = torch.where(open_, 0.0, head.gather(-1, kept.clamp_min(1) - 1))
            threshold = torch.maximum(threshold, nucleus[:, 0])
    return torch.where(weights >= threshold[:, None], weights, 0.0)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Invert the cumulative distribution. weights: [B, V] >= 0; uniforms: [B] in [0, 1). Returns ids [B]."""
    if by_kernels(weights):
        from fledge.generate.native.draw import picked

        return picked(weights, uniforms.double())
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1]
    # Rounding must neither run past the end nor land on a token of weight 0.
    target = torch.minimum(uniforms.to(total.dtype) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp_max(weights.shape[-1] - 1)  # NaN


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """Random numbers in [0, 1) from int64 seeds [B] and positions [B]: splitmix64's finaliser (53 bits)."""
    bits = _mix(_mix(seeds) + positions * -0x61C8864680B583EB)
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
