"""The losses of the denoising objectives against plain formulas, on values and gradients, however rows are dealt."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fledge.objectives import language
from fledge.objectives.detection import DETECTION, HIDDEN, replaced_tokens, sampled
from fledge.objectives.language import next_token, token_logprobs
from fledge.objectives.masked import masked_and_pair

B, T, E, V = 4, 11, 6, 23


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("language", "detection"):
        monkeypatch.setattr(f"fledge.objectives.{module}.rows_per_chunk", lambda vocabulary, device: 5)
    assert language.rows_per_chunk(1, torch.device("cpu")) == 5


def output_of(seed: int = 0, bias: bool = True) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_()

    return SimpleNamespace(hidden=draw(B, T, E), weight=draw(V, E), bias=draw(V) if bias else None, pair=draw(B, 2))


def targets_of(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, V, (B, T), generator=generator)
    targets[torch.rand(B, T, generator=generator) < 0.6] = -100
    return targets


def logits_of(output: SimpleNamespace) -> torch.Tensor:
    return output.hidden @ output.weight.T + output.bias


def test_a_bias_on_the_projection() -> None:
    output, targets = output_of(), targets_of()
    found = next_token(output, {"targets": targets})
    expected = F.cross_entropy(logits_of(output).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(found.sum, expected)
    leaves = (output.hidden, output.weight, output.bias)
    for mine, plain in zip(torch.autograd.grad(found.sum, leaves), torch.autograd.grad(expected, leaves)):
        torch.testing.assert_close(mine, plain)
    logprobs = token_logprobs(output, targets)
    plain = logits_of(output).log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(logprobs, torch.where(targets >= 0, plain, 0.0))
    for mine, other in zip(
        torch.autograd.grad(logprobs.sum(), leaves), torch.autograd.grad((plain * (targets >= 0)).sum(), leaves)
    ):
        torch.testing.assert_close(mine, other)


def pair_batch() -> dict[str, torch.Tensor]:
    targets = targets_of()
    labels = torch.full((B, T), -100)
    weights = torch.zeros(B, T)
    labels[:, 0] = torch.tensor([0, 1, 1, 0])
    weights[:, 0] = (targets >= 0).sum(1).float()
    return {"targets": targets, "pair_targets": labels, "pair_weights": weights}


def test_masked_and_pair_is_the_mean_over_rows_weighed_by_their_hidden_tokens() -> None:
    output, batch = output_of(), pair_batch()
    found = masked_and_pair(output, batch)
    total = torch.zeros((), dtype=torch.float64)
    for row in range(B):
        hidden = int((batch["targets"][row] >= 0).sum())
        tokens = F.cross_entropy(logits_of(output)[row], batch["targets"][row])
        pair = F.cross_entropy(output.pair[row], batch["pair_targets"][row, 0])
        total = total + hidden * (tokens + pair)
    torch.testing.assert_close(found.sum, total, rtol=1e-6, atol=1e-6)
    assert found.count.item() == (batch["targets"] >= 0).sum().item()
    right, rows = found.parts["pair_accuracy"]
    assert (right / rows).item() == (output.pair.argmax(-1) == batch["pair_targets"][:, 0]).float().mean().item()
    (grad,) = torch.autograd.grad(found.sum, output.pair)
    (plain,) = torch.autograd.grad(total, output.pair)
    torch.testing.assert_close(grad, plain, rtol=1e-6, atol=1e-6)


def test_parts_of_a_step_add_up_to_the_whole() -> None:
    """One batch or four of one row: the same sum, count and parts."""
    output, batch = output_of(), pair_batch()
    whole = masked_and_pair(output, batch)
    rows = []
    for i in range(B):
        mine = SimpleNamespace(
            hidden=output.hidden[i : i + 1], weight=output.weight, bias=output.bias, pair=output.pair[i : i + 1]
        )
        rows.append(masked_and_pair(mine, {name: column[i : i + 1] for name, column in batch.items()}))
    torch.testing.assert_close(sum(r.sum for r in rows), whole.sum)
    torch.testing.assert_close(sum(r.count for r in rows), whole.count)
    for name, (total, count) in whole.parts.items():
        torch.testing.assert_close(sum(r.parts[name][0] for r in rows), total)
        torch.testing.assert_close(sum(r.parts[name][1] for r in rows), count)


def test_samples_follow_the_distribution() -> None:
    """With evenly spread numbers every token comes up as often as its probability says."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(E, generator=generator), torch.randn(V, E, generator=generator)
    many = 20_000
    output = SimpleNamespace(hidden=hidden.expand(1, many, E), weight=weight, bias=None)
    draws = ((torch.arange(many) + 0.5) / many)[None]
    tokens = sampled(output, torch.zeros(1, many, dtype=torch.int64), draws)
    shares = torch.bincount(tokens[0], minlength=V) / many
    torch.testing.assert_close(shares, (weight @ hidden).softmax(0), atol=2e-4, rtol=0)


def detecting(output: SimpleNamespace, table: torch.Tensor) -> SimpleNamespace:
    """A discriminator that judges each token by itself: logits table[id]."""
    return SimpleNamespace(generated=output, detect=lambda ids: table[ids])


def detection_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    targets = targets_of()
    documents = torch.ones(B, T, dtype=torch.int32)
    documents[1, 8:] = 0
    targets[1, 8:] = -100
    ids = torch.where(targets >= 0, V - 1, torch.randint(0, V - 1, (B, T), generator=generator))
    return {"ids": ids, "targets": targets, "documents": documents, "draws": torch.rand(B, T, generator=generator)}


def test_replaced_tokens_against_the_plain_formula() -> None:
    output, batch = output_of(), detection_batch()
    table = torch.randn(V, 2, dtype=torch.float64).requires_grad_()
    found = replaced_tokens(detecting(output, table), batch)
    hidden = batch["targets"] >= 0
    guesses = sampled(output, batch["targets"], batch["draws"])
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for b in range(B):
        for t in range(T):
            if not batch["documents"][b, t]:
                continue
            tokens += 1
            shown = guesses[b, t] if hidden[b, t] else batch["ids"][b, t]
            label = int(hidden[b, t] and shown != batch["targets"][b, t])
            total = total - DETECTION * table[shown].log_softmax(0)[label]
            if hidden[b, t]:
                total = total - logits_of(output)[b, t].log_softmax(0)[batch["targets"][b, t]] / HIDDEN
    torch.testing.assert_close(found.sum, total, rtol=1e-5, atol=1e-5)
    assert found.count.item() == tokens
    leaves = (output.hidden, output.weight, output.bias, table)
    for mine, plain in zip(torch.autograd.grad(found.sum, leaves), torch.autograd.grad(total, leaves)):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)


def test_a_right_guess_counts_as_kept() -> None:
    output, batch = output_of(), detection_batch()
    batch["targets"] = torch.where(
        batch["targets"] >= 0, sampled(output, batch["targets"], batch["draws"]), batch["targets"]
    )
    found = replaced_tokens(detecting(output, torch.zeros(V, 2)), batch)
    assert found.parts["replaced"][0].item() == 0
    assert found.parts["detection_accuracy"][0] == found.parts["detection_accuracy"][1]
