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


@dataclass
class Tree:
    """Some answers to one prompt as one document: the trunk they begin with, then what is left of each, its branch."""

    trunk: tuple[int, ...]
    answers: list[tuple[int, ...]]
    numbers: list[int]  # of the answers in the batch

    @property
    def tokens(self) -> int:
        return len(self.trunk) + sum(len(ids) - len(self.trunk) for ids in self.answers)

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions, and numbers of branches from 1 on, 0 on the trunk: [T] each."""
        start = len(self.trunk)
        parts = [np.arange(start), *(np.arange(start, len(ids)) for ids in self.answers)]
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def example(self, group: Ranked) -> Example:
        """Its tokens, one branch behind the other."""
        pieces = [self.trunk, *(ids[len(self.trunk) :] for ids in self.answers)]
        masks = [group.supervised(len(ids))[len(self.trunk) :] for ids in self.answers]
        mask = np.concatenate([np.zeros(len(self.trunk), dtype=bool), *masks])
        return Example(np.concatenate([np.array(ids, dtype=np.int32) for ids in pieces]), mask)


def trees(group: Ranked, first: int, length: int, branching: bool) -> Iterator[Tree]:
    """The answers of a group, the first of which is number `first`, in trees of at most `length` tokens; each alone
    unless branching.

    A branch begins with a token at least; where answers are targets with the prompt's last, which predicts their first.
    """
    shared = min(len(ids) for ids in group.ids) - 1 if branching and len(group.ids) > 1 else 0
    if group.prompt is not None:
        shared = min(shared, group.prompt - 1)
    trunk = group.ids[0][: next((i for i in range(shared) if len({ids[i] for ids in group.ids}) > 1), shared)]
    tree = Tree(trunk, [], [])
    for number, ids in enumerate(group.ids, first):
        if tree.answers and (not trunk or tree.tokens + len(ids) - len(trunk) > length):
            yield tree
            tree = Tree(trunk, [], [])
        tree.answers.append(ids)
        tree.numbers.append(number)
    yield tree


def ranked_batch(groups: Sequence[Ranked], length: int, branching: bool = False) -> Batch:
    """One micro-batch: the packed rows with `answer` [B,T], the number of the answer that stands there (0 on padding
    and trunks too), and for N answers `last` [N] (flat into [B·T]), `group`, `rank`, `weight` and, if known,
    `reference` [N].

    branching: what the answers to a prompt begin with stands there once, and `branches` [B,T] says who sees whom
    (prefix sharing, arXiv:2410.20305): the same scores, half the tokens where prompts are as long as answers.
    """
    first = np.cumsum([0, *(len(group.ids) for group in groups)])
    found = [(group, tree) for n, group in enumerate(groups) for tree in trees(group, int(first[n]), length, branching)]
    rows = pack([tree.example(group) for group, tree in found], length, split=False)
    last = torch.zeros(int(first[-1]), dtype=torch.int64)
    batch = collate(rows)
    answer, branches = torch.zeros_like(batch["ids"]), torch.zeros_like(batch["ids"])
    for index, row in enumerate(rows):
        for number, start, size in row.places:
            tree = found[number][1]
            positions, branch = (torch.from_numpy(column) for column in tree.columns())
            part = slice(start, start + size)
            batch["positions"][index, part], branches[index, part] = positions, branch
            answer[index, part] = torch.tensor([0, *tree.numbers])[branch]
            ends = np.cumsum([len(ids) - len(tree.trunk) for ids in tree.answers])
            last[tree.numbers] = torch.from_numpy(index * length + start + len(tree.trunk) + ends - 1)
    reference = [value for group in groups for value in group.reference]
    return {
        **batch,
        **({"branches": branches} if branching else {}),
        "answer": answer,
        "last": last,
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
