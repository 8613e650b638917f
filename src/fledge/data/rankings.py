"""Batches of ranked answers: all answers to one prompt stand in one batch element (arXiv:2203.02155 §3.5).

Answers are packed into rows like any other text; `last`, `group`, `rank` and `weight` say where each answer ends,
which prompt it belongs to, how it was ranked and how much the ranking counts. Where the length of the prompt is known,
the answers' tokens are targets, so that a policy's log-probs of them can be compared.
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
    much the ranking counts beside others.

    `prompt`: how many tokens the prompt has, None if only whole sequences matter. `reference[i]`: log-prob of answer i
    under the reference policy, in nats; empty if there is none.
    """

    ids: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]
    weight: float = 1.0
    prompt: int | None = None
    reference: tuple[float, ...] = ()

    def supervised(self, size: int) -> np.ndarray:
        """Which of the `size` tokens of a sequence are targets, [T] bool."""
        return np.arange(size) >= (size if self.prompt is None else self.prompt)


def ranked_batch(groups: Sequence[Ranked], length: int) -> Batch:
    """One micro-batch: the packed rows with `answer` [B,T], the number of the answer that stands there (0 on padding
    too), and for N answers `last` [N] (flat into [B·T]), `group`, `rank`, `weight` and, if known, `reference` [N]."""
    flat = [(g, ids, rank) for g, group in enumerate(groups) for ids, rank in zip(group.ids, group.ranks, strict=True)]
    examples = [Example(np.array(ids, dtype=np.int32), groups[g].supervised(len(ids))) for g, ids, _ in flat]
    rows = pack(examples, length, split=False)
    last = torch.zeros(len(flat), dtype=torch.int64)
    answer = torch.zeros(len(rows), length, dtype=torch.int64)
    for index, row in enumerate(rows):
        for number, start, size in row.places:
            last[number] = index * length + start + size - 1
            answer[index, start : start + size] = number
    reference = [value for group in groups for value in group.reference]
    return {
        **collate(rows),
        "answer": answer,
        "last": last,
        "group": torch.tensor([g for g, _, _ in flat]),
        "rank": torch.tensor([rank for _, _, rank in flat]),
        "weight": torch.tensor([groups[g].weight for g, _, _ in flat], dtype=torch.float32),
        **({"reference": torch.tensor(reference)} if reference else {}),
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
