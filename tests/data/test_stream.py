"""The stream: resume to the bit, shares of the mixture, passes, and its speed."""

import json
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.core.errors import FledgeError
from fledge.data import stream as stream_module
from fledge.data.packing import Example
from fledge.data.stream import Stream


def source(count: int, first: int, size: int = 20, seed: int = 0) -> list[Example]:
    """`count` examples with tokens first, first + 1, …, one token for each example."""
    sizes = np.random.default_rng(seed).integers(1, size, count)
    return [Example(np.full(n, first + i, np.int32), np.ones(n, bool)) for i, n in enumerate(sizes)]


def make(split: bool = True, seed: int = 3, weights: dict[str, float] | None = None) -> Stream:
    sources = {"a": source(40, 1000), "b": source(7, 2000), "c": source(25, 3000)}
    return Stream(sources, weights or {"a": 0.6, "b": 0.1, "c": 0.3}, 24, 3, 2, seed, split)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows in each pass, so that tests cross their borders."""
    monkeypatch.setattr(stream_module, "WINDOW", 100)


def same(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b)
    )


@settings(max_examples=40, deadline=None)
@given(stop=st.integers(0, 60), split=st.booleans())
def test_resuming_anywhere_gives_the_same_batches(stop: int, split: bool) -> None:
    whole = make(split)
    for _ in range(stop):
        next(whole)
    state = json.loads(json.dumps(whole.state()))
    resumed = make(split)
    resumed.load_state(state)
    assert resumed.state() == whole.state()
    assert resumed.epochs() == whole.epochs()
    for _ in range(30):
        assert same(next(whole), next(resumed))
    assert resumed.state() == whole.state()


def test_the_seed_decides_the_order_and_nothing_else() -> None:
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    steps = [(next(first), next(again), next(other)) for _ in range(10)]
    assert all(same(a, b) for a, b, _ in steps)
    assert not all(same(a, c) for a, _, c in steps)


def test_shapes_and_tokens_per_step() -> None:
    stream = make()
    step = next(stream)
    assert len(step) == 2
    assert all(batch["ids"].shape == (3, 24) for batch in step)
    assert stream.tokens_per_step == sum(batch["ids"].numel() for batch in step)


def test_rows_follow_the_weights_and_come_from_one_source() -> None:
    stream = make(weights={"a": 6, "b": 1, "c": 3})
    counts: Counter[int] = Counter()
    for _ in range(50):
        for batch in next(stream):
            for ids, documents in zip(batch["ids"], batch["documents"]):
                kinds = set((ids[documents > 0] // 1000).tolist())
                assert len(kinds) == 1
                counts[kinds.pop()] += 1
        total = sum(counts.values())
        for kind, weight in ((1, 0.6), (2, 0.1), (3, 0.3)):
            assert abs(counts[kind] - weight * total) <= 1.5


@pytest.mark.parametrize("split", [True, False])
def test_each_pass_goes_over_every_token_once_in_a_new_order(split: bool) -> None:
    examples = source(50, 1)
    stream = Stream({"a": examples}, {"a": 1.0}, 24, 1, 1, 0, split)
    expected = Counter({1 + i: len(example.ids) for i, example in enumerate(examples)})
    passes = []
    for epoch in range(3):
        order: list[int] = []
        while stream.epochs()["a"] < epoch + 1:
            (batch,) = next(stream)
            order += batch["ids"][batch["documents"] > 0].tolist()
        assert stream.epochs()["a"] == epoch + 1
        assert Counter(order) == expected
        passes.append(order)
    assert passes[0] != passes[1] != passes[2]


def test_changed_data_is_refused_on_resume() -> None:
    state = make().state()
    state["sizes"]["a"] += 1
    with pytest.raises(FledgeError, match="data has changed"):
        make().load_state(state)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0}, "do not name the sources"),
        ({"a": 1.0, "b": -1.0}, "must be ≥ 0"),
        ({"a": 0.0, "b": 0.0}, "must be ≥ 0"),
        ({"a": float("nan"), "b": 1.0}, "must be ≥ 0"),
        ({"a": 1.0, "b": 1.0}, "source 'b' has no tokens"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_from_is_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(FledgeError, match=message):
        Stream({"a": source(3, 1), "b": []}, weights, 8, 1, 1, 0, True)


def test_a_source_of_weight_zero_is_not_read() -> None:
    stream = Stream({"a": source(3, 1), "b": []}, {"a": 1.0, "b": 0.0}, 8, 1, 1, 0, True)
    next(stream)
    assert stream.epochs().keys() == {"a"}


def test_waiting_for_data_is_negligible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    examples = [
        Example(rng.integers(0, 4096, n).astype(np.int32), np.ones(n, bool)) for n in rng.integers(50, 750, 5000)
    ]
    stream = Stream({"a": examples, "b": examples[:500]}, {"a": 0.9, "b": 0.1}, 256, 16, 4, 0, True)
    start = time.perf_counter()
    for _ in range(200):
        next(stream)
    per_second = 200 * stream.tokens_per_step / (time.perf_counter() - start)
    assert per_second > 1_000_000  # two cores train at some thousands
