"""Several answers to one prompt as one document: the trunk they begin with, and a branch for what is left of each.

What is shared stands in a row once, and is computed once (prefix sharing, arXiv:2410.20305): the same numbers from half
the tokens where prompts are as long as answers. `Visibility` has the rule of who sees whom; `ModelConfig.can_branch`
says which models keep it. For others every answer is a document of its own, in the same columns.

Shapes: L tokens of a row, T of a tree, N answers of all groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fledge.data.packing import Example, Row, pack


@dataclass(frozen=True)
class Answers:
    """`ids[i]` is a prompt + answer i to it. `prompt`: how many tokens the prompt has, and the tokens behind it are
    targets; None if only whole sequences matter."""

    ids: tuple[tuple[int, ...], ...]
    prompt: int | None = field(default=None, kw_only=True)

    def supervised(self, size: int) -> np.ndarray:
        """Which of the `size` tokens of a sequence are targets, [T] bool."""
        return np.arange(size) >= (size if self.prompt is None else self.prompt)


@dataclass
class Tree:
    """Some answers to one prompt as one document."""

    trunk: tuple[int, ...]
    answers: list[tuple[int, ...]]
    numbers: list[int]  # of the answers among all groups

    @property
    def tokens(self) -> int:
        return len(self.trunk) + sum(len(ids) - len(self.trunk) for ids in self.answers)

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions, and numbers of branches from 1 on, 0 on the trunk: [T] each."""
        start = len(self.trunk)
        parts = [np.arange(start), *(np.arange(start, len(ids)) for ids in self.answers)]
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def example(self, group: Answers) -> Example:
        """Its tokens, one branch behind the other."""
        pieces = [self.trunk, *(ids[len(self.trunk) :] for ids in self.answers)]
        masks = [group.supervised(len(ids))[len(self.trunk) :] for ids in self.answers]
        mask = np.concatenate([np.zeros(len(self.trunk), dtype=bool), *masks])
        return Example(np.concatenate([np.array(ids, dtype=np.int32) for ids in pieces]), mask)


def trees(group: Answers, first: int, length: int, branching: bool) -> Iterator[Tree]:
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


def answer_rows(groups: Sequence[Answers], length: int, branching: bool = False) -> list[Row]:
    """Packed rows of all answers, with one more column [L] int32, or two: `answer`, the number from 1 on of the answer
    that stands there, 0 on padding and trunks; and `branches`, which bounds who sees whom, if `branching` and there are
    several answers to any prompt."""
    branching = branching and any(len(group.ids) > 1 for group in groups)
    first = np.cumsum([0, *(len(group.ids) for group in groups)])
    found = [(group, tree) for n, group in enumerate(groups) for tree in trees(group, int(first[n]), length, branching)]
    rows = []
    for row in pack([tree.example(group) for group, tree in found], length, split=False):
        positions, branches, answer = row.positions.copy(), np.zeros_like(row.ids), np.zeros_like(row.ids)
        for number, start, size in row.places:
            tree, part = found[number][1], slice(start, start + size)
            positions[part], branches[part] = tree.columns()
            answer[part] = np.array([0, *(n + 1 for n in tree.numbers)])[branches[part]]
        columns = {"answer": answer} | ({"branches": branches} if branching else {})
        rows.append(replace(row, positions=positions, columns=columns))
    return rows


def ends(answer: Tensor) -> Tensor:
    """Where each answer ends, flat into the column `answer` [B,L] of `answer_rows`: [N]."""
    numbered = answer.flatten()
    last = torch.zeros(int(numbered.max()) + 1, dtype=torch.int64)
    return last.scatter_reduce_(0, numbered, torch.arange(len(numbered)), "amax")[1:]
