"""Batches of ranked answers: all answers to one prompt stand in one batch element (arXiv:2203.02155 §3.5).

`last`, `group`, `rank` and `weight` say where each answer ends, which prompt it belongs to, how it was ranked and how
much the ranking counts. Where the length of the prompt is known, the answers' tokens are targets, so that a policy's
log-probs of them can be compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fledge.data.branches import Answers, answer_rows, ends
from fledge.data.packing import Batch, collate


@dataclass(frozen=True)
class Ranked(Answers):
    """Answers and their `ranks` (0 best, equal = tie); `weight` is how much the ranking counts beside others.
    `reference[i]`: log-prob of answer i under the reference policy, in nats; empty if there is none."""

    ranks: tuple[int, ...]
    weight: float = 1.0
    reference: tuple[float, ...] = ()


def ranked_batch(groups: Sequence[Ranked], length: int, branching: bool = False) -> Batch:
    """One micro-batch: the rows of `answer_rows` with `answer` [B,T] counted from 0 (0 on padding and trunks too), and
    for N answers `last` [N] (flat into [B·T]), `group`, `rank`, `weight` and, if known, `reference` [N]."""
    batch = collate(answer_rows(groups, length, branching))
    reference = [value for group in groups for value in group.reference]
    return {
        **batch,
        "answer": (batch["answer"] - 1).clamp(min=0),
        "last": ends(batch["answer"]),
        "group": torch.tensor([g for g, group in enumerate(groups) for _ in group.ids]),
        "rank": torch.tensor([rank for group in groups for rank in group.ranks]),
        "weight": torch.tensor([group.weight for group in groups for _ in group.ids], dtype=torch.float32),
        **({"reference": torch.tensor(reference)} if reference else {}),
    }


class RankedStream:
    """Steps of `per_step` prompts in `microbatches` parts, reshuffled each epoch, deterministic in (seed, step).

    branching: for a model that can (`ModelConfig.can_branch`), see `ranked_batch`.
    """

    def __init__(
        self,
        groups: Sequence[Ranked],
        length: int,
        per_step: int,
        microbatches: int,
        seed: int,
        *,
        branching: bool = False,
    ) -> None:
        self.groups, self.length, self.seed, self.branching = groups, length, seed, branching
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
        return [ranked_batch([self.groups[i] for i in part], self.length, self.branching) for part in parts]

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
