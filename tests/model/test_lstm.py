"""The LSTM against its equations written out, against itself unpacked, and against what it must be able to learn."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fledge.model.lstm import LstmConfig, LstmModel, State, sequences
from fledge.objectives.language import next_token
from fledge.train.loop import fit
from fledge.train.optimizers import OptimizerConfig
from fledge.train.optimizers import build as build_optimizer

CONFIG = LstmConfig(vocab_size=11, width=6, layers=2, context=32)


def make(config: LstmConfig = CONFIG, seed: int = 0) -> LstmModel:
    torch.manual_seed(seed)
    return LstmModel(config)


def by_hand(model: LstmModel, source: list[int], target: list[int]) -> Tensor:
    """Logits [T,V] by the equations of a deep LSTM, one number at a time."""
    config = model.config
    table = model.embedding.weight

    def stack(lstm: torch.nn.LSTM, x: Tensor, states: list[tuple[Tensor, Tensor]]) -> Tensor:
        for k in range(config.layers):
            h, c = states[k]
            w, u, b, d = (getattr(lstm, f"{n}_l{k}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            i, f, g, o = (w @ x + b + u @ h + d).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states[k] = h, c
            x = h
        return x

    zero = torch.zeros(config.width)
    states = [(zero, zero)] * config.layers
    for token in reversed(source) if config.reverse else source:
        stack(model.encoder, table[token], states)
    weight = table if model.head is None else model.head.weight
    return torch.stack([weight @ stack(model.decoder, table[token], states) for token in target])


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_equals_the_equations(reverse: bool, tied: bool) -> None:
    model = make(CONFIG.model_copy(update={"reverse": reverse, "tied": tied}))
    source, target = [3, 1, 4, 1, 5], [9, 2, 6]
    found = model(torch.tensor([target]), source_ids=torch.tensor([source])).logits()[0]
    torch.testing.assert_close(found, by_hand(model, source, target), atol=1e-6, rtol=1e-5)


def test_packed_rows_never_see_each_other() -> None:
    model = make()
    pairs = [([3, 1, 4], [1, 5]), ([9, 2, 6, 5], [3, 5, 8]), ([7], [9, 3, 2, 3])]
    rows: dict[str, list[list[int]]] = {
        "ids": [[1, 5, 3, 5, 8, 0], [9, 3, 2, 3, 0, 0]],
        "documents": [[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]],
        "source_ids": [[3, 1, 4, 9, 2, 6, 5], [7, 0, 0, 0, 0, 0, 0]],
        "source_documents": [[1, 1, 1, 2, 2, 2, 2], [1, 0, 0, 0, 0, 0, 0]],
    }
    batch: dict[str, Any] = {name: torch.tensor(value) for name, value in rows.items()}
    logits = model(**batch).logits()
    found = [logits[0, :2], logits[0, 2:5], logits[1, :4]]
    for (source, target), part in zip(pairs, found, strict=True):
        torch.testing.assert_close(part, by_hand(model, source, target), atol=1e-6, rtol=1e-5)
    assert not logits[0, 5:].any()
    assert not logits[1, 4:].any()


def test_one_token_at_a_time_equals_all_at_once() -> None:
    model = make()
    source, target = torch.tensor([[3, 1, 4], [1, 5, 9]]), torch.tensor([[2, 6, 5], [3, 5, 8]])
    whole = model(target, source_ids=source).logits()
    state = model.encode(source)
    steps = [model(target[:, t : t + 1], cache=state).logits() for t in range(3)]
    torch.testing.assert_close(torch.cat(steps, 1), whole)


def test_rows_reorders_and_repeats_rows() -> None:
    model = make()
    source = torch.tensor([[3, 1, 4], [1, 5, 9]])
    state: State = model.encode(source).rows(torch.tensor([1, 0, 1]))
    found = model(torch.tensor([[2], [2], [2]]), cache=state).logits()
    whole = model(torch.tensor([[2], [2]]), source_ids=source).logits()
    torch.testing.assert_close(found, whole[[1, 0, 1]])


def test_sequences_of_a_packed_batch() -> None:
    documents = torch.tensor([[1, 1, 2, 0], [1, 2, 2, 2]])
    places, lengths = sequences(documents, documents)
    assert lengths.tolist() == [2, 1, 1, 3]
    assert [row[:n] for row, n in zip(places.tolist(), lengths.tolist())] == [[0, 1], [2], [4], [5, 6, 7]]


def test_parameters_are_counted() -> None:
    for tied in (True, False):
        config = CONFIG.model_copy(update={"tied": tied})
        assert config.parameters() == sum(p.numel() for p in make(config).parameters())


def test_learns_to_copy() -> None:
    """The task that shows that the source arrives: a random sequence, written again."""
    config = LstmConfig(vocab_size=8, width=48, layers=1, context=8)
    model = make(config)
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=0.01))
    generator = torch.Generator().manual_seed(0)

    class Source(torch.nn.Module):
        """`fit` calls model(ids, positions, documents): the source rides in front here."""

        def forward(self, ids: Tensor, positions: Tensor, documents: Tensor) -> Any:
            return model(ids[:, 4:], source_ids=ids[:, :4])

    def batches() -> Any:
        for _ in itertools.count():
            words = torch.randint(2, 8, (64, 4), generator=generator)
            start = torch.ones(64, 1, dtype=torch.long)
            ids = torch.cat([words, start, words[:, :-1]], 1)
            yield [{"ids": ids, "targets": words, "positions": ids, "documents": torch.ones_like(ids)}]

    wrapped = Source()
    wrapped.inner = model
    losses = [step.loss for step in fit(wrapped, batches(), next_token, optimizer, steps=250)]
    assert losses[0] > 1.8
    assert losses[-1] < 0.2
