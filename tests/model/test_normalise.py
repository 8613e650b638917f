"""The written-out gradients of norm and rotation against autograd on the plain formulas."""

import pytest
import torch
from torch import Tensor

from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.model.normalise import Norm, written_out
from fledge.model.positions import rotate

EPS = 0.05


def textbook(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * weight


def norm_of(size: int, dtype: torch.dtype) -> Norm:
    norm = Norm(size, eps=EPS, dtype=dtype)
    with torch.no_grad():
        norm.weight.normal_(1.0, 0.5)
    return norm


def angles(*shape: int) -> tuple[Tensor, Tensor]:
    found = torch.rand(*shape, dtype=torch.float64) * 6
    return found.cos(), found.sin()


def test_the_norms_gradients_are_exact() -> None:
    torch.manual_seed(0)
    norm, x = norm_of(10, torch.float64), torch.randn(3, 4, 10, dtype=torch.float64, requires_grad=True)
    assert written_out(x)
    assert torch.allclose(norm(x), textbook(x, norm.weight), atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, _: norm(x), (x, norm.weight))


@pytest.mark.parametrize("shape", [(2, 5, 1, 4), (5, 1, 4)], ids=["each row's own positions", "the same positions"])
def test_the_rotated_norms_gradients_are_exact_on_a_slice_of_fused_projections(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm, (cos, sin) = norm_of(8, torch.float64), angles(*shape)
    fused = torch.randn(2, 5, 6, 8, dtype=torch.float64, requires_grad=True)

    def rotated(fused: Tensor, _: Tensor) -> Tensor:
        return norm.rotated(fused[:, :, 1:4], cos, sin)

    expected = rotate(textbook(fused[:, :, 1:4], norm.weight), cos, sin)
    assert torch.allclose(rotated(fused, norm.weight), expected, atol=1e-12)
    assert torch.autograd.gradcheck(rotated, (fused, norm.weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_stay_near_the_exact_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    norm, (cos, sin) = norm_of(64, torch.float32), angles(2, 9, 1, 32)
    x, grad = torch.randn(2, 9, 3, 64).to(dtype), torch.randn(2, 9, 3, 64).to(dtype)
    found: list[list[Tensor]] = []
    for exact in (True, False):
        start = x.double() if exact else x
        start.requires_grad_()
        weight = norm.weight.detach().double().requires_grad_() if exact else norm.weight
        turned = (cos, sin) if exact else (cos.float(), sin.float())
        y = rotate(textbook(start, weight), *turned) if exact else norm.rotated(start, *turned)
        assert y.dtype == start.dtype
        found.append(
            [y.detach().double(), *(g.double() for g in torch.autograd.grad(y, [start, weight], grad.to(y.dtype)))]
        )
    for exact_one, low in zip(*found):
        assert (exact_one - low).norm() < tolerance * exact_one.norm()


def test_backward_inside_autocast_is_backward_outside_it() -> None:
    torch.manual_seed(0)
    norm, x = norm_of(32, torch.float32), torch.randn(6, 32)
    found = []
    for inside in (False, True):
        start = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            found.append(torch.autograd.grad(norm(start).square().sum(), [start, norm.weight]))
    assert all(map(torch.equal, *found))


def test_training_and_inference_compute_the_same() -> None:
    """The written-out path (with gradients) and the plain one (without) agree, packed and in both precisions."""
    torch.manual_seed(0)
    model = build(ModelConfig.sized(2, 50, 32))
    ids, documents = torch.randint(0, 50, (2, 12)), torch.tensor([[1] * 5 + [2] * 7] * 2)
    positions = torch.tensor([[*range(5), *range(7)]] * 2)
    with torch.autocast("cpu", torch.bfloat16):
        trained = model(ids, positions, documents).hidden
        with torch.no_grad():
            inferred = model(ids, positions, documents).hidden
    assert trained.dtype == torch.float32, "the residual stream keeps full precision"
    assert (trained - inferred).norm() < 0.02 * inferred.norm()
    trained = model(ids, positions, documents).hidden
    with torch.no_grad():
        assert torch.allclose(trained, model(ids, positions, documents).hidden, atol=1e-5)
