"""Samples, the corrupted windows, and the rows they are packed into without seeing each other.

A row has two sides where there is an encoder: samples stand on both in the same order and under the same document
number, which is what bounds attention across as well. Short samples share rows (best fit, the longest first), so that
little is padding.

`T` tokens of a sample, `S` of its source, `L` and `M` the lengths of a row's two sides, `R` rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from fledge.core.config import Config
from fledge.data.corruption.marks import Marks
from fledge.data.packing import IGNORED, Example, Row, fit

OPEN_ROWS = 64  # rows that are looked through for room when samples have two sides


class CorruptionConfig(Config):
    """How much is corrupted. `share` of the tokens: by default what the objective's paper takes (MLM, span mask 15 %,
    text infilling 30 %, permutation 1/6). `mean_span` is the mean length of spans; `whole_words` masks whole words."""

    share: float | None = Field(None, gt=0, lt=1)
    mean_span: float = Field(3.0, gt=0)
    whole_words: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """What a corruption works in: rows of `length` tokens (the encoder's, where there are two sides) and of
    `target_length` (the decoder's; 0 where there is one side), a vocabulary, and the texts of the whole source.

    alone: every sample gets a row of its own (a head that reads the first token of a row needs that)."""

    marks: Marks
    length: int
    target_length: int = 0
    config: CorruptionConfig = field(default_factory=CorruptionConfig)
    texts: Sequence[Example] = ()
    alone: bool = False

    def share(self, default: float) -> float:
        """The share of tokens to corrupt."""
        return default if self.config.share is None else self.config.share


@dataclass(frozen=True, slots=True)
class Sample:
    """One corrupted window: ids and targets [T] (-100: nothing to say), further columns [T], the encoder's source [S].

    Positions count from 0 unless a column `positions` says otherwise.
    """

    ids: np.ndarray
    targets: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    source: np.ndarray | None = None


Corruption = Callable[[Example, np.random.Generator, Setting], list[Sample]]


def shifted(ids: np.ndarray) -> np.ndarray:
    """Next-token targets of ids [T]: the token after each, -100 at the last."""
    return np.append(ids[1:], IGNORED).astype(np.int32)


def windows(ids: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive pieces of `size` tokens, the last one shorter."""
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def corrupted(
    corruption: Corruption, setting: Setting, examples: Sequence[Example], chosen: Iterable[int], seed: Sequence[int]
) -> list[Row]:
    """Rows of the corrupted examples numbered `chosen`; each is a function of itself, its number and `seed` alone."""
    samples: list[Sample] = []
    for number in chosen:
        generator = np.random.default_rng([*seed, number])
        samples += corruption(examples[number], generator, setting)
    return arrange(samples, setting)


def arrange(samples: Sequence[Sample], setting: Setting) -> list[Row]:
    """Rows of samples, each whole; every sample has the same columns."""
    if not samples:
        return []
    if setting.alone:
        return [filled([sample], [n], setting.length, 0) for n, sample in enumerate(samples)]
    sizes = np.array([len(sample.ids) for sample in samples])
    if samples[0].source is None:
        pieces = fit(sizes, setting.length)
        placed = [pieces[pieces[:, 2] == row, 0].tolist() for row in range(pieces[-1, 2] + 1)]
        return [filled([samples[i] for i in row], row, setting.length, 0) for row in placed]
    sources = np.array([len(sample.source) for sample in samples if sample.source is not None])
    limits = setting.target_length, setting.length
    return [filled([samples[i] for i in row], row, *limits) for row in fit_both(sizes, sources, *limits)]


def fit_both(sizes: np.ndarray, sources: np.ndarray, length: int, source_length: int) -> list[list[int]]:
    """Which samples share a row: the longest first, each into the last of OPEN_ROWS rows with room on both sides."""
    order = np.argsort(-np.maximum(sizes / length, sources / source_length), kind="stable")
    rows: list[list[int]] = []
    rooms = np.zeros((0, 2), np.int64)
    for index in order.tolist():
        needed = np.array([sizes[index], sources[index]])
        if (needed > (length, source_length)).any():
            raise ValueError(f"a sample of {needed} tokens does not fit into rows of {(length, source_length)}")
        first = max(0, len(rows) - OPEN_ROWS)
        fitting = np.flatnonzero((rooms[first:] >= needed).all(1))
        if len(fitting):
            row = first + int(fitting[0])
            rows[row].append(index)
        else:
            row = len(rows)
            rows.append([index])
            rooms = np.vstack([rooms, [[length, source_length]]])
        rooms[row] -= needed
    return rows


def filled(samples: Sequence[Sample], numbers: Sequence[int], length: int, source_length: int) -> Row:
    """One row with these samples, one after the other."""
    ids, positions, documents = np.zeros((3, length), np.int32)
    targets = np.full(length, IGNORED, np.int32)
    columns = {name: np.full(length, IGNORED if name.endswith("targets") else 0, value.dtype)
               for name, value in samples[0].columns.items() if name != "positions"}  # fmt: skip
    sides = np.zeros((3, source_length), np.int32)
    places, at, source_at = [], 0, 0
    for document, (number, sample) in enumerate(zip(numbers, samples, strict=True), 1):
        size = len(sample.ids)
        here = slice(at, at + size)
        ids[here], targets[here], documents[here] = sample.ids, sample.targets, document
        positions[here] = sample.columns.get("positions", np.arange(size))
        for name, column in columns.items():
            column[here] = sample.columns[name]
        if sample.source is not None:
            there = slice(source_at, source_at + len(sample.source))
            sides[0, there], sides[1, there], sides[2, there] = sample.source, np.arange(len(sample.source)), document
            source_at = there.stop
        places.append((number, at, size))
        at += size
    if source_length:
        columns |= dict(zip(("source_ids", "source_positions", "source_documents"), sides, strict=True))
    return Row(ids, targets, positions, documents, places, columns)
