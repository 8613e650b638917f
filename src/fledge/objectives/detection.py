"""Replaced-token detection (ELECTRA, arXiv:2003.10555): a generator fills in hidden tokens, a discriminator says of
every token whether it was replaced.

The generator's samples are drawn with random numbers that come with the batch, so a step is a function of its batch.
No gradient goes through them. A token that the generator happens to get right counts as kept.

Shapes: B batch, T time, N hidden tokens, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.core.device import compute_dtype
from fledge.objectives.language import next_token, projection, rows_per_chunk, supervised
from fledge.objectives.loss import Detecting, Loss, Projectable

DETECTION = 50.0  # the weight of detection beside the generator's loss (ELECTRA)
HIDDEN = 0.15  # of the tokens


def replaced_tokens(output: Detecting, batch: dict[str, Tensor]) -> Loss:
    """The generator's nats per hidden token plus 50 times the discriminator's per token.

    batch: ids [B,T] with the hidden tokens as [MASK]; targets [B,T] and draws [B,T] in [0, 1) at those; documents
    [B,T]. The count is of all tokens, and the generator's sum is divided by the usual share of hidden ones, so that
    micro-batches add up.
    """
    masked = next_token(output.generated, batch)
    targets, real = batch["targets"], batch["documents"] != 0
    guesses = sampled(output.generated, targets, batch["draws"])
    shown = torch.where(targets >= 0, guesses, batch["ids"])
    replaced = ((targets >= 0) & (shown != targets))[real]
    scores = output.detect(shown)[real].float()
    detection = F.cross_entropy(scores, replaced.long(), reduction="sum")
    found = scores.argmax(-1).bool()
    count = real.sum().float()
    parts = {
        "masked": (masked.sum.detach(), masked.count),
        "detection": (detection.detach(), count),
        "detection_accuracy": ((found == replaced).sum().float(), count),
        "replaced_found": ((found & replaced).sum().float(), replaced.sum().float()),
        "replaced": (replaced.sum().float(), count),
    }
    return Loss(masked.sum / HIDDEN + DETECTION * detection, count, parts)


@torch.no_grad()
def sampled(output: Projectable, targets: Tensor, draws: Tensor) -> Tensor:
    """A token of the output's distribution at each position with a target, [B,T]; elsewhere 0.

    draws [B,T] are uniform in [0, 1): the token is the one into whose share of the cumulated probabilities one falls.
    """
    places, _ = supervised(targets)
    hidden, weight = projection(output, places)
    dtype, uniform = compute_dtype(hidden), draws.flatten()[places, None]
    weight = weight.to(dtype)
    found = torch.zeros_like(targets).flatten()
    rows = rows_per_chunk(len(weight), hidden.device)
    for start in range(0, len(places), rows):
        part = slice(start, start + rows)
        shares = (hidden[part].to(dtype) @ weight.T).float().softmax(-1).cumsum(-1)
        tokens = torch.searchsorted(shares, uniform[part] * shares[:, -1:], right=True)
        found[places[part]] = tokens[:, 0].clamp(max=len(weight) - 1)
    return found.view(targets.shape)
