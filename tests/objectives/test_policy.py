"""PPO's and GRPO's parts against loops, closed forms and a bandit whose best policy is known."""

import math
from types import SimpleNamespace

import pytest
import torch

from fledge.objectives.policy import (
    AdaptiveKL,
    advantages,
    best_of_n_kl,
    explained_variance,
    group_advantages,
    grpo,
    k1,
    k3,
    ppo,
    shaped_rewards,
    whiten,
)

N, T = 4, 6
LENGTHS = [6, 1, 3, 5]
MASK = torch.arange(T)[None] < torch.tensor(LENGTHS)[:, None]


def batch_of(targets: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, **columns: torch.Tensor) -> dict:
    zeros = torch.zeros_like(old)
    return {
        "targets": targets, "policy_mask": targets >= 0, "old_logprobs": old, "advantages": advantage,
        "returns": zeros, "old_values": zeros, "ptx_weight": zeros,
    } | columns  # fmt: skip


def output_of(logits: torch.Tensor, values: torch.Tensor | None = None) -> SimpleNamespace:
    """A policy with exactly these logits [B,T,V]: hidden = logits, weight = identity."""
    weight = torch.eye(logits.shape[-1], dtype=logits.dtype)
    values = torch.zeros(logits.shape[:2], dtype=logits.dtype) if values is None else values
    return SimpleNamespace(policy=SimpleNamespace(hidden=logits, weight=weight), values=values)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
def test_advantages_equal_the_sum_of_discounted_errors(gamma: float, lam: float) -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(N, T), torch.randn(N, T)
    found, returns = advantages(rewards, values, MASK, gamma=gamma, lam=lam)
    for n, length in enumerate(LENGTHS):
        v = [*values[n, :length].tolist(), 0.0]
        delta = [rewards[n, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length))
            assert found[n, t].item() == pytest.approx(expected, abs=1e-5)
            assert returns[n, t].item() == pytest.approx(expected + v[t], abs=1e-5)
    assert not found[~MASK].any()
    assert not returns[~MASK].any()


def test_with_lambda_one_returns_are_the_sum_of_rewards_to_come() -> None:
    torch.manual_seed(0)
    rewards = torch.randn(N, T)
    _, returns = advantages(rewards, torch.randn(N, T), MASK, gamma=1.0, lam=1.0)
    expected = (rewards * MASK).flip(1).cumsum(1).flip(1) * MASK
    torch.testing.assert_close(returns, expected)


def test_the_score_lands_on_the_last_real_token_and_never_on_padding() -> None:
    torch.manual_seed(0)
    scores, kl = torch.randn(N), torch.randn(N, T)
    found = shaped_rewards(scores, kl, MASK, 0.1)
    for n, length in enumerate(LENGTHS):
        for t in range(T):
            expected = -0.1 * kl[n, t].item() if t < length else 0.0
            if t == length - 1:
                expected += scores[n].item()
            assert found[n, t].item() == pytest.approx(expected, abs=1e-6)


def test_whitening_sees_only_real_tokens() -> None:
    torch.manual_seed(0)
    values = torch.randn(N, T) * 3 + 5
    found = whiten(values, MASK)
    torch.testing.assert_close(found[MASK].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[MASK].std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)
    values[~MASK] = 1e6
    torch.testing.assert_close(whiten(values, MASK), found)


def test_both_kl_estimators_are_unbiased_and_k3_is_never_negative() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(7).log_softmax(0), torch.randn(7).log_softmax(0)
    exact = (p.exp() * (p - q)).sum()
    torch.testing.assert_close((p.exp() * k1(p, q)).sum(), exact)
    torch.testing.assert_close((p.exp() * k3(p, q)).sum(), exact)
    assert (k3(p, q) >= 0).all()
    assert (k1(p, q) < 0).any()


def test_explained_variance() -> None:
    returns = torch.randn(N, T)
    assert explained_variance(returns, returns, MASK) == pytest.approx(1.0)
    assert explained_variance(torch.zeros(N, T), returns, MASK) == pytest.approx(0.0, abs=1e-5)
    assert explained_variance(-returns, returns, MASK) == pytest.approx(-3.0, abs=1e-4)


def test_at_the_old_policy_the_gradient_is_the_policy_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    targets, advantage = torch.randint(0, 7, (2, 5)), torch.randn(2, 5, dtype=torch.float64)
    logprobs = logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    found = ppo(output_of(logits), batch_of(targets, logprobs.detach(), advantage), value_coefficient=0.0)
    (mine,) = torch.autograd.grad(found.sum, logits)
    (plain,) = torch.autograd.grad(-(logprobs * advantage).sum(), logits)
    torch.testing.assert_close(mine, plain)


def test_losses_equal_loops_over_tokens() -> None:
    torch.manual_seed(0)
    logits, values = torch.randn(2, 5, 7), torch.randn(2, 5)
    targets = torch.randint(0, 7, (2, 5))
    targets[0, :2] = -100
    logprobs = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    old, advantage = logprobs + 0.4 * torch.randn(2, 5), torch.randn(2, 5)
    returns, old_values = torch.randn(2, 5), values + 0.5 * torch.randn(2, 5)
    ptx_weight, acting = torch.zeros(2, 5), targets >= 0
    acting[1, 3:], ptx_weight[1, 3:] = False, 0.3
    batch = batch_of(
        targets, old, advantage, policy_mask=acting, returns=returns, old_values=old_values, ptx_weight=ptx_weight
    )
    found = ppo(output_of(logits, values), batch, clip=0.2, value_clip=0.3, value_coefficient=0.5)

    total, clipped = 0.0, 0
    for b, t in acting.nonzero().tolist():
        ratio, a = (logprobs - old)[b, t].exp().item(), advantage[b, t].item()
        total += -min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
        v, r, o = values[b, t].item(), returns[b, t].item(), old_values[b, t].item()
        total += 0.5 * 0.5 * max((v - r) ** 2, (o + min(max(v - o, -0.3), 0.3) - r) ** 2)
        clipped += abs(ratio - 1) > 0.2
    total -= 0.3 * logprobs[1, 3:].sum().item()
    assert found.sum.item() == pytest.approx(total, rel=1e-5)
    assert found.count.item() == acting.sum().item()
    part = {name: (total / count).item() for name, (total, count) in found.parts.items()}
    assert part["clip_fraction"] == pytest.approx(clipped / acting.sum().item())
    assert part["ptx_loss"] == pytest.approx(-logprobs[1, 3:].mean().item(), rel=1e-5)
    assert part["kl_old_k1"] == pytest.approx((old - logprobs)[acting].mean().item(), rel=1e-4)
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)[acting].mean().item()
    assert part["entropy"] == pytest.approx(entropy, rel=1e-5)


def test_grpo_equals_loops_over_tokens() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 7)
    targets = torch.randint(0, 7, (2, 5))
    targets[0, :2] = -100
    logprobs = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    old, advantage = logprobs + 0.4 * torch.randn(2, 5), torch.randn(2, 5)
    reference, kl_weight = logprobs + torch.randn(2, 5), torch.full((2, 5), 0.7)
    ptx_weight, acting = torch.zeros(2, 5), targets >= 0
    acting[1, 3:], ptx_weight[1, 3:] = False, 0.3
    batch = batch_of(
        targets, old, advantage, policy_mask=acting, reference_logprobs=reference, kl_weight=kl_weight,
        ptx_weight=ptx_weight,
    )  # fmt: skip
    found = grpo(SimpleNamespace(policy=output_of(logits).policy), batch, clip=0.2)

    total, kl = 0.0, 0.0
    for b, t in acting.nonzero().tolist():
        ratio, a = (logprobs - old)[b, t].exp().item(), advantage[b, t].item()
        total += -min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
        log_ratio = (reference - logprobs)[b, t].item()
        kl += math.exp(log_ratio) - 1 - log_ratio
    total += 0.7 * kl - 0.3 * logprobs[1, 3:].sum().item()
    assert found.sum.item() == pytest.approx(total, rel=1e-5)
    assert found.count.item() == acting.sum().item()
    assert found.parts["kl_loss"][0].item() == pytest.approx(kl, rel=1e-5)


def test_a_group_is_measured_by_its_own_mean_and_spread() -> None:
    scores = torch.tensor([1.0, 3.0, 5.0, 2.0, 2.0, 2.0])
    scaled = group_advantages(scores, 3).tolist()
    assert scaled == pytest.approx([-1, 0, 1, 0, 0, 0], abs=1e-3)
    assert group_advantages(scores, 3, scaled=False).tolist() == pytest.approx([-2, 0, 2, 0, 0, 0])


def test_grpo_finds_the_best_arm_and_the_penalty_holds_it_back() -> None:
    """Exact groups over a bandit: without a penalty the best arm takes all, with one the policy stays between."""
    reward = torch.tensor([-1.0, 1.0, 1.5, 0.0])
    reference = torch.zeros(4).log_softmax(0)
    found = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        logits = torch.nn.Parameter(reference.clone())
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(150):
            with torch.no_grad():
                old = logits.log_softmax(0)
                arm = torch.multinomial(old.exp(), 256, replacement=True)[:, None]
                advantage = group_advantages(reward[arm[:, 0]], 8, scaled=False)[:, None]
            batch = batch_of(
                arm, old[arm], advantage, reference_logprobs=reference[arm], kl_weight=torch.full(arm.shape, weight)
            )
            loss = grpo(output_of(logits.expand(256, 1, 4)), batch)
            optimizer.zero_grad()
            (loss.sum / loss.count).backward()
            optimizer.step()
        found[weight] = logits.detach().softmax(0)
    assert found[0.0][2] > 0.95
    assert 0.3 < found[1.0][2] < 0.8
    assert found[1.0].argmax() == 2


def test_a_clipped_ratio_that_would_go_further_has_no_gradient() -> None:
    logits = torch.tensor([[[2.0, 0.0]]], requires_grad=True)
    targets, old = torch.tensor([[0]]), torch.tensor([[-1.0]])
    for advantage, moves in ((1.0, False), (-1.0, True)):
        found = ppo(output_of(logits), batch_of(targets, old, torch.tensor([[advantage]])), value_coefficient=0.0)
        (gradient,) = torch.autograd.grad(found.sum, logits)
        assert bool(gradient.any()) == moves


def test_pretraining_text_never_runs_the_critic() -> None:
    class Output:
        policy = SimpleNamespace(hidden=torch.randn(1, 3, 4, requires_grad=True), weight=torch.eye(4))

        @property
        def values(self) -> torch.Tensor:
            raise AssertionError("the critic was asked")

    targets, zeros = torch.tensor([[1, 2, -100]]), torch.zeros(1, 3)
    batch = batch_of(targets, zeros, zeros, policy_mask=zeros > 0, ptx_weight=(targets >= 0) * 2.0)
    found = ppo(Output(), batch)
    logprobs = Output.policy.hidden.log_softmax(-1)[0, [0, 1], [1, 2]]
    torch.testing.assert_close(found.sum, -2 * logprobs.sum())
    assert found.count.item() == 0


def test_a_bandit_reaches_the_known_optimum_of_reward_minus_kl() -> None:
    """max E[r] - β·KL(π‖π_ref) has the solution π* ∝ π_ref·exp(r/β); PPO's own parts must find it."""
    torch.manual_seed(0)
    arms, beta, pulls = 6, 0.7, 2048
    reference = torch.randn(arms).log_softmax(0)
    reward = torch.tensor([-1.0, 1.0, 1.5, 0.0, 0.5, 1.0])
    best = (reference + reward / beta).softmax(0)
    logits = torch.nn.Parameter(reference.clone())
    mask = torch.ones(pulls, 1, dtype=torch.bool)
    for iteration in range(200):
        optimizer = torch.optim.SGD([logits], lr=2.0 / (1 + iteration / 10))
        with torch.no_grad():
            old = logits.log_softmax(0)
            arm = torch.multinomial(old.exp(), pulls, replacement=True)[:, None]
            rewards = shaped_rewards(reward[arm[:, 0]], k1(old[arm], reference[arm]), mask, beta)
            value = rewards.mean().expand_as(rewards)
            advantage, _ = advantages(rewards, value, mask)
        for _ in range(4):
            found = ppo(
                output_of(logits.expand(pulls, 1, arms)), batch_of(arm, old[arm], advantage), value_coefficient=0.0
            )
            optimizer.zero_grad()
            (found.sum / found.count).backward()
            optimizer.step()
    found_policy = logits.detach().softmax(0)
    assert (reference.exp() - best).abs().max() > 0.2, "the reference must be far from the optimum"
    torch.testing.assert_close(found_policy, best, atol=0.02, rtol=0)


def test_adaptive_kl_follows_ziegler() -> None:
    controller = AdaptiveKL(0.1, target=6.0, gain=0.1)
    controller.update(6.6)
    assert controller.coefficient == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    controller.coefficient = 0.1
    controller.update(60.0)
    assert controller.coefficient == pytest.approx(0.1 * 1.02)
    controller.coefficient = 0.1
    controller.update(0.0)
    assert controller.coefficient == pytest.approx(0.1 * 0.98)
    fixed = AdaptiveKL(0.1)
    fixed.update(60.0)
    assert fixed.coefficient == 0.1


def test_best_of_n_kl_is_that_of_the_order_statistic() -> None:
    """The best of n uniform draws has density n·x^(n-1): its KL to the uniform one, by quadrature."""
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for n in (2, 5, 16):
        density = n * x ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx(float((density * density.log()).mean()), abs=1e-4)
    assert best_of_n_kl(1) == 0
