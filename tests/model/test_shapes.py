"""Every shape by every axis: packed rows are their documents one by one, decoding by steps is the whole, all counts."""

import itertools

import pytest
import torch
from torch import Tensor

from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, Output, build, count
from fledge.model.inputs import inputs
from fledge.objectives.language import next_token
from fledge.objectives.loss import with_auxiliary
from fledge.train.loop import fit
from fledge.train.optimizers import OptimizerConfig
from fledge.train.optimizers import build as build_optimizer

SHAPE = {"vocab_size": 50, "width": 24, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 8, "hidden": 40}
PLAIN = {"qk_norm": False, "gated": False, "activation": "gelu"}
AXES: dict[str, dict] = {
    "learned, plain, layer norm": PLAIN | {"positions": "learned", "norm": "layer", "position_offset": 2},
    "alibi, embedding norm": PLAIN | {"positions": "alibi", "norm": "layer", "embedding_norm": True},
    "buckets, scale 1": {"positions": "buckets", "qk_norm": False, "attention_scale": 1.0, "buckets": 8},
    "sinusoidal": {"positions": "sinusoidal", "embedding_scale": 5.0},
    "no positions": {"positions": "none"},
    "partial rotary, parallel": PLAIN | {"rope_fraction": 0.25, "residual": "parallel", "norm": "layer"},
    "parallel with one norm": {"residual": "parallel_shared"},
    "post, no final norm": PLAIN | {"residual": "post", "final_norm": False, "embedding_width": 12},
    "windowed, no norm bias": {"window": 3, "norm": "layer", "norm_bias": False},
    "experts": {"experts": 4, "top_k": 2, "shared_hidden": 16},
    "plain experts": PLAIN | {"experts": 3, "top_k": 1, "normalised_routing": False},
    "everything untied": {"tied": False, "head_bias": True, "output_scale": 0.5, "qkv_bias": True, "output_bias": True},
    "yarn": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        "feedforward_bias": True,
    },
}
SHAPES = {
    "decoder": {},
    "encoder": {"shape": "encoder", "head": "masked", "token_types": 2},
    "encoder_decoder": {"shape": "encoder_decoder", "encoder_layers": 1},
}
ALL = list(itertools.product(SHAPES, AXES))


def config_of(shape: str, axes: str, **more: object) -> ModelConfig:
    return ModelConfig(**(SHAPE | {"context": 64} | SHAPES[shape] | AXES[axes] | more))


def randomised(config: ModelConfig) -> torch.nn.Module:
    """Weights large enough that a mistake shows, in double precision."""
    torch.manual_seed(0)
    model = build(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return model


def example(shape: str, length: int, seed: int) -> dict[str, Tensor]:
    """One unpacked text, with a source of another length where there is an encoder beside a decoder."""
    draw = torch.Generator().manual_seed(seed)
    row = {"ids": torch.randint(0, 50, (1, length), generator=draw)}
    if shape == "encoder":
        row["token_types"] = torch.randint(0, 2, (1, length), generator=draw)
    if shape == "encoder_decoder":
        row["source_ids"] = torch.randint(0, 50, (1, 3 + length // 2), generator=draw)
    return row


def laid_together(rows: list[dict[str, Tensor]], padding: int) -> dict[str, Tensor]:
    """The examples as one packed row, with padding behind."""
    batch = {}
    for name, prefix in (("ids", ""), ("source_ids", "source_")):
        if name not in rows[0]:
            continue
        lengths = [row[name].shape[1] for row in rows] + [padding]
        blank = torch.zeros(1, padding, dtype=torch.int64)
        batch[name] = torch.cat([*(row[name] for row in rows), blank], 1)
        batch[f"{prefix}positions"] = torch.cat([torch.arange(n) for n in lengths])[None]
        owners = [d for d, n in enumerate(lengths[:-1], 1) for _ in range(n)] + [0] * padding
        batch[f"{prefix}documents"] = torch.tensor([owners], dtype=torch.int32)
    if "token_types" in rows[0]:
        batch["token_types"] = torch.cat([*(row["token_types"] for row in rows), blank], 1)
    return batch


@pytest.mark.parametrize(("shape", "axes"), ALL, ids=str)
@torch.no_grad()
def test_a_packed_row_is_its_documents_one_by_one(shape: str, axes: str) -> None:
    model = randomised(config_of(shape, axes))
    rows = [example(shape, length, seed) for seed, length in enumerate((5, 1, 12))]
    packed = model(**laid_together(rows, 4)).logits()
    assert packed.isfinite().all()
    expected = torch.cat([model(**row).logits() for row in rows], 1)
    torch.testing.assert_close(packed[:, :-4], expected, atol=1e-8, rtol=0)
    assert expected.std() > 0.1


@pytest.mark.parametrize(("shape", "axes"), [each for each in ALL if each[0] != "encoder"], ids=str)
@torch.no_grad()
def test_decoding_by_steps_is_the_whole(shape: str, axes: str) -> None:
    """Two rows, with sources of different lengths; the first five tokens at once, then one by one."""
    model = randomised(config_of(shape, axes))
    ids, memory, batch = torch.randint(0, 50, (2, 12)), None, {}
    if shape == "encoder_decoder":
        batch = {"source_ids": torch.randint(0, 50, (2, 7)), "source_documents": torch.ones(2, 7, dtype=torch.int32)}
        batch["source_documents"][1, 4:] = 0
        memory = model.encode(**batch)
    whole = model(ids, **batch).logits()
    cache = Cache(model.config, 2, 16, "cpu", torch.float64)
    cache.reach = 5
    steps = [model(ids[:, :5], torch.arange(5).expand(2, 5), cache=cache, memory=memory).logits()]
    for t in range(5, 12):
        cache.reach = t + 1
        steps.append(model(ids[:, t : t + 1], torch.full((2, 1), t), cache=cache, memory=memory).logits())
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-8, rtol=0)
    if memory is not None:
        alone = model(ids[1:], source_ids=batch["source_ids"][1:, :4]).logits()
        torch.testing.assert_close(whole[1:], alone, atol=1e-8, rtol=0)
        swapped = model(ids.flip(0), memory=memory.rows(torch.tensor([1, 0]))).logits()
        torch.testing.assert_close(swapped, whole.flip(0), atol=1e-8, rtol=0)


@pytest.mark.parametrize(("shape", "axes"), ALL, ids=str)
def test_every_weight_is_counted_and_learns(shape: str, axes: str) -> None:
    config = config_of(shape, axes)
    model = build(config)
    assert config.parameters() == count(model)
    rows = [example(shape, length, seed) for seed, length in enumerate((9, 14))]
    output = model(**laid_together(rows, 2))
    assert isinstance(output, Output)
    targets = torch.randint(0, 50, (1, 25))
    total = with_auxiliary(next_token(output, {"targets": targets}), output).sum
    (total + output.logits().sum() * 0.01).backward()  # the bias of a head is read by logits only, so far
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if "k_norm" not in name and "attention.qkv.bias" not in name:
            assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_an_encoder_sees_both_ways_and_a_prefix_is_seen_backwards() -> None:
    encoder, decoder = randomised(config_of("encoder", "yarn")), randomised(config_of("decoder", "yarn"))
    ids = torch.randint(0, 50, (1, 10))
    other = ids.clone()
    other[0, 6] = (ids[0, 6] + 1) % 50

    def changed(model: torch.nn.Module, **columns: Tensor) -> list[int]:
        """Which positions see token 6."""
        a, b = (model(x, **columns).hidden for x in (ids, other))
        return (~torch.isclose(a, b)).any(-1)[0].nonzero()[:, 0].tolist()

    assert changed(encoder) == list(range(10))
    assert changed(decoder) == [6, 7, 8, 9]
    for length in (4, 7):
        seen = changed(decoder, prefix=(torch.arange(10) < length)[None])
        assert seen == (list(range(10)) if length == 7 else [6, 7, 8, 9])
    documents = torch.tensor([[1] * 4 + [2] * 6])
    assert changed(decoder, prefix=torch.ones(1, 10, dtype=torch.bool), documents=documents) == list(range(4, 10))


@torch.no_grad()
def test_an_order_of_factorisation_bounds_what_is_seen() -> None:
    """A token sees itself and those before it in the order; a query slot what precedes its rank, and nobody it."""
    model = randomised(config_of("encoder", "yarn", layers=1))
    order = torch.tensor([[2, 0, 3, 1, -1 - 3, -1 - 0]])
    ids = torch.randint(0, 50, (1, 6))
    sees = torch.zeros(6, 6, dtype=torch.bool)
    for source in range(6):
        other = ids.clone()
        other[0, source] = (ids[0, source] + 1) % 50
        a, b = (model(x, order=order).hidden for x in (ids, other))
        sees[:, source] = (~torch.isclose(a, b)).any(-1)[0]
    expected = torch.tensor(
        [
            [1, 1, 0, 1, 0, 0],
            [0, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 1, 0, 1, 0, 0],
            [1, 1, 0, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    ).bool()
    assert sees.tolist() == expected.tolist()


def task(shape: str, seed: int) -> dict[str, Tensor]:
    """What each shape can do only by looking where it should: give the source back, repeat what stands three before,
    name a hidden token that its neighbour on either side tells."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.stack([4 + torch.randperm(16, generator=draw)[:8] for _ in range(16)])
    ones, steps = torch.ones_like(text, dtype=torch.int32), torch.arange(8).expand(16, 8)
    batch = {"positions": steps, "documents": ones}
    if shape == "encoder_decoder":
        before = torch.cat([torch.ones_like(text[:, :1]), text[:, :-1]], 1)
        source = torch.cat([torch.ones_like(text[:, :1]), text], 1)
        return batch | {"ids": before, "targets": text, "source_ids": source}
    if shape == "encoder":
        doubled = text.repeat_interleave(2, 1)[:, :8]
        hidden = (steps % 2 == 0) & (torch.rand(16, 8, generator=draw) < 0.5)
        return batch | {"ids": doubled.masked_fill(hidden, 1), "targets": doubled.masked_fill(~hidden, -100)}
    period = text[:, :3].repeat(1, 3)
    return batch | {"ids": period[:, :8], "targets": torch.where(steps >= 2, period[:, 1:], -100)}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_each_created_shape_learns_through_the_loop(shape: str) -> None:
    torch.manual_seed(0)
    model = build(ModelConfig.sized(1, 20, 16, shape))
    model.backbone.dropout = 0.02
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.01))
    batches = ([task(shape, seed)] for seed in itertools.count())
    losses = [step.loss for step in fit(model, batches, next_token, optimizer, steps=150)]
    assert losses[0] > 2.5
    assert sum(losses[-10:]) / 10 < losses[0] / 3


def test_experts_are_balanced_by_their_loss_and_it_is_reported() -> None:
    torch.manual_seed(0)
    config = ModelConfig.sized(1, 20, 16, experts=4, top_k=1, balance=0.1, router_z=0.001)
    model = build(config)
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.01))
    batches = ([task("decoder", seed)] for seed in itertools.count())
    steps = list(fit(model, batches, next_token, optimizer, steps=60))
    assert {"balance", "router_z"} <= set(steps[-1].parts)
    assert steps[-1].parts["balance"] == pytest.approx(1.0, abs=0.2)
    assert config.active_parameters() < config.parameters()


def test_the_model_is_called_with_what_the_batch_has() -> None:
    batch = task("encoder_decoder", 0)
    assert set(inputs(batch)) == set(batch) - {"targets"}
    model = build(ModelConfig.sized(1, 20, 16, "encoder_decoder"))
    assert isinstance(model, LanguageModel)
    assert model(**inputs(batch)).hidden.shape == (16, 8, 64)
