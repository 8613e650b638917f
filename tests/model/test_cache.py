"""Decoding through the cache equals the forward pass over the whole sequence, whatever stood in the slots before."""

import pytest
import torch
from torch import Tensor

from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel

SHAPE = {"vocab_size": 50, "width": 24, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 6, "hidden": 40}


def model_with(**axes: object) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(**SHAPE, context=32, **axes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5, 0.4)
    return model


def cache_of(model: LanguageModel, rows: int, length: int = 32) -> Cache:
    """A cache full of rubbish, as a slot is that was used before."""
    cache = Cache(model.config, rows, length, "cpu", torch.float64)
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(1e3)
    return cache


def alone(model: LanguageModel, ids: Tensor) -> Tensor:
    return model(ids[None]).hidden[0]


@pytest.mark.parametrize("axes", [{}, {"window": 3}, {"qk_norm": False}], ids=str)
@torch.no_grad()
def test_any_split_into_pieces_gives_the_whole(axes: dict) -> None:

    model = model_with(**axes)
    ids = torch.randint(0, 50, (2, 12))
    whole = model(ids).hidden
    for cuts in ([12], [1] * 12, [5, 1, 6], [7, 5]):
        cache, done, found = cache_of(model, 2), 0, []
        for size in cuts:
            positions = torch.arange(done, done + size).expand(2, size)
            cache.reach = done + size
            found.append(model(ids[:, done : done + size], positions, cache=cache).hidden)
            done += size
        assert torch.allclose(torch.cat(found, 1), whole, atol=1e-9), cuts


@torch.no_grad()
def test_rows_of_different_lengths_decode_together() -> None:
    """Right-padded prompts of 2, 7 and 4 tokens, then tokens at each row's own position."""
    model = model_with()
    lengths = torch.tensor([2, 7, 4])
    ids = torch.randint(0, 50, (3, 12))
    cache = cache_of(model, 3)
    cache.reach = 7
    positions = torch.arange(7).expand(3, 7)
    first = model(ids[:, :7], positions, cache=cache).hidden
    for row, length in enumerate(lengths):
        assert torch.allclose(first[row, :length], alone(model, ids[row, :length]), atol=1e-9)
    for step in range(5):
        at = lengths + step
        cache.reach = int(at.max()) + 1
        token = ids.gather(1, at[:, None])
        hidden = model(token, at[:, None], cache=cache).hidden[:, 0]
        for row, position in enumerate(at):
            assert torch.allclose(hidden[row], alone(model, ids[row, : position + 1])[-1], atol=1e-9)


@torch.no_grad()
def test_selected_slots_are_written_and_others_left() -> None:
    """Slots 3 and 1, in that order, of five: the result of a cache of their own; the other slots keep their bits."""
    model = model_with()
    ids = torch.randint(0, 50, (2, 9))
    cache = cache_of(model, 5)
    cache.rows = torch.tensor([3, 1])
    positions = torch.arange(8).expand(2, 8)
    cache.reach = 8
    model(ids[:, :8], positions, cache=cache)
    cache.reach = 9
    hidden = model(ids[:, 8:], torch.full((2, 1), 8), cache=cache).hidden
    assert torch.allclose(hidden[:, 0], model(ids).hidden[:, 8], atol=1e-9)
    for tensor in (*cache.keys, *cache.values):
        assert tensor[[0, 2, 4]].eq(1e3).all()
        assert tensor[[1, 3], :, 9:].eq(1e3).all()
        assert tensor[[1, 3], :, :9].ne(1e3).all()


@torch.no_grad()
def test_each_layer_has_tensors_of_its_own() -> None:
    model = model_with().float()
    ids = torch.randint(0, 50, (1, 10))
    cache = Cache(model.config, 1, 16, "cpu", torch.float32)
    assert all(tensor.shape == (1, 2, 16, 6) for tensor in (*cache.keys, *cache.values))
    assert len({tensor.data_ptr() for tensor in (*cache.keys, *cache.values)}) == 4
    hidden = model(ids, torch.arange(10)[None], cache=cache).hidden
    assert torch.allclose(hidden, model(ids).hidden, atol=1e-5)
