"""Batches of rows: nothing lost, nothing doubled, padding marked, and resumed where it stood."""

import numpy as np
import pytest
import torch

from fledge.core.errors import FledgeError
from fledge.data.encoded import Encoded, EncodedStream, by_length, collate_encoded

draw = np.random.default_rng(0)


def sample(number: int, size: int, source: int = 0) -> Encoded:
    columns = {"ids": np.full(size, number, np.int32), "targets": np.full(size, number, np.int32)}
    if source:
        columns["source_ids"] = np.full(source, number, np.int32)
    return Encoded(columns, {"label": number, "score": number / 2})


def many(count: int, source: bool = False) -> list[Encoded]:
    sizes = draw.integers(1, 30, (count, 2)).tolist()
    return [sample(n, a, b if source else 0) for n, (a, b) in enumerate(sizes, 1)]


def test_rows_are_padded_and_say_so() -> None:
    batch = collate_encoded([sample(3, 2, 4), sample(5, 3, 1)])
    assert batch["ids"].tolist() == [[3, 3, 0], [5, 5, 5]]
    assert batch["targets"].tolist() == [[3, 3, -100], [5, 5, 5]]
    assert batch["documents"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["positions"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert batch["source_documents"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch["label"].tolist() == [3, 5]
    assert batch["score"].dtype == torch.float32


@pytest.mark.parametrize("source", [False, True])
def test_every_sample_once_an_epoch_within_the_limit(source: bool) -> None:
    samples = many(500, source)
    stream = EncodedStream(samples, 200, 2, seed=1)
    orders, filled = [], []
    for epoch in range(2):
        assert stream.epoch == epoch or next(stream)
        stream.go_to(epoch, 0)
        seen: list[int] = []
        for _ in range(stream.steps_per_epoch):
            for batch in next(stream):
                width = batch["ids"].shape[1] + (batch["source_ids"].shape[1] if source else 0)
                assert len(batch["ids"]) * width <= 200
                filled.append(float((batch["documents"] > 0).float().mean()))
                seen += batch["label"].tolist()
        assert sorted(seen) == list(range(1, 501))
        orders.append(seen)
    assert orders[0] != orders[1]
    assert source or np.mean(filled) > 0.9


def test_goes_on_where_it_stood() -> None:
    samples = many(100)
    stream = EncodedStream(samples, 150, 1, seed=3)
    for _ in range(stream.steps_per_epoch + 2):
        next(stream)
    state = stream.state()
    after = [next(stream)[0]["label"].tolist() for _ in range(5)]
    again = EncodedStream(samples, 150, 1, seed=3)
    again.load_state(state)
    assert [next(again)[0]["label"].tolist() for _ in range(5)] == after
    with pytest.raises(FledgeError, match="has changed"):
        EncodedStream(samples[1:], 150, 1, seed=3).load_state(state)


def test_what_cannot_be_batched_is_refused() -> None:
    with pytest.raises(FledgeError, match="nothing to learn"):
        EncodedStream([], 100, 1, seed=0)
    with pytest.raises(FledgeError, match="40 tokens does not fit"):
        EncodedStream([sample(1, 30, 10)], 39, 1, seed=0)


def test_groups_are_of_like_length() -> None:
    samples = many(50)
    groups = by_length(samples, range(50), 60)
    sizes = [samples[i].lengths[0] for group in groups for i in group]
    assert sizes == sorted(sizes, reverse=True)
