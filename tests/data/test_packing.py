"""Packing against a brute-force reading of the rows, and its speed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.core.errors import FledgeError
from fledge.data.packing import IGNORED, Example, Row, collate, pack

LENGTH = 7


def examples_of(sizes: list[int], seed: int = 0) -> list[Example]:
    """Examples whose tokens are all different, so that each can be followed to its place."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *sizes])
    return [Example(np.arange(1 + a, 1 + a + n, dtype=np.int32), rng.random(n) < 0.7) for a, n in zip(starts, sizes)]


def check_rows(examples: list[Example], rows: list[Row], length: int) -> None:
    """What every packing promises, read token by token."""
    after = {}  # token → the token that follows it in its document, and whether that is supervised
    home = {}  # token → its document
    for number, example in enumerate(examples):
        for t, token in enumerate(example.ids):
            home[int(token)] = number
            last = t + 1 == len(example.ids)
            after[int(token)] = IGNORED if last or not example.mask[t + 1] else int(example.ids[t + 1])
    seen = []
    for row in rows:
        for array in (row.ids, row.targets, row.positions, row.documents):
            assert array.shape == (length,)
            assert array.dtype == np.int32
        previous = 0
        for t in range(length):
            document = int(row.documents[t])
            if document == 0:
                assert (row.ids[t], row.targets[t], row.positions[t]) == (0, IGNORED, 0)
                assert not row.documents[t:].any()  # padding is at the end
                break
            token = int(row.ids[t])
            seen.append(token)
            assert row.targets[t] == after[token]
            if document == previous:
                assert home[token] == home[int(row.ids[t - 1])]
                assert row.ids[t] == row.ids[t - 1] + 1
                assert row.positions[t] == row.positions[t - 1] + 1
            else:
                assert document == previous + 1
                assert row.positions[t] == 0
                assert t == 0 or home[token] != home[int(row.ids[t - 1])]
            previous = document
        starts = np.flatnonzero((row.positions == 0) & (row.documents > 0))
        ends = [*starts[1:], np.count_nonzero(row.documents)]
        expected = [(home[int(row.ids[a])], int(a), int(b - a)) for a, b in zip(starts, ends)]
        assert row.places == expected
    assert sorted(seen) == sorted(home)  # nothing lost, nothing twice


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), max_size=20), split_length=st.integers(1, 12))
def test_cut_rows_hold_every_token_once_and_no_document_sees_another(sizes: list[int], split_length: int) -> None:
    examples = examples_of(sizes)
    rows = pack(examples, split_length, split=True)
    check_rows(examples, rows, split_length)
    assert len(rows) == -(-sum(sizes) // split_length)  # no padding but in the last row
    order = [token for row in rows for token in row.ids[row.documents > 0]]
    assert order == [token for example in examples for token in example.ids]


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(0, LENGTH), max_size=20))
def test_whole_examples_are_kept_whole(sizes: list[int]) -> None:
    examples = examples_of(sizes)
    rows = pack(examples, LENGTH, split=False)
    check_rows(examples, rows, LENGTH)
    placed = sorted((index, size) for row in rows for index, _, size in row.places)
    assert placed == [(i, n) for i, n in enumerate(sizes) if n]
    assert len(rows) == brute_force_best_fit(sizes, LENGTH)


def brute_force_best_fit(sizes: list[int], length: int) -> int:
    """The number of rows that best-fit decreasing needs, by looking at every row each time."""
    rooms: list[int] = []
    for size in sorted((n for n in sizes if n), reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= size]
        if not fitting:
            rooms.append(length)
            fitting = [len(rooms) - 1]
        rooms[min(fitting, key=rooms.__getitem__)] -= size
    return len(rooms)


def test_packing_is_deterministic() -> None:
    examples = examples_of(np.random.default_rng(1).integers(0, 60, 300).tolist())
    for split in (True, False):
        for a, b in zip(pack(examples, 64, split=split), pack(examples, 64, split=split), strict=True):
            assert a.places == b.places
            assert np.array_equal(a.ids, b.ids)


@pytest.mark.parametrize("split", [True, False])
def test_nothing_gives_no_rows(split: bool) -> None:
    assert pack([], 8, split=split) == []
    assert pack(examples_of([0, 0]), 8, split=split) == []


def test_too_long_an_example_is_refused() -> None:
    with pytest.raises(FledgeError, match="9 tokens does not fit into a row of 8"):
        pack(examples_of([3, 9]), 8, split=False)


def test_collate_makes_the_tensors_of_a_batch() -> None:
    rows = pack(examples_of([5, 4, 3, 6]), 8, split=False)
    batch = collate(rows)
    assert {name: value.dtype for name, value in batch.items()} == {
        "ids": torch.int64,
        "targets": torch.int64,
        "positions": torch.int64,
        "documents": torch.int32,
    }
    for name, value in batch.items():
        assert value.tolist() == [getattr(row, name).tolist() for row in rows]


@pytest.mark.parametrize("split", [True, False])
def test_rows_are_nearly_full(split: bool) -> None:
    sizes = np.random.default_rng(0).integers(50, 750, 5000)
    examples = [Example(np.ones(n, np.int32), np.ones(n, bool)) for n in sizes]
    rows = pack(examples, 1024, split=split)
    filled = sizes.sum() / (len(rows) * 1024)
    assert filled > (0.999 if split else 0.98)
