"""Scores of whole sequences by a reward model, read at the last real token of each; log-probs of answers."""

from collections.abc import Sequence

import torch
from torch import nn

from fledge.data.rankings import Ranked, ranked_batch
from fledge.model.heads import Headed
from fledge.model.inputs import inputs
from fledge.objectives.preference import answer_logprobs


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


@torch.no_grad()
def score_answers(model: Headed, groups: Sequence[Ranked], length: int, per_batch: int = 64) -> list[list[float]]:
    """log π in nats of each answer of each group, whose `prompt` is known, under a language model."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found: list[float] = []
    for start in range(0, len(groups), per_batch):
        batch = ranked_batch(groups[start : start + per_batch], length, model.config.can_branch)
        moved = {key: column.to(device) for key, column in batch.items()}
        output = model(**inputs(moved))
        found += answer_logprobs(output, moved).cpu().tolist()
    model.train(training)
    values = iter(found)
    return [[next(values) for _ in group.ids] for group in groups]
