"""Scores of whole sequences by a reward model, read at the last real token of each."""

from collections.abc import Sequence

import torch
from torch import nn

from fledge.data.rankings import Ranked, ranked_batch


@torch.no_grad()
def score_sequences(
    model: nn.Module, sequences: Sequence[Sequence[int]], length: int, per_batch: int = 256
) -> torch.Tensor:
    """Raw scores [N], float32 on the CPU, of N sequences of at most `length` tokens, whatever their order."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found = []
    for start in range(0, len(sequences), per_batch):
        chunk = sequences[start : start + per_batch]
        batch = ranked_batch([Ranked(tuple(tuple(ids) for ids in chunk), (0,) * len(chunk))], length)
        moved = {key: column.to(device) for key, column in batch.items()}
        values = model(moved["ids"], moved["positions"], moved["documents"]).values
        found.append(values.flatten()[moved["last"]].float().cpu())
    model.train(training)
    return torch.cat(found) if found else torch.zeros(0)
