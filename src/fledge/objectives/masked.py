"""BERT's two tasks at once: hidden tokens, and whether the second text belongs to the first (arXiv:1810.04805,
arXiv:1909.11942).

Shapes: B batch, T time.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.objectives.language import next_token
from fledge.objectives.loss import Loss, Paired


def masked_and_pair(output: Paired, batch: dict[str, Tensor]) -> Loss:
    """Cross-entropy of the hidden tokens plus that of the pair, in nats per hidden token.

    batch: targets [B,T]; pair_targets and pair_weights [B,T], read at the first token of a row: the label 0 or 1, and
    how many tokens are hidden in that row. So each row's label counts as much as its tokens together, as in the paper,
    however rows are dealt to micro-batches.
    """
    masked = next_token(output, batch)
    assert output.pair is not None
    labels, weights = batch["pair_targets"][:, 0], batch["pair_weights"][:, 0]
    nats = F.cross_entropy(output.pair.float(), labels, reduction="none")
    rows = torch.tensor(float(len(labels)), device=nats.device)
    right = (output.pair.argmax(-1) == labels).float().sum()
    parts = {"masked": (masked.sum.detach(), masked.count), "pair": (nats.sum().detach(), rows)}
    return Loss(masked.sum + (nats * weights).sum(), masked.count, parts | {"pair_accuracy": (right, rows)})
