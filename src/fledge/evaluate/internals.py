"""What goes on inside a model while it reads: hidden states, attention maps, the logit lens, induction heads.

Taken from outside, so that it holds for any architecture: hooks on the blocks give the hidden states (of an
encoder-decoder, the decoder's); attention is recomputed from what is handed to `scaled_dot_product_attention` (or read
where a plain softmax makes it); and for the logit lens the model's own last part reads an earlier layer as if it were
the last. Left out: gradients, causality.

Shapes: B batch, T time, S keys, H heads, E width, L layers, V vocabulary.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

BLOCK = re.compile(r"(^|\.)blocks\.\d+$")
SOFTMAXES = (torch.softmax, torch.Tensor.softmax, F.softmax)


@dataclass
class Internals:
    """What one forward pass left behind. `hidden`: the first block's input, then every block's output, each [B,T,E].

    `attention`: each [B,H,T,S] of probabilities, in the order they were computed; `places` names the module of each.
    """

    output: Any = None
    hidden: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


class AttentionWatch(TorchFunctionMode):
    """While active, `found` gets the probabilities of every attention that is computed."""

    def __init__(self, found: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function is F.scaled_dot_product_attention:
            with torch._C.DisableTorchFunction():
                self.found(attention_of(*args, **kwargs))
        elif function in SOFTMAXES and result.ndim == 4:
            self.found(result)
        return result


def attention_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The probabilities [B,H,T,S] that `scaled_dot_product_attention` forms inside and does not return."""
    groups = q.shape[1] // k.shape[1]
    scores = q.float() @ k.float().repeat_interleave(groups, 1).transpose(-1, -2)
    scores = scores * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    if attn_mask is not None:
        allowed = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if allowed else scores + attn_mask.float()
    return scores.softmax(-1)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The residual blocks of a model in their order; of several stacks those of the outermost, which is the one that
    says something: the decoder's."""
    stacks: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        if BLOCK.search(name):
            stacks.setdefault(name.rpartition("blocks.")[0], []).append(module)
    return stacks[min(stacks, key=len)] if stacks else []


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Removes hooks at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def handing_on(blocks: list[nn.Module], state: Tensor) -> Iterator[None]:
    """For a while every block gives `state` and computes nothing."""
    for block in blocks:
        block.__dict__["forward"] = lambda *_, **__: state
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


@torch.no_grad()
def internals(model: nn.Module, *inputs: Tensor, **named: Tensor) -> Internals:
    """One forward pass of `model` on `inputs` (ids [B,T] first), watched. The model is left in evaluation mode."""
    found, path = Internals(), [""]
    blocks = blocks_of(model)

    def attended(weights: Tensor) -> None:
        found.attention.append(weights.float().cpu())
        found.places.append(path[-1])

    def passed(block: nn.Module, given: Any, output: Tensor) -> None:
        if not found.hidden:
            found.hidden.append(given[0].float().cpu())
        found.hidden.append(output.float().cpu())

    def left(*_: Any) -> None:
        path.pop()

    handles: list[Any] = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: path.append(name)))
        handles.append(module.register_forward_hook(left))
    handles += [block.register_forward_hook(passed) for block in blocks]
    model.eval()
    with hooked(handles), AttentionWatch(attended):
        found.output = model(*inputs, **named)
    return found


@torch.no_grad()
def lens_outputs(model: nn.Module, hidden: list[Tensor], *inputs: Tensor, **named: Tensor) -> Iterator[Any]:
    """What the model would give if it ended after each layer: its output for each of `hidden` [B,T,E].

    The logit lens of nostalgebraist (2020). Every state takes the place of the last block's output, so that the
    model's own final norm, projection and head read it; the last of them gives the model's own output.
    """
    blocks = blocks_of(model)
    for state in hidden:
        weight = next(model.parameters())
        with handing_on(blocks, state.to(weight.device, weight.dtype)):
            yield model(*inputs, **named)


def logit_lens(model: nn.Module, hidden: list[Tensor], *inputs: Tensor, **named: Tensor) -> Iterator[Tensor]:
    """`lens_outputs` as logits [B,T,V]."""
    return (output.logits().float().cpu() for output in lens_outputs(model, hidden, *inputs, **named))


def prefix_matching(attention: Tensor, period: int, start: int = 0) -> Tensor:
    """How much each head looks at what followed the same token one `period` before: attention [...,T,T] → [...].

    The prefix matching score of Olsson et al. (arXiv:2209.11895) on a sequence that repeats itself: the mean, over the
    positions t of the repetition, of the attention from t to t - period + 1. `start` tokens stand before the sequence.
    """
    sources = torch.arange(start + period, attention.shape[-2])
    return attention[..., sources, sources - period + 1].mean(-1)


@torch.no_grad()
def induction(
    model: nn.Module, alphabet: Tensor, first: int, *, period: int = 48, rows: int = 4, seed: int = 0
) -> dict[str, Any]:
    """Random tokens of `alphabet`, said twice after the token `first`: who finds the first time again?

    Returns `scores`, one list of H per attention layer (prefix matching, mean over rows), and, for a model with a
    language head, the mean `loss_first` and `loss_again` in nats of the first and of the second time. A head without
    this skill scores about 1/(1.5·period); a perfect one 1.
    """
    draw = torch.Generator().manual_seed(seed)
    said = torch.stack([alphabet[torch.randint(len(alphabet), (period,), generator=draw)] for _ in range(rows)])
    ids = torch.cat([torch.full((rows, 1), first), said, said], 1).to(next(model.parameters()).device)
    found = internals(model, ids)
    scores = [prefix_matching(weights, period, start=1).mean(0).tolist() for weights in found.attention]
    result: dict[str, Any] = {"period": period, "rows": rows, "scores": scores}
    if hasattr(found.output, "logits"):
        logits = found.output.logits().float()[:, :-1]
        nats = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(rows, -1)
        # The second time is predictable from its second token on: nothing says that the first one comes again.
        result |= {"loss_first": float(nats[:, :period].mean()), "loss_again": float(nats[:, period + 1 :].mean())}
    return result
