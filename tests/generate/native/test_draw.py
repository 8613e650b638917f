"""Weights and draws by compiled kernels, against torch in double precision."""

import math

import pytest
import torch

from fledge.generate.native import draw as kernels
from fledge.generate.native.draw import picked, weighed

SIZES = [1, 2, 255, 256, 257, 4_096, 50_257]


def scores(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    return 4 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
def test_weights_masses_and_the_largest(size: int) -> None:
    x, temperatures = scores(5, size), torch.tensor([1.0, 0.5, 2.0, 1e-6, 1.0])
    weights, ids, masses = weighed(x, temperatures, keep=True)
    exact = x.double()
    assert torch.equal(ids, x.argmax(-1))
    assert torch.allclose(masses.double(), exact.logsumexp(-1), rtol=1e-6, atol=1e-6)
    expected = ((exact - exact.amax(-1, keepdim=True)) / temperatures[:, None]).exp()
    assert weights is not None
    assert torch.allclose(weights.double(), expected, rtol=2e-5, atol=1e-30)
    alone = weighed(x, None, keep=False)
    assert alone[0] is None
    assert torch.equal(alone[1], ids)
    assert torch.equal(alone[2], masses)


@pytest.mark.parametrize("size", SIZES)
def test_a_number_falls_where_the_exact_sum_passes_it(size: int) -> None:
    weights = scores(200, size).exp_()
    weights[:, ::3] = 0.0 if size > 1 else 1.0
    uniforms = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids = picked(weights, uniforms)
    sums = weights.double().cumsum(-1)
    target, row = uniforms * sums[:, -1], torch.arange(200)
    slack = 1e-5 * sums[:, -1]
    assert (sums[row, ids] >= target - slack).all()
    assert (sums[row, ids] - weights[row, ids] <= target + slack).all()
    assert (weights[row, ids] > 0).all()


def test_the_first_of_equals_is_the_largest() -> None:
    x = torch.zeros(3, 1000)
    x[1, 700:] = 2.0
    x[2, :] = -math.inf
    x[2, 999] = -1e30
    assert weighed(x, None, keep=False)[1].tolist() == [0, 700, 999]


def test_what_is_forbidden_has_no_weight_and_is_never_drawn() -> None:
    x = torch.full((4, 600), -math.inf)
    x[:, [300, 599]] = torch.tensor([1.0, -500.0])  # the second is too far below
    weights, _, _ = weighed(x, None, keep=True)
    assert weights is not None
    edges = torch.tensor([0.0, 0.3, 0.999, 1 - 2.0**-53], dtype=torch.float64)
    assert picked(weights, edges).tolist() == [300] * 4


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
def test_what_is_no_number_shows_in_the_mass(bad: float) -> None:
    x = scores(3, 500)
    x[1, 123] = bad
    weights, ids, masses = weighed(x, None, keep=True)
    assert torch.isfinite(masses).tolist() == [True, False, True]
    assert weights is not None
    drawn = picked(weights, torch.full((3,), 0.5, dtype=torch.float64))
    assert ((drawn >= 0) & (drawn < 500)).all()
    assert ((ids >= 0) & (ids < 500)).all()


def test_a_row_gets_the_same_bits_alone_and_by_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, uniforms = scores(37, 4_096), torch.rand(37, dtype=torch.float64)
    temperatures = torch.rand(37) + 0.5
    runs = []
    for alone in (1 << 60, 0):  # one thread for all, threads for each
        monkeypatch.setattr("fledge.generate.native.threads.ALONE", alone)
        weights, ids, masses = weighed(x, temperatures, keep=True)
        assert weights is not None
        runs.append((weights, ids, masses, picked(weights, uniforms)))
    for one, other in zip(*runs):
        assert torch.equal(one, other)
    weights, ids, masses, drawn = runs[0]
    for row in range(37):
        own = slice(row, row + 1)
        found = weighed(x[own], temperatures[own], keep=True)
        assert found[0] is not None
        assert torch.equal(found[0], weights[own])
        assert found[1] == ids[row]
        assert found[2] == masses[row]
        assert picked(found[0], uniforms[own]) == drawn[row]


def test_rows_may_lie_apart() -> None:
    wide = scores(6, 700)
    for x in (wide[:, :300], wide[:, ::2], wide.T[:300]):
        assert torch.equal(weighed(x, None, keep=False)[1], x.argmax(-1))
    assert kernels.BLOCK < 300
