"""Encoded examples → batches of rows of about one length: one example a row, for tasks whose answer belongs to a row.

A pass shuffles the examples, sorts them by length within windows, cuts them into micro-batches of at most so many
tokens (padding and sources counted) and shuffles these. Deterministic from a seed and resumable at any step; an epoch's
plan is a function of its number. Leaves out packing, which `packing` does.

Shapes: B rows, T tokens, S source tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fledge.core.errors import FledgeError

Batch = dict[str, torch.Tensor]
IGNORED = -100
WINDOW = 32  # micro-batches among which lengths are sorted
FILL = {"targets": IGNORED, "tags": IGNORED}


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row to be: `columns` [T] (ids always; those named source_* are [S]) and `values`, one number each."""

    columns: dict[str, np.ndarray]
    values: dict[str, float | int] = field(default_factory=dict)

    @property
    def lengths(self) -> tuple[int, int]:
        """(T, S): S is 0 where there is no source."""
        return len(self.columns["ids"]), len(self.columns.get("source_ids", ()))


def collate_encoded(samples: Sequence[Encoded]) -> Batch:
    """Right-padded tensors: every column [B,T] or [B,S], every value [B], and positions and documents (0: padding)."""
    batch: Batch = {}
    for name in samples[0].columns:
        rows = [sample.columns[name] for sample in samples]
        filled = np.full((len(rows), max(map(len, rows))), FILL.get(name, 0), rows[0].dtype)
        for place, row in enumerate(rows):
            filled[place, : len(row)] = row
        batch[name] = torch.from_numpy(filled)
        if name in ("ids", "source_ids"):
            lengths = torch.tensor([len(row) for row in rows])
            steps = torch.arange(filled.shape[1])
            kind = name.removesuffix("ids")
            batch[f"{kind}positions"] = steps.expand(len(rows), -1).contiguous()
            batch[f"{kind}documents"] = (steps < lengths[:, None]).int()
    batch = {name: c if c.dtype == torch.bool or "documents" in name else c.long() for name, c in batch.items()}
    for name, value in samples[0].values.items():
        precision = torch.float32 if isinstance(value, float) else torch.int64
        batch[name] = torch.tensor([sample.values[name] for sample in samples], dtype=precision)
    return batch


def by_length(samples: Sequence[Encoded], order: Sequence[int], tokens: int) -> list[list[int]]:
    """The indices in `order`, longest first, in groups of at most `tokens` padded tokens (or of one sample)."""
    groups: list[list[int]] = []
    width = height = 0
    for index in sorted(order, key=lambda i: samples[i].lengths[::-1], reverse=True):
        time, source = samples[index].lengths
        width, height = max(width, time), max(height, source)
        if not groups or (len(groups[-1]) + 1) * (width + height) > tokens:
            groups.append([])
            width, height = time, source
        groups[-1].append(index)
    return groups


class EncodedStream:
    """Iterates over steps, each a list of `microbatches` batches of at most `tokens` padded tokens."""

    between = True
    one_shape = False

    def __init__(self, samples: Sequence[Encoded], tokens: int, microbatches: int, seed: int) -> None:
        longest = max((sum(sample.lengths) for sample in samples), default=0)
        if not samples:
            raise FledgeError("there is nothing to learn from", "check the data file and its columns")
        if longest > tokens:
            raise FledgeError(
                f"an example of {longest:,} tokens does not fit into a micro-batch of {tokens:,}",
                f"set tokens_per_step and tokens_per_microbatch to {longest} or more",
            )
        self.samples, self.tokens, self.microbatches, self.seed = samples, tokens, microbatches, seed
        self.go_to(0, 0)

    def go_to(self, epoch: int, step: int) -> None:
        """Plans an epoch and stands before one of its steps."""
        self.epoch, self.step = epoch, step
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.samples))
        mean = sum(sum(sample.lengths) for sample in self.samples) / len(self.samples)
        window = max(1, round(WINDOW * self.tokens / mean))
        groups = []
        for start in range(0, len(order), window):
            groups += by_length(self.samples, order[start : start + window].tolist(), self.tokens)
        groups = [groups[i] for i in generator.permutation(len(groups))]
        self.plan = [groups[i : i + self.microbatches] for i in range(0, len(groups), self.microbatches)]

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the epoch that is going on; another may differ by a few."""
        return len(self.plan)

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if self.step == len(self.plan):
            self.go_to(self.epoch + 1, 0)
        self.step += 1
        return [collate_encoded([self.samples[i] for i in group]) for group in self.plan[self.step - 1]]

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON."""
        return {"epoch": self.epoch, "step": self.step, "samples": len(self.samples)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state()` was taken; raises FledgeError if the data has changed since."""
        if state["samples"] != len(self.samples):
            raise FledgeError(
                f"the data has changed since the run was stopped: {state['samples']:,} examples then, "
                f"{len(self.samples):,} now",
                "put the data back as it was, or start afresh in another directory",
            )
        self.go_to(state["epoch"], state["step"])
