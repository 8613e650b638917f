"""The packed copy against the model it is made of, along every axis of the architecture."""

import pytest
import torch

from fledge.generate import linear as module
from fledge.generate.engine import Engine
from fledge.generate.int8 import can_quantise
from fledge.generate.linear import Linear, can_pack, cancelling
from fledge.generate.native import tiles
from fledge.generate.packed import PackedModel, packed
from fledge.generate.request import Request
from fledge.generate.sampling import Sampling
from fledge.model.cache import Cache
from fledge.model.heads import LanguageModel

from .conftest import tiny

AXES = [
    {},
    {"qk_norm": False},
    {"kv_heads": 4},
    {"qkv_bias": True, "output_bias": True, "feedforward_bias": True},
    {"activation": "gelu_tanh", "norm_eps": 1e-2},
    {"window": 5},
    {"width": 30, "hidden": 45, "head_size": 6},
    {"tied": False, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
]


def last_logits(model: PackedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits by prefill of all but two tokens and two steps of decoding, [B, 3, V]."""
    batch, time = ids.shape
    cache = Cache(model.config, batch, time, "cpu", model.dtype)
    positions = torch.arange(time).expand(batch, -1)
    logits = []
    for start, stop in ((0, time - 2), (time - 2, time - 1), (time - 1, time)):
        cache.reach = stop
        output = model(ids[:, start:stop], positions[:, start:stop], cache=cache)
        logits.append(output.logits()[:, -1:].float())
    return torch.cat(logits, 1)


@pytest.fixture(params=["tiles", "oneDNN"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What multiplies: the tiles, where the processor has what they need, or torch's operators."""
    if request.param == "oneDNN":
        monkeypatch.setattr(tiles, "can_tile", lambda dtype: False)
    elif not tiles.can_tile(torch.float32):
        pytest.skip("no AVX-512 here, or AMX")
    return request.param


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_logits_equal_the_models(axes: dict, batch: int, fused: bool, products: str) -> None:
    """By the compiled kernels, and as on a GPU."""
    model = tiny(300, **axes)
    ids = torch.randint(0, 300, (batch, 12))
    copy = packed(model, torch.float32)
    copy.fused = fused
    ours = last_logits(copy, ids)
    assert torch.allclose(ours, model(ids).logits()[:, -3:], atol=1e-4)


@pytest.mark.parametrize("axes", [{}, {"width": 30, "hidden": 45, "head_size": 6}], ids=str)
@torch.no_grad()
def test_bfloat16_is_as_near_as_autocast(axes: dict, products: str) -> None:
    model = tiny(300, **axes)
    ids = torch.randint(0, 300, (8, 20))
    exact = model(ids).logits()[:, -3:]
    with torch.autocast("cpu", torch.bfloat16):
        cast = (model(ids).logits()[:, -3:].float() - exact).abs().mean()
    ours = (last_logits(packed(model, torch.bfloat16), ids) - exact).abs().mean()
    assert 0 < ours < 1.5 * cast


@pytest.mark.parametrize(
    "axes", [{}, {"qkv_bias": True, "output_bias": True, "feedforward_bias": True}, *AXES[4:]], ids=str
)
@torch.no_grad()
def test_8_bits_are_near(axes: dict, products: str) -> None:
    if not (can_quantise() if products == "oneDNN" else tiles.can_tile(torch.uint8)):
        pytest.skip("no 8-bit products here")
    model, ids = tiny(300, **axes), torch.randint(0, 300, (4, 20))
    exact = model(ids).logits()[:, -3:]
    copy = packed(model, torch.float32, int8=True)
    ours = last_logits(copy, ids) - exact
    assert 0 < ours.norm() < 0.05 * exact.norm()
    copy.fused = False
    assert (last_logits(copy, ids) - exact).norm() < 0.05 * exact.norm()


@torch.no_grad()
def test_without_the_private_operator_plain_linears_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_pack", lambda dtype: False)
    monkeypatch.setattr(tiles, "can_tile", lambda dtype: False)
    model, ids = tiny(300), torch.randint(0, 300, (2, 9))
    copy = packed(model, torch.float32)
    assert not copy.head.packed
    assert torch.allclose(last_logits(copy, ids), model(ids).logits()[:, -3:], atol=1e-4)
    assert packed(model, torch.bfloat16).head(torch.ones(1, 32)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 8, 130])
def test_the_private_operator_is_right(dtype: torch.dtype, rows: int) -> None:
    if not can_pack(dtype):
        pytest.skip(f"torch {torch.__version__} has no packed {dtype} linear on this machine")
    weight, bias, x = torch.randn(70, 50), torch.randn(70), torch.randn(rows, 1, 50)
    linear = Linear(weight, bias, dtype)
    assert linear.packed
    exact = torch.nn.functional.linear(x.to(dtype).double(), weight.to(dtype).double(), bias.to(dtype).double())
    assert torch.allclose(linear(x).double(), exact, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_long_prompt_in_parts_gets_the_same_bits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed-forward layers of 24 tokens at once, and of 5 at a time."""
    model, ids = tiny(300), torch.randint(0, 300, (2, 12))
    whole = last_logits(packed(model, dtype), ids)
    monkeypatch.setattr("fledge.generate.fused.ROWS", 5)
    assert torch.equal(last_logits(packed(model, dtype), ids), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [50, 1536])
@pytest.mark.parametrize("blocks", [False, True])
@torch.no_grad()
def test_a_row_gets_the_same_bits_in_any_company(
    dtype: torch.dtype, columns: int, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of other numbers than the linear was tried with, whose products are all rounding."""
    if not can_pack(dtype):
        pytest.skip(f"torch {torch.__version__} has no packed {dtype} linear on this machine")
    if blocks:
        monkeypatch.setattr(module, "rows_alike", lambda *shape: (1, 8))
    weight, x = cancelling(72, columns, 90)
    x = x[torch.randperm(90, generator=torch.Generator().manual_seed(1))]
    linear = Linear(weight, torch.zeros(72), dtype)
    together = linear(x)
    assert together.abs().max() > 0
    for start, stop in ((0, 1), (7, 8), (3, 5), (10, 21), (20, 53)):
        assert torch.equal(linear(x[start:stop, None])[:, 0], together[start:stop])
        assert torch.equal(linear(x[None, start:stop])[0], together[start:stop])


@torch.no_grad()
def test_another_order_of_a_sum_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that are computed otherwise for one row, and for many."""
    if not can_pack(torch.float32):
        pytest.skip("torch has no packed linear here")
    true = module.product

    def halves(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, when: int) -> torch.Tensor:
        if (len(x) == 1) if when == 1 else (len(x) >= when):
            front = torch.zeros_like(x)
            front[:, : x.shape[1] // 2] = x[:, : x.shape[1] // 2]
            return true(front, weight, bias) + true(x - front, weight, bias)
        return true(x, weight, bias)

    for when, expected in ((1, (2, None)), (17, (1, 8)), (1000, (1, None))):
        monkeypatch.setattr(module, "product", lambda *given, when=when: halves(*given, when))
        assert module.rows_alike.__wrapped__(24, 64, torch.float32) == expected


def test_the_copy_is_of_the_weights_as_they_were(model: LanguageModel) -> None:
    """An engine packs anew at each run; a packed model given to it is used as it is."""
    requests = [Request([1, 2, 3 + i], 10, Sampling(), seed=i) for i in range(3)]
    plain = Engine(model).run(requests)
    for engine in (Engine(model, dtype=torch.float32), Engine(packed(model, torch.float32))):
        assert [c.ids for c in engine.run(requests)] == [c.ids for c in plain]
