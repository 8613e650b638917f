"""The chunked losses against plain formulas on full logits, values and gradients."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fledge.objectives import language
from fledge.objectives.language import bits_per_byte, logprobs_and_entropy, next_token, token_entropy, token_logprobs

B, T, E, V = 3, 17, 8, 29


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "rows_per_chunk", lambda vocabulary, device: 5)  # uneven, several chunks


def make(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[SimpleNamespace, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, T, E, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, E, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, V, (B, T), generator=generator)
    targets[torch.rand(B, T, generator=generator) < 0.4] = -100
    return SimpleNamespace(hidden=hidden, weight=weight), targets


def logits_of(output: SimpleNamespace) -> torch.Tensor:
    return output.hidden @ output.weight.T


def gradients(loss: torch.Tensor, output: SimpleNamespace) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, (output.hidden, output.weight))


def test_next_token_equals_full_cross_entropy() -> None:
    output, targets = make()
    found = next_token(output, {"targets": targets})
    expected = F.cross_entropy(logits_of(output).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(found.sum, expected)
    assert found.count.item() == (targets != -100).sum().item()
    for mine, plain in zip(gradients(3 * found.sum, output), gradients(3 * expected, output)):
        torch.testing.assert_close(mine, plain)


def test_next_token_with_weights() -> None:
    output, targets = make()
    weights = torch.rand(B, T)
    found = next_token(output, {"targets": targets, "weights": weights})
    nats = F.cross_entropy(logits_of(output).flatten(0, 1), targets.flatten(), reduction="none").view(B, T)
    expected = (nats * weights).sum()
    torch.testing.assert_close(found.sum, expected)
    torch.testing.assert_close(found.count, weights[targets != -100].sum())
    for mine, plain in zip(gradients(found.sum, output), gradients(expected, output)):
        torch.testing.assert_close(mine, plain)


def test_logprobs_and_entropy_equal_the_full_formulas() -> None:
    output, targets = make()
    logprobs, entropy = logprobs_and_entropy(output, targets)
    full = logits_of(output).log_softmax(-1)
    real = targets != -100
    expected = full.gather(2, targets.clamp(min=0)[..., None])[..., 0] * real
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(-1) * real)
    torch.testing.assert_close(token_entropy(output, targets), entropy)
    assert not entropy.requires_grad
    upstream = torch.randn(B, T, dtype=torch.float64)
    mine = gradients((token_logprobs(output, targets) * upstream).sum(), output)
    for a, b in zip(mine, gradients((expected * upstream).sum(), output)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("objective", ["next_token", "token_logprobs"])
def test_gradients_match_finite_differences(objective: str) -> None:
    output, targets = make()

    def f(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        made = SimpleNamespace(hidden=hidden, weight=weight)
        if objective == "next_token":
            return next_token(made, {"targets": targets}).sum
        return token_logprobs(made, targets)

    assert torch.autograd.gradcheck(f, (output.hidden, output.weight))


def test_under_bfloat16_autocast_both_stay_near_float32() -> None:
    output, targets = make(torch.float32)
    exact = next_token(output, {"targets": targets}).sum
    exact_gradients = gradients(exact, output)
    with torch.autocast("cpu", torch.bfloat16):
        found = next_token(output, {"targets": targets}).sum
        logprobs = token_logprobs(output, targets)
    assert found.dtype == logprobs.dtype == torch.float32
    assert found.item() != exact.item(), "bfloat16 must have been used"
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=0)
    torch.testing.assert_close(-logprobs.sum(), exact, rtol=1e-2, atol=0)
    for mine in (gradients(found, output), gradients(-logprobs.sum(), output)):
        for a, b in zip(mine, exact_gradients):
            assert a.dtype == torch.float32
            assert (a - b).norm() < 0.01 * b.norm()


def test_nothing_supervised_gives_zero_and_zero_gradients() -> None:
    output, targets = make()
    found = next_token(output, {"targets": torch.full_like(targets, -100)})
    assert found.sum.item() == found.count.item() == 0
    assert all(not g.any() for g in gradients(found.sum, output))


def test_frozen_weight_and_no_grad() -> None:
    output, targets = make()
    output.weight = output.weight.detach()
    (found,) = torch.autograd.grad(next_token(output, {"targets": targets}).sum, output.hidden)
    (plain,) = torch.autograd.grad(
        F.cross_entropy(logits_of(output).flatten(0, 1), targets.flatten(), reduction="sum"), output.hidden
    )
    torch.testing.assert_close(found, plain)
    with torch.no_grad():
        assert not next_token(output, {"targets": targets}).sum.requires_grad


def test_only_supervised_positions_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    output, targets = make()
    seen = []
    original = language.summed_cross_entropy
    monkeypatch.setattr(language, "summed_cross_entropy", lambda h, *rest: (seen.append(len(h)), original(h, *rest))[1])
    next_token(output, {"targets": targets})
    assert seen == [(targets != -100).sum().item()]


def test_bits_per_byte() -> None:
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2.0)
