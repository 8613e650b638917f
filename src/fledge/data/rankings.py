"""Batches of ranked answers: all answers to one prompt stand in one batch element (arXiv:2203.02155 §3.5).

Answers are packed into rows like any other text; `last`, `group`, `rank` and `weight` say where each answer ends,
which prompt it belongs to, how it was ranked and how much the ranking counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fledge.data.packing import Batch, Example, collate, pack


@dataclass(frozen=True)
class Ranked:
    """Answers to one prompt: `ids[i]` is prompt + answer i, `ranks[i]` its rank (0 best, equal = tie); `weight` is how
    much the ranking counts beside others."""

    ids: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]
    weight: float = 1.0


def ranked_batch(groups: Sequence[Ranked], length: int) -> Batch:
    """One micro-batch: the packed rows and, for N answers, `last` [N] (flat into [B·T]), `group`, `rank` and
    `weight` [N]."""
    flat = [(g, ids, rank) for g, group in enumerate(groups) for ids, rank in zip(group.ids, group.ranks, strict=True)]
    examples = [Example(np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=bool)) for _, ids, _ in flat]
    rows = pack(examples, length, split=False)
    last = torch.zeros(len(flat), dtype=torch.int64)
    for index, row in enumerate(rows):
        for place in row.places:
            last[place[0]] = index * length + place[1] + place[2] - 1
    return {
        **collate(rows),
        "last": last,
        "group": torch.tensor([g for g, _, _ in flat]),
        "rank": torch.tensor([rank for _, _, rank in flat]),
        "weight": torch.tensor([groups[g].weight for g, _, _ in flat], dtype=torch.float32),
    }


class RankedStream:
    """Steps of `per_step` prompts in `microbatches` parts, reshuffled each epoch, deterministic in (seed, step)."""

    def __init__(self, groups: Sequence[Ranked], length: int, per_step: int, microbatches: int, seed: int) -> None:
        self.groups, self.length, self.seed = groups, length, seed
        self.per_step, self.microbatches = min(per_step, len(groups)), microbatches
        self.step = 0

    @property
    def steps_per_epoch(self) -> int:
        return len(self.groups) // self.per_step

    between = True
    one_shape = False

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        epoch, place = divmod(self.step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))
        chosen = order[place * self.per_step : (place + 1) * self.per_step]
        parts = [part for part in np.array_split(chosen, self.microbatches) if len(part)]
        self.step += 1
        return [ranked_batch([self.groups[i] for i in part], self.length) for part in parts]

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
