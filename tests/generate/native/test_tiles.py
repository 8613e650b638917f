"""Products by tiles: exact where they can be, near the definition elsewhere, and a row's bits depend on it alone."""

import pytest
import torch
from torch import Tensor

from fledge.generate.int8 import Int8Linear, can_quantise, full_range
from fledge.generate.linear import cancelling
from fledge.generate.native import tiles
from fledge.generate.native.tiles import can_tile, laid_out, multiply
from fledge.generate.tiled import TiledLinear

KINDS = [torch.float32, torch.bfloat16, torch.uint8]
SHAPES = [(1, 4), (16, 8), (48, 64), (50, 7), (200, 130), (33, 500)]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> torch.dtype:
    if not can_tile(request.param):
        pytest.skip(f"this processor has no tiles of {request.param}")
    return request.param


def product(x: Tensor, weight: Tensor, start: Tensor, kind: torch.dtype) -> Tensor:
    """Whole numbers through the tiles: [M, N]."""
    per, outputs = tiles.PER_WORD[kind], len(weight)
    x = torch.nn.functional.pad(x, (0, -x.shape[1] % per)).to(kind)
    many = -outputs % 16
    ones = torch.ones(outputs + many)
    start = torch.nn.functional.pad(start, (0, many)).to(torch.int32 if kind == torch.uint8 else torch.float32)
    found = multiply(x, laid_out(weight.to(torch.int8 if kind == torch.uint8 else kind)), start, ones)
    return found[:, :outputs]


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 15, 64, 130])
def test_whole_numbers_are_exact(outputs: int, inputs: int, rows: int, kind: torch.dtype) -> None:
    """Also the largest of 8 bits: no sum saturates."""
    weight, start = torch.randint(-127, 128, (outputs, inputs)), torch.randint(-99, 99, (outputs,))
    x = torch.randint(0, 255, (rows, inputs))
    weight[-1], x[0] = -127, 254
    assert torch.equal(product(x, weight, start, kind).long(), x @ weight.T + start)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_linear(outputs: int, inputs: int, bias: bool, kind: torch.dtype) -> None:
    weight, x, added = torch.randn(outputs, inputs), torch.randn(3, 5, inputs) * 3, torch.randn(outputs)
    linear = TiledLinear(weight, added if bias else None, kind)
    exact = x.double() @ weight.double().T + (added if bias else 0)
    if kind == torch.bfloat16:
        exact = x.to(kind).double() @ weight.to(kind).double().T + (added if bias else 0)
    found = linear(x)
    assert found.shape == exact.shape
    allowed = 0.02 if kind == torch.uint8 else 1e-6
    assert (found - exact).norm() <= allowed * exact.norm()
    assert torch.equal(linear(x.to(kind) if kind == torch.bfloat16 else x), found)


def test_8_bits_are_those_of_torch() -> None:
    """The same rounding of weights and activations: the results differ by the rounding of a few products."""
    if not (can_tile(torch.uint8) and can_quantise() and full_range()):
        pytest.skip("this processor has no 8-bit products that can be compared")
    weight, x = torch.randn(96, 256), torch.randn(20, 256)
    ours, theirs, exact = TiledLinear(weight, None, torch.uint8)(x), Int8Linear(weight, None)(x), x @ weight.T
    assert (ours - theirs).norm() < 0.1 * (theirs - exact).norm()


def test_a_row_gets_the_same_bits_in_any_company(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that are all rounding; one thread and two."""
    weight, x = cancelling(200, 300, 90)
    x += torch.randn(x.shape) * 1e-3
    linear = TiledLinear(weight, torch.zeros(200), kind)
    together = linear(x)
    assert together.abs().max() > 0
    for start, stop in ((0, 1), (7, 8), (3, 5), (10, 21), (20, 53)):
        assert torch.equal(linear(x[start:stop]), together[start:stop])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert torch.equal(linear(x), together)


def test_a_compiler_that_does_not_know_the_instruction(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Tensor) -> Tensor:
        raise RuntimeError("LLVM IR parsing error")

    monkeypatch.setattr(tiles, "multiply", fails)
    assert not can_tile.__wrapped__(kind)
    monkeypatch.setattr(tiles, "multiply", lambda x, *given: torch.zeros(3, 32))
    assert not can_tile.__wrapped__(kind)
