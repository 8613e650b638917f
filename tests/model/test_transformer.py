"""The Transformer against a plain loop over heads and positions, and its invariants: causality, isolation, grouping."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, ScalarModel, build, count
from fledge.model.transformer import Transformer

SHAPE = {"vocab_size": 50, "width": 24, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 6, "hidden": 40}
AXES = [
    {},
    {"qk_norm": False, "tied": False},
    {"kv_heads": 1},
    {"kv_heads": 4, "window": 3},
    {"qkv_bias": True, "output_bias": True, "feedforward_bias": True, "activation": "gelu"},
    {"activation": "gelu_tanh", "rope_base": 100.0},
    {"activation": "relu", "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "norm_eps": 0.1},
]


def randomised(seed: int = 0, **axes: object) -> LanguageModel:
    """A model whose every parameter is random and large enough to matter."""
    torch.manual_seed(seed)
    model = LanguageModel(ModelConfig(**(SHAPE | {"context": 32} | axes))).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return model


def reference(model: LanguageModel, ids: list[int]) -> Tensor:
    """Hidden states [T, E] of one sequence by the textbook: one head, one position, one key at a time."""
    config, backbone = model.config, model.backbone
    activation = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}
    size = config.head_size

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean() + config.norm_eps) * weight

    def turned(x: Tensor, position: int) -> Tensor:
        y = x.clone()
        for i in range(size // 2):
            factor = config.rope_scaling["factor"] if config.rope_scaling else 1.0
            angle = position * config.rope_base ** (-2 * i / size) / factor
            a, b = x[i], x[i + size // 2]
            y[i] = a * math.cos(angle) - b * math.sin(angle)
            y[i + size // 2] = a * math.sin(angle) + b * math.cos(angle)
        return y

    x = [backbone.embedding.weight[i] for i in ids]
    for block in backbone.blocks:
        attention, feedforward = block.attention, block.feedforward
        queries, keys, values = [], [], []
        for position, h in enumerate(x):
            projected = attention.qkv(norm(h, block.attention_norm.weight))
            pieces = projected.view(-1, size)
            q, k = pieces[: config.heads], pieces[config.heads : config.heads + config.kv_heads]
            if config.qk_norm:
                q = [norm(p, attention.q_norm.weight) for p in q]
                k = [norm(p, attention.k_norm.weight) for p in k]
            queries.append([turned(p, position) for p in q])
            keys.append([turned(p, position) for p in k])
            values.append(pieces[config.heads + config.kv_heads :])
        for t in range(len(ids)):
            heads = []
            first = 0 if config.window is None else max(0, t - config.window + 1)
            for head in range(config.heads):
                shared = head // (config.heads // config.kv_heads)
                scores = torch.stack([queries[t][head] @ keys[s][shared] for s in range(first, t + 1)])
                weights = torch.softmax(scores / math.sqrt(size), 0)
                heads.append(sum(w * values[s][shared] for w, s in zip(weights, range(first, t + 1))))
            x[t] = x[t] + attention.out(torch.cat(heads))
        for t, h in enumerate(x):
            gate, up = feedforward.gate_up(norm(h, block.feedforward_norm.weight)).split(config.hidden)
            x[t] = h + feedforward.down(activation[config.activation](gate) * up)
    return torch.stack([norm(h, backbone.norm.weight) for h in x])


@pytest.mark.parametrize("axes", AXES, ids=str)
@torch.no_grad()
def test_the_forward_pass_is_the_textbooks(axes: dict) -> None:
    model = randomised(**axes)
    ids = [3, 1, 4, 1, 5, 9, 2]
    expected = reference(model, ids)
    assert torch.allclose(model.backbone(torch.tensor([ids]))[0], expected, atol=1e-6)
    head = model.backbone.embedding.weight if model.config.tied else model.head.weight
    assert torch.allclose(model(torch.tensor([ids])).logits()[0], expected @ head.T, atol=1e-5)


@pytest.mark.parametrize("window", [None, 4])
@torch.no_grad()
def test_a_packed_row_is_its_documents_one_by_one(window: int | None) -> None:
    """Documents in any order and with padding, against each alone; a change in one leaves the others to the bit."""
    model = randomised(window=window)
    lengths = [5, 1, 9, 3]
    documents = [torch.randint(0, 50, (1, n)) for n in lengths]
    ids = torch.cat([*documents, torch.zeros(1, 4, dtype=torch.int64)], 1)
    owners = torch.tensor([[d for d, n in enumerate(lengths, 1) for _ in range(n)] + [0] * 4])
    positions = torch.cat([*(torch.arange(n) for n in lengths), torch.zeros(4, dtype=torch.int64)])[None]
    packed = model.backbone(ids, positions, owners)
    assert packed.isfinite().all()
    for document, piece in zip(documents, packed.split([*lengths, 4], 1)):
        assert torch.allclose(piece, model.backbone(document), atol=1e-9)
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 50
    same = (model.backbone(changed, positions, owners) == packed).all(-1)[0]
    assert same.tolist() == [i != 5 for i in range(22)]


@torch.no_grad()
def test_the_future_does_not_reach_back() -> None:
    model = randomised()
    ids = torch.randint(0, 50, (2, 12))
    other = ids.clone()
    other[:, 7:] = (ids[:, 7:] + 1) % 50
    for extra in ((), (torch.arange(12).expand(2, 12), torch.ones(2, 12, dtype=torch.int32))):
        a, b = (model.backbone(x, *extra) for x in (ids, other))
        assert torch.allclose(a[:, :7], b[:, :7], atol=1e-12)
        assert not torch.isclose(a[:, 7:], b[:, 7:]).all(-1).any()


def test_gradients_do_not_cross_documents() -> None:
    model = randomised()
    embedded = model.backbone.embedding.weight
    ids, owners = torch.arange(10)[None], torch.tensor([[1] * 4 + [2] * 6])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    model.backbone(ids, positions, owners)[0, 8].square().sum().backward()
    touched = embedded.grad.abs().sum(1) > 0
    assert touched.nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]


def test_gradient_checkpointing_changes_memory_only() -> None:
    model = randomised().train()
    ids = torch.randint(0, 50, (2, 9))
    grads = []
    for checkpointing in (False, True):
        model.backbone.checkpointing = checkpointing
        model.zero_grad()
        model(ids).logits().logsumexp(-1).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*grads))


def test_autocast_computes_in_bfloat16_near_the_exact_result() -> None:
    model = randomised().float()
    ids = torch.randint(0, 50, (2, 9))
    exact = model(ids).logits()
    with torch.autocast("cpu", torch.bfloat16):
        cast = model(ids).logits()
    error = (cast.float() - exact).abs().mean() / exact.abs().mean()
    assert 0 < error < 0.05


@pytest.mark.parametrize("axes", [*AXES, {"head": "scalar"}], ids=str)
def test_the_config_counts_the_parameters_there_are(axes: dict) -> None:
    config = ModelConfig(**(SHAPE | {"context": 32} | axes))
    assert config.parameters() == count(build(config)) == sum(p.numel() for p in build(config).parameters())


def test_flops_are_those_of_the_matrix_products() -> None:
    """Forward and backward as torch counts them, the causal attention counted whole.

    In bfloat16, where attention is plain: torch does not count all of the CPU's fused kernel.
    """
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig.sized(2, 100, 64)
    model, ids = build(config), torch.randint(0, 100, (1, 64))
    documents = torch.ones(1, 64, dtype=torch.int32)
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        model(ids, torch.arange(64)[None], documents).logits().sum().backward()
    assert counter.get_total_flops() / 64 == pytest.approx(config.flops_per_token(64), rel=0.02)


def test_one_dial_gives_a_shape() -> None:
    config = ModelConfig.sized(4, 4096, 256)
    assert (config.width, config.layers, config.heads * config.head_size) == (256, 4, 256)
    assert config.hidden % 64 == 0
    assert abs(config.hidden - 8 / 3 * 256) <= 32


def test_a_fresh_model_predicts_nearly_uniformly() -> None:
    torch.manual_seed(0)
    loss = -build(ModelConfig.sized(3, 500, 64))(torch.randint(0, 500, (2, 64))).logits().log_softmax(-1).mean()
    assert math.log(500) <= loss < math.log(500) + 0.2


def test_a_fresh_score_head_says_nothing_and_reads_every_position() -> None:
    model = build(ModelConfig(**SHAPE, context=32, head="scalar"))
    assert isinstance(model, ScalarModel)
    ids = torch.randint(0, 50, (3, 8))
    assert model(ids).values.tolist() == [[0.0] * 8] * 3
    with torch.no_grad():
        model.score.weight.fill_(1.0)
    hidden = Transformer.forward(model.backbone, ids)
    assert torch.allclose(model(ids).values, hidden.sum(-1), atol=1e-5)
