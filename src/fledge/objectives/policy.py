"""Proximal policy optimisation for language, in pure functions.

The reward of an answer is a score on its last real token and, on every token, a penalty for leaving the reference
policy (arXiv:1909.08593, 2009.01325, 2203.02155); advantages by generalised estimation (arXiv:1506.02438); the
clipped losses of PPO (arXiv:1707.06347), with the ptx term of InstructGPT as one more weighted sum in the same loss.
GRPO (arXiv:2402.03300) compares the answers to one prompt instead of asking a critic. Left out: an entropy bonus.

Shapes: N answers, T tokens of the longest answer (right-padded; a mask says which are real); B, T of packed batches.
Advantages, returns and values belong to the position that *predicts* a token.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fledge.objectives.language import logprobs_and_entropy
from fledge.objectives.loss import Acting, ActingAndValued, Loss


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


def shaped_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Per-token rewards [N,T]: -kl_coefficient·kl on every real token, and the score on the last real one.

    scores [N]; kl [N,T]; mask [N,T] bool, every row with at least one real token.
    """
    rewards = torch.where(mask, -kl_coefficient * kl, torch.zeros_like(kl))
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def group_advantages(scores: Tensor, group: int, scaled: bool = True) -> Tensor:
    """What each of the scores [N] is above the mean of its group, [N]; `scaled`: in the group's standard deviations.

    Consecutive `group` scores are of one prompt. A group of equal scores gives zeros.
    """
    groups = scores.view(-1, group)
    above = groups - groups.mean(1, keepdim=True)
    return (above / (groups.std(1, keepdim=True) + 1e-4) if scaled else above).flatten()


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

    batch: what `acting` reads, and, all [B,T], returns and old_values.
    Parts: those of `acting`; value_loss, value_clip_fraction.
    """
    acted, policy = acting(output, batch, clip)
    # The critic is asked only where there are answers: a micro-batch of pretraining text never runs it.
    value_loss = value_clipped = torch.zeros_like(acted.logprobs)
    if len(acted.places):
        returns, old_values = acted.of(batch["returns"]), acted.of(batch["old_values"])
        values = acted.of(output.values).to(returns.dtype)
        near = old_values + (values - old_values).clamp(-value_clip, value_clip)
        plain, clipped = (values - returns).square(), (near - returns).square()
        value_loss, value_clipped = 0.5 * torch.maximum(plain, clipped), (clipped > plain).float()
    parts = summed(policy.count, value_loss=value_loss, value_clip_fraction=value_clipped)
    return Loss(policy.sum + value_coefficient * value_loss.sum(), policy.count, policy.parts | parts)


def grpo(output: Acting, batch: dict[str, Tensor], *, clip: float = 0.2) -> Loss:
    """Clipped policy loss + kl_weight · KL to the reference as `k3`, + the ptx term; the count is the answers' tokens,
    so that every token weighs the same (arXiv:2503.14476 §3.3) where the paper gives every answer the same.

    batch: what `acting` reads, and, both [B,T], reference_logprobs and kl_weight. Parts: those of `acting`; kl_loss.
    """
    acted, policy = acting(output, batch, clip)
    kl = k3(acted.logprobs, acted.of(batch["reference_logprobs"]))
    total = policy.sum + (acted.of(batch["kl_weight"]) * kl).sum()
    return Loss(total, policy.count, policy.parts | summed(policy.count, kl_loss=kl))


class Acted(NamedTuple):
    """Flat places in [B·T] that predict an answer's token, and the policy's log-probs there."""

    places: Tensor
    logprobs: Tensor

    def of(self, column: Tensor) -> Tensor:
        """A column [B,T] at these places."""
        return column.flatten()[self.places]


def summed(count: Tensor, **columns: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Numbers per token of an answer as parts of a loss."""
    return {name: (column.detach().sum(), count) for name, column in columns.items()}


def acting(output: Acting, batch: dict[str, Tensor], clip: float) -> tuple[Acted, Loss]:
    """The clipped policy loss and the ptx term, which PPO and GRPO share.

    batch, all [B,T]: targets (the answer's or the pretraining text's next token, else -100); policy_mask bool (the
    target is an answer's token); old_logprobs, advantages; ptx_weight, what a pretraining token's cross-entropy weighs
    *relative to one answer token* (coefficient · answer tokens / pretraining tokens of the step, folded in by whoever
    makes the batch), 0 elsewhere.
    Parts: policy_loss, entropy, clip_fraction, kl_old_k1, kl_old_k3 (how far this update has moved from the policy that
    answered), ptx_loss.
    """
    logprobs, entropy = logprobs_and_entropy(output.policy, batch["targets"])
    places = batch["policy_mask"].flatten().nonzero()[:, 0]
    acted = Acted(places, logprobs.flatten()[places])
    new, old, advantage = acted.logprobs, acted.of(batch["old_logprobs"]), acted.of(batch["advantages"])
    ratio = (new - old).exp()
    policy_loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    ptx_weight = batch["ptx_weight"]
    total = policy_loss.sum() - (ptx_weight * logprobs).sum()

    count = torch.tensor(float(len(places)), device=total.device)
    moved, ptx = new.detach(), (ptx_weight > 0).to(logprobs.dtype)
    parts = summed(
        count,
        policy_loss=policy_loss,
        entropy=acted.of(entropy),
        clip_fraction=((ratio - 1).abs() > clip).float(),
        kl_old_k1=k1(old, moved),
        kl_old_k3=k3(old, moved),
    )
    return acted, Loss(total, count, {**parts, "ptx_loss": (-(ptx * logprobs.detach()).sum(), ptx.sum())})


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
