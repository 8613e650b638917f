"""Proximal policy optimisation for language, in pure functions.

The reward of an answer is a score on its last real token and, on every token, a penalty for leaving the reference
policy (arXiv:1909.08593, 2009.01325, 2203.02155); advantages by generalised estimation (arXiv:1506.02438); the
clipped losses of PPO (arXiv:1707.06347), with the ptx term of InstructGPT as one more weighted sum in the same loss.
Left out: GRPO, an entropy bonus.

Shapes: N answers, T tokens of the longest answer (right-padded; a mask says which are real); B, T of packed batches.
Advantages, returns and values belong to the position that *predicts* a token.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.objectives.language import logprobs_and_entropy
from fledge.objectives.loss import ActingAndValued, Loss


def k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """KL(π‖reference) per token as its unbiased one-sample estimate log π - log ref, for tokens drawn from π."""
    return logprobs - reference


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """The same KL as (ref/π - 1) - log(ref/π): unbiased too, never negative, less variance (Schulman 2020)."""
    ratio = reference - logprobs
    return torch.expm1(ratio) - ratio


def best_of_n_kl(n: int) -> float:
    """KL(best of n answers ‖ the policy that gave them) in nats: log n - (n - 1)/n (arXiv:2009.01325, app. G.3).

    Exact where no two answers are alike, an upper bound otherwise (arXiv:2401.01879).
    """
    return math.log(n) - (n - 1) / n


def shaped_rewards(
    scores: Tensor,
    kl: Tensor,
    mask: Tensor,
    ended: Tensor,
    *,
    kl_coefficient: float,
    missing_eos_penalty: float = 0.0,
) -> Tensor:
    """Per-token rewards [N,T]: -kl_coefficient·kl on every real token, and the score on the last real one.

    scores [N]; kl [N,T]; mask [N,T] bool, every row with at least one real token; ended [N] bool, whether the answer
    stopped by itself: one that did not has `missing_eos_penalty` taken from its score.
    """
    rewards = torch.where(mask, -kl_coefficient * kl, torch.zeros_like(kl))
    last = mask.sum(1, keepdim=True) - 1
    score = scores - missing_eos_penalty * (~ended).to(scores.dtype)
    return rewards.scatter_add(1, last, score[:, None].to(rewards.dtype))


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns (advantage + value), both [N,T] and 0 on padding.

    rewards, values [N,T]; mask [N,T] bool, right-padded. After the last real token the value is 0.
    """
    rewards, values = rewards * mask, values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    deltas = rewards + gamma * following - values
    running, columns = torch.zeros_like(deltas[:, 0]), []
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * lam * running
        columns.append(running)
    advantage = torch.stack(columns[::-1], 1)
    return advantage, (advantage + values) * mask


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the real tokens; padding stays 0."""
    count = mask.sum()
    mean = (values * mask).sum() / count
    variance = ((values - mean).square() * mask).sum() / count
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values)/Var(returns) over the real tokens: 1 is a perfect critic, ≤ 0 a useless one."""
    target, error = returns[mask], (returns - values)[mask]
    return float(1 - error.var(correction=0) / target.var(correction=0).clamp(min=1e-12))


def ppo(
    output: ActingAndValued,
    batch: dict[str, Tensor],
    *,
    clip: float = 0.2,
    value_clip: float = 0.2,
    value_coefficient: float = 0.1,
) -> Loss:
    """Clipped policy loss + value_coefficient · clipped value loss, + the ptx term; the count is the answers' tokens.

    batch, all [B,T]: targets (the answer's or the pretraining text's next token, else -100); policy_mask bool (the
    target is an answer's token); old_logprobs, advantages, returns, old_values; ptx_weight, what a pretraining
    token's cross-entropy weighs *relative to one answer token* (coefficient · answer tokens / pretraining tokens of
    the step, folded in by whoever makes the batch), 0 elsewhere.
    Parts: policy_loss, value_loss, entropy, clip_fraction, value_clip_fraction, kl_old_k1, kl_old_k3 (how far this
    update has moved from the policy that answered), ptx_loss.
    """
    logprobs, entropy = logprobs_and_entropy(output.policy, batch["targets"])
    acted = batch["policy_mask"].flatten().nonzero()[:, 0]
    ptx_weight = batch["ptx_weight"]
    total = -(ptx_weight * logprobs).sum()

    new, old = logprobs.flatten()[acted], batch["old_logprobs"].flatten()[acted]
    advantage = batch["advantages"].flatten()[acted]
    ratio = (new - old).exp()
    policy_loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    total = total + policy_loss.sum()

    # The critic is asked only where there are answers: a micro-batch of pretraining text never runs it.
    value_loss = value_clipped = torch.zeros_like(new)
    if len(acted):
        returns, old_values = (batch[name].flatten()[acted] for name in ("returns", "old_values"))
        values = output.values.flatten()[acted].to(returns.dtype)
        near = old_values + (values - old_values).clamp(-value_clip, value_clip)
        plain, clipped = (values - returns).square(), (near - returns).square()
        value_loss, value_clipped = 0.5 * torch.maximum(plain, clipped), (clipped > plain).float()
        total = total + value_coefficient * value_loss.sum()

    count = torch.tensor(float(len(acted)), device=total.device)
    moved = new.detach()
    ptx = (ptx_weight > 0).to(logprobs.dtype)
    per_token = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy.flatten()[acted],
        "clip_fraction": ((ratio - 1).abs() > clip).float(),
        "value_clip_fraction": value_clipped,
        "kl_old_k1": k1(old, moved),
        "kl_old_k3": k3(old, moved),
    }
    parts = {name: (column.detach().sum(), count) for name, column in per_token.items()}
    return Loss(total, count, {**parts, "ptx_loss": (-(ptx * logprobs.detach()).sum(), ptx.sum())})


@dataclass
class AdaptiveKL:
    """The KL penalty's coefficient, steered towards a KL (arXiv:1909.08593, §2.2): β ← β·(1 + gain·e) with the
    relative error e = KL/target - 1 bounded to ±0.2. With target None the coefficient stays."""

    coefficient: float
    target: float | None = None
    gain: float = 0.1

    def update(self, kl: float) -> None:
        """One step of the controller; `kl` in the unit of `target` (nats per answer)."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + self.gain * error
