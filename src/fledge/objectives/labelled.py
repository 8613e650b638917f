"""Losses of labelled tasks: a class or a number of a row, a tag of each token, an answer's first and last token.

Text to be written has the language objective's loss. Each returns the sum over rows (tags: over tokens), and the share
that is right as a part.

Shapes: B rows, T tokens, L labels.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.objectives.loss import Loss

IGNORED = -100


class Labelling(Protocol):
    """A classifier's output: values [B,L] of rows, or [B,T,L] of tokens."""

    @property
    def values(self) -> Tensor: ...


def classification(output: Labelling, batch: dict[str, Tensor]) -> Loss:
    """Cross-entropy of the classes in labels [B]; values [B,L]."""
    logits, labels = output.values.float(), batch["labels"]
    hits = (logits.argmax(-1) == labels).sum().float()
    count = torch.tensor(float(len(labels)), device=logits.device)
    return Loss(F.cross_entropy(logits, labels, reduction="sum"), count, {"accuracy": (hits, count)})


def regression(output: Labelling, batch: dict[str, Tensor]) -> Loss:
    """Squared error of the numbers in labels [B]; values [B,1]."""
    errors = (output.values[:, 0].float() - batch["labels"]).square()
    count = torch.tensor(float(len(errors)), device=errors.device)
    return Loss(errors.sum(), count)


def tagging(output: Labelling, batch: dict[str, Tensor]) -> Loss:
    """Cross-entropy of tags [B,T] where they are not -100; values [B,T,L]."""
    logits, tags = output.values.flatten(0, 1).float(), batch["tags"].flatten()
    count = (tags != IGNORED).sum().float()
    hits = (logits.argmax(-1) == tags).sum().float()
    return Loss(
        F.cross_entropy(logits, tags, reduction="sum", ignore_index=IGNORED), count, {"accuracy": (hits, count)}
    )


def extraction(output: Labelling, batch: dict[str, Tensor]) -> Loss:
    """Cross-entropy of an answer's first and last token, starts and ends [B]; values [B,T,2].

    Only tokens with answerable [B,T] are candidates.
    """
    logits = output.values.float().masked_fill(~batch["answerable"][:, :, None], -torch.inf)
    both = torch.stack([batch["starts"], batch["ends"]], 1)
    total = F.cross_entropy(logits, both, reduction="sum") / 2
    hits = (logits.argmax(1) == both).all(1).sum().float()
    count = torch.tensor(float(len(both)), device=logits.device)
    return Loss(total, count, {"accuracy": (hits, count)})
