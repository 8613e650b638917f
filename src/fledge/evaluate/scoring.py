"""Scores of whole sequences by a reward model, read at the last real token of each; log-probs of answers."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from fledge.data.branches import Answers, answer_rows, ends
from fledge.data.packing import collate
from fledge.data.rankings import Ranked, ranked_batch
from fledge.model.heads import Headed
from fledge.model.inputs import inputs
from fledge.objectives.preference import answer_logprobs


def score_sequences(
    model: Headed, sequences: Sequence[Sequence[int]], length: int, per_batch: int = 256
) -> torch.Tensor:
    """Raw scores [N], float32 on the CPU, of N sequences of at most `length` tokens, whatever their order."""
    return score_groups(model, [Answers((tuple(ids),)) for ids in sequences], length, per_batch)


@torch.no_grad()
def score_groups(model: Headed, groups: Sequence[Answers], length: int, per_batch: int = 256) -> torch.Tensor:
    """Raw scores [N], float32 on the CPU, of all answers of all groups, which share what they begin with; `per_batch`
    of them at once."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    found = []
    for chunk in chunks(groups, per_batch):
        batch = collate(answer_rows(chunk, length, model.config.can_branch))
        moved = {key: column.to(device) for key, column in batch.items()}
        last = ends(batch["answer"]).to(device)
        found.append(model(**inputs(moved)).values.flatten()[last].float().cpu())
    model.train(training)
    return torch.cat(found) if found else torch.zeros(0)


def chunks(groups: Sequence[Answers], answers: int) -> Iterator[Sequence[Answers]]:
    """The groups in runs that hold about so many answers."""
    taken = np.cumsum([len(group.ids) for group in groups]) - 1
    edges = np.flatnonzero(np.diff(taken // answers, prepend=-1))
    for start, stop in itertools.pairwise([*edges, len(groups)]):
        yield groups[start:stop]


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
