"""The compiled kernels against their definitions in float64, and their promise: a token's bits depend on it alone."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numba import vectorize
from torch import Tensor
from torch.nn import functional as F

from fledge.generate.native import numbers, threads
from fledge.generate.native.attention import Heads, attend, turn
from fledge.generate.native.stream import Rows, gate, prepare
from fledge.generate.native.threads import run

HALF = torch.bfloat16
SHAPES = [(4, 2, 16), (3, 3, 64), (9, 3, 6), (2, 1, 48), (2, 2, 80), (2, 1, 24)]  # heads, key-value heads, head size


def told(struct: type[Any], **given: Any) -> Any:
    """Addresses of tensors, other values as they are."""
    return struct(**{name: v.data_ptr() if isinstance(v, Tensor) else v for name, v in given.items()})


def prepared(x: Tensor, y: Tensor | None, threads: int = 1, **given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(x after the sum, out, scale)"""
    x, rows, width = x.clone(), len(x), x.shape[1]
    out = torch.zeros(rows, width + 3, dtype=HALF if given.get("kind") else torch.float32)
    if y is not None:
        given |= {"y": y, "y_half": y.dtype == HALF, "y_stride": width}
    run(prepare, told(Rows, rows=rows, width=width, stride=width + 3, x=x, out=out, **given), rows, 1 << 20, threads)
    assert not out[:, width:].any()
    return x, out[:, :width], given.get("scale", torch.empty(0))


@pytest.mark.parametrize("width", [1, 7, 64, 200])
@pytest.mark.parametrize("half", [False, True])
def test_prepare(width: int, half: bool) -> None:
    x, y = torch.randn(5, width), torch.randn(5, width).to(HALF if half else torch.float32)
    total = x + y.float()
    after, out, _ = prepared(x, y, kind=int(half), norm=1, floor=width * 1e-5)
    assert torch.equal(after, total)
    expected = total.double() / (total.double().square().sum(-1, keepdim=True) + width * 1e-5).sqrt()
    torch.testing.assert_close(out.double(), expected, rtol=4e-3 if half else 1e-6, atol=1e-7)
    after, out, _ = prepared(x, None, kind=int(half))
    assert torch.equal(after, x)
    assert torch.equal(out, x.to(out.dtype))  # rounded as torch rounds


def test_prepare_for_8_bits() -> None:
    """Rows are divided by their largest value; products of such rows are multiplied again, and get their bias."""
    x, y, bias, before = torch.randn(4, 70), torch.randn(4, 70), torch.randn(70), torch.tensor([1.0, 2.0, 0.5, 3.0])
    x[2], y[2] = 0.0, -bias / 0.5
    scale = torch.zeros(4)
    after, out, _ = prepared(x, y, y_scale=before, y_bias=bias, scale=scale)
    torch.testing.assert_close(after, x + (y * before[:, None] + bias), atol=1e-6, rtol=1e-6)
    assert torch.equal(scale, after.abs().amax(-1).clamp_min(1e-30))
    torch.testing.assert_close(out, after / scale[:, None])
    assert out.isfinite().all()


def test_prepare_rounds_to_8_bits() -> None:
    x = torch.linspace(-3, 3, 61).repeat(2, 1)
    x[1] *= 7
    out, scale = torch.zeros(2, 61, dtype=torch.uint8), torch.zeros(2)
    run(prepare, told(Rows, rows=2, width=61, stride=61, x=x, out=out, kind=2, scale=scale), 2, 0, 1)
    assert torch.equal(scale, torch.tensor([3.0, 21.0]))
    assert out.min() == 0
    assert out.max() == 254
    assert ((out.float() - 127) / 127 * scale[:, None] - x).abs().div(scale[:, None]).max() < 0.5001 / 127


@pytest.mark.parametrize("half", [False, True])
def test_gate(half: bool) -> None:
    y = torch.cat([torch.randn(6, 80) * 10, torch.linspace(-200, 200, 40).repeat(6, 1), torch.randn(6, 40)], 1)
    y, out = y.to(HALF if half else torch.float32), torch.zeros(6, 80)
    run(gate, told(Rows, rows=6, width=80, stride=80, y=y, y_half=half, y_stride=160, out=out), 6, 0, 1)
    gates, ups = y.double().chunk(2, -1)
    torch.testing.assert_close(out.double(), F.silu(gates) * ups, rtol=1e-6, atol=1e-30)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_exp_over_its_whole_range() -> None:
    found = vectorize(["float32(float32)"])(lambda x: numbers.exp(x))
    x = np.linspace(-87, 88, 1_000_001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (abs(found(x) - exact) / exact).max() < 2.5e-7
    assert found(np.float32(-1000)) < 1e-37
    assert np.isfinite(found(np.float32(1000)))
    assert math.isnan(found(np.float32(math.nan)))


def attention(
    heads: int, kv_heads: int, size: int, positions: Tensor, places: Tensor, half: bool, window: int, norm: bool,
    rows: slice = slice(None), threads: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(by the kernels, by the definition) [N, H, D]; only for some of the tokens if asked, with the cache as it was."""
    torch.manual_seed(0)
    length, turned = int(positions.max()) + 3, heads + kv_heads
    y = torch.randn(len(positions), turned + kv_heads, size)
    cache = torch.randn(2, int(places.max()) + 1, kv_heads, length, size).to(HALF if half else torch.float32)
    weights = torch.rand(turned, size) + 0.5
    angles = torch.rand(length, size // 2) * 6
    cos, sin = angles.cos().repeat(1, 2), torch.cat([-angles.sin(), angles.sin()], -1)
    qkv, out, q = y.to(cache.dtype), torch.zeros(len(positions), heads, size), torch.zeros(len(positions), heads, size)
    exact, y = cache.double(), qkv.double()
    some = [tensor[rows].contiguous() for tensor in (qkv, positions, places, q, out)]
    numbers = (turned + kv_heads) * size
    heads_told = told(
        Heads, rows=len(some[0]), heads=heads, kv_heads=kv_heads, size=size, y=some[0], y_half=half, y_stride=numbers,
        cos=cos, sin=sin, positions=some[1], places=some[2], q=some[3], keys=cache[0], values=cache[1],
        cache_kind=int(half), length=length, window=window, out=some[4], floor=size * 1e-6,
        weights=weights if norm else 0,
    )  # fmt: skip
    for kernel, tasks in ((turn, len(some[0])), (attend, len(some[0]) * kv_heads)):
        run(kernel, heads_told, tasks, 1 << 20, threads)
    qk = y[:, :turned]
    if norm:
        qk = qk / (qk.square().sum(-1, keepdim=True) + size * 1e-6).sqrt() * weights.double()
    qk = qk * cos.double()[positions][:, None] + qk.roll(size // 2, -1) * sin.double()[positions][:, None]
    for token, (position, place) in enumerate(zip(positions.tolist(), places.tolist())):
        exact[0, place, :, position], exact[1, place, :, position] = qk[token, heads:], y[token, turned:]
    found = []
    for token, (position, place) in enumerate(zip(positions.tolist(), places.tolist())):
        seen = slice(max(0, position + 1 - window) if window else 0, position + 1)
        keys, values = (part[place, :, seen].repeat_interleave(heads // kv_heads, 0) for part in exact)
        chances = (torch.einsum("hd,hsd->hs", qk[token, :heads], keys) * size**-0.5).softmax(-1)
        found.append(torch.einsum("hs,hsd->hd", chances, values))
    return some[4], torch.stack(found)[rows]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), SHAPES)
def test_turn_and_attend(heads: int, kv_heads: int, size: int, half: bool, window: int) -> None:
    """Rows of several lengths, two tokens of one of them, one that sees itself alone."""
    positions, places = torch.tensor([0, 41, 42, 7, 300]), torch.tensor([3, 1, 1, 0, 2])
    found, expected = attention(heads, kv_heads, size, positions, places, half, window, norm=half)
    torch.testing.assert_close(found.double(), expected, rtol=2e-2 if half else 1e-5, atol=2e-2 if half else 1e-5)


@pytest.mark.parametrize("half", [False, True])
def test_attention_gets_the_same_bits_in_any_company(half: bool) -> None:
    positions, places = torch.randint(0, 400, (40,)), torch.randperm(40)
    shape = 4, 2, 32, positions, places, half, 0, True
    together, _ = attention(*shape)
    assert torch.equal(attention(*shape, threads=2)[0], together)
    for rows in (slice(0, 1), slice(7, 10), slice(30, 40)):
        assert torch.equal(attention(*shape, rows=rows)[0], together[rows])


def test_rows_get_the_same_bits_in_any_company() -> None:
    x, y = torch.randn(100, 333), torch.randn(100, 333).to(HALF)
    together = prepared(x, y, norm=1, floor=1e-3, kind=1)[1]
    assert torch.equal(prepared(x, y, threads=2, norm=1, floor=1e-3, kind=1)[1], together)
    for rows in (slice(0, 1), slice(40, 47)):
        assert torch.equal(prepared(x[rows], y[rows], norm=1, floor=1e-3, kind=1)[1], together[rows])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_not_hidden(value: float) -> None:
    x = torch.randn(2, 64)
    x[1, 5] = value
    for given in ({"norm": 1, "floor": 1e-3}, {"kind": 1}, {"scale": torch.zeros(2)}):
        out = prepared(x, None, **given)[1]
        assert out[0].isfinite().all()
        assert not out[1].isfinite().all() or given.get("scale", x)[-1:].isfinite().logical_not().any()
    y, out = torch.randn(1, 64), torch.zeros(1, 32)
    y[0, 3] = value
    run(gate, told(Rows, rows=1, width=32, stride=32, y=y, y_stride=64, out=out), 1, 0, 1)
    assert not out.isfinite().all()


def test_without_gnus_threads_one_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(500, 100)
    expected = prepared(x, None, norm=1, threads=2)[1]
    monkeypatch.setattr(threads, "TEAM", None)
    assert torch.equal(prepared(x, None, norm=1, threads=2)[1], expected)


def test_where_nothing_can_be_kept_kernels_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(**options: bool) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(threads, "njit", nowhere)
    assert not threads.keeps()


def test_compiled_code_is_found_again_on_disk(tmp_path: Path) -> None:
    """A second process compiles nothing, and the folder does not grow."""
    script = (
        "import torch, fledge.generate.fused, fledge.generate.native.tiles as tiles\n"
        "print([tiles.can_tile(kind) for kind in tiles.PER_WORD])"
    )
    sizes = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, check=True)
        sizes.append(sum(path.is_file() for path in tmp_path.rglob("*")))
    assert sizes[0] > 0
    assert sizes[1] == sizes[0]
