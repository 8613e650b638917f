"""Examples → rows of one length in which documents never see each other.

Pretraining text is concatenated and cut: no token of padding but in the last row. Examples that must stay whole
are placed by best-fit decreasing (as in arXiv:2404.10830). Each token of a document but its first is the target of
exactly one position, also across a cut; positions restart and `documents` counts anew in every row, which is what
bounds attention. Leaves out truncation: what is too long is for the caller to refuse or to drop.

`R` rows, `L` length, `N` examples, `P` pieces (an example's part in a row), `T` tokens of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fledge.core.errors import FledgeError

Batch = dict[str, torch.Tensor]
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """`ids` [T] int32 of one document or conversation; `mask` [T] bool: is token i supervised, as a target."""

    ids: np.ndarray
    mask: np.ndarray

    @classmethod
    def of(cls, ids: Sequence[int] | np.ndarray) -> "Example":
        """A text of which every token is supervised."""
        return cls(np.asarray(ids, dtype=np.int32), np.ones(len(ids), dtype=bool))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch; every array is [L] int32.

    `targets[t]` is the token after `ids[t]` in the same document, or -100; `documents` counts from 1, 0 is padding.
    `places` lists (example, start, length): which example stands where in the row. `columns` are further ones, for
    objectives that need them (`data/corruption/`): [L], or of the length of an encoder's side.
    """

    ids: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    documents: np.ndarray
    places: list[tuple[int, int, int]]
    columns: dict[str, np.ndarray] = field(default_factory=dict)


def pack(examples: Sequence[Example], length: int, *, split: bool) -> list[Row]:
    """Rows of `length` tokens; empty examples are left out.

    split=True cuts documents at the ends of rows; split=False keeps each whole and raises FledgeError for one that
    is longer than a row.
    """
    sizes = np.array([len(example.ids) for example in examples], np.int64)
    if not sizes.sum():
        return []
    return place(examples, sizes, cut(sizes, length) if split else fit(sizes, length), length)


def cut(sizes: np.ndarray, length: int) -> np.ndarray:
    """Pieces [P, 5] of examples laid end to end: example, offset in it, row, start in the row, tokens."""
    ends = np.cumsum(sizes)
    starts = np.unique(np.concatenate([(ends - sizes)[sizes > 0], np.arange(0, ends[-1], length)]))
    example = np.searchsorted(ends, starts, side="right")
    tokens = np.diff(starts, append=ends[-1])
    offset = starts - (ends - sizes)[example]
    return np.stack([example, offset, starts // length, starts % length, tokens], axis=1)


def fit(sizes: np.ndarray, length: int) -> np.ndarray:
    """Pieces [P, 5], one of each example: the longest first, each into the fullest row that has room for it."""
    longest = int(sizes.max())
    if longest > length:
        raise FledgeError(
            f"an example of {longest:,} tokens does not fit into a row of {length:,}",
            "make the rows longer, or drop examples of that length",
        )
    rooms: list[list[int]] = [[] for _ in range(length + 1)]  # the rows by the room that is left in them
    rooms_left = 0  # bit r is set while rooms[r] has rows, so the best fit is its lowest bit from `size` on
    rows = 0
    pieces = np.zeros((np.count_nonzero(sizes), 5), np.int64)
    order = np.argsort(-sizes, kind="stable")[: len(pieces)]
    for n, (example, size) in enumerate(zip(order.tolist(), sizes[order].tolist())):
        fitting = rooms_left >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = rooms[room].pop()
            if not rooms[room]:
                rooms_left ^= 1 << room
        else:
            room, row = length, rows
            rows += 1
        pieces[n] = example, 0, row, length - room, size
        if room > size:
            rooms[room - size].append(row)
            rooms_left |= 1 << (room - size)
    return pieces[np.lexsort((pieces[:, 3], pieces[:, 2]))]


def place(examples: Sequence[Example], sizes: np.ndarray, pieces: np.ndarray, length: int) -> list[Row]:
    """Fills rows with pieces [P, 5], which are in order of row and start."""
    example, offset, row, start, tokens = pieces.T
    ids = np.concatenate([e.ids for e in examples])  # [T]
    supervised = np.concatenate([e.mask for e in examples])
    ends = np.cumsum(sizes)
    targets = np.full(len(ids), IGNORED, np.int32)
    targets[:-1] = np.where(supervised[1:], ids[1:], IGNORED)
    targets[ends[sizes > 0] - 1] = IGNORED

    rows = int(row[-1]) + 1
    first = np.searchsorted(row, np.arange(rows + 1))  # the first piece of each row, and P
    number = np.arange(1, len(pieces) + 1) - first[row]
    within = np.arange(tokens.sum()) - np.repeat(np.cumsum(tokens) - tokens, tokens)
    source = np.repeat((ends - sizes)[example] + offset, tokens) + within
    goal = np.repeat(row * length + start, tokens) + within
    columns = np.zeros((4, rows * length), np.int32)
    columns[1] = IGNORED
    columns[0, goal] = ids[source]
    columns[1, goal] = targets[source]
    columns[2, goal] = within
    columns[3, goal] = np.repeat(number, tokens)
    places = list(zip(example.tolist(), start.tolist(), tokens.tolist()))
    bounds = first.tolist()
    return [
        Row(ids, targets, positions, documents, places[bounds[r] : bounds[r + 1]])
        for r, (ids, targets, positions, documents) in enumerate(columns.reshape(4, rows, length).swapaxes(0, 1))
    ]


def collate(rows: Sequence[Row]) -> Batch:
    """The rows as tensors [B, L]: integers int64, but documents int32; further columns by their names."""
    batch = {
        name: torch.from_numpy(np.stack([getattr(row, name) for row in rows]))
        for name in ("ids", "targets", "positions", "documents")
    }
    batch |= {name: torch.from_numpy(np.stack([row.columns[name] for row in rows])) for name in rows[0].columns}
    return {
        name: value.long() if value.dtype == torch.int32 and not name.endswith("documents") else value
        for name, value in batch.items()
    }
