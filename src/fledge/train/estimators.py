"""How good each token of an answer was: by a critic (PPO), or beside the other answers to the same prompt (GRPO).

PPO (arXiv:1707.06347) adds the KL penalty to the reward and asks a critic what was to be expected: generalised
advantages (arXiv:1506.02438). GRPO (arXiv:2402.03300) has no critic: an answer is worth what its score is above the
mean of its group, in the group's standard deviations, on all of its tokens; the KL is a term of the loss.

Shapes: N answers, T tokens of the longest one; B, L of packed rows.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from fledge.objectives.policy import advantages, explained_variance, group_advantages, shaped_rewards, whiten
from fledge.train.rollouts import Answered, RolloutConfig


class CriticConfig(RolloutConfig):
    """`critic_warmup`: the first so many iterations train the critic alone, since the advantages of a critic that does
    not know the returns yet are noise (arXiv:2504.05118 §4.1)."""

    gamma: float = 1.0
    lam: float = 0.95
    critic_warmup: int = 0


class Critic:
    """PPO's estimates. The output of the model has `.values` [B,L]."""

    def __init__(self, config: CriticConfig) -> None:
        self.config, self.warmup = config, config.critic_warmup

    def note(self, output: Any) -> dict[str, Tensor]:
        """The critic's values."""
        return {"values": output.values}

    def estimate(self, found: Answered) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The columns that `ppo` reads; how much of the returns the critic explains."""
        logprobs, values = found.tables["logprobs"], found.tables["values"]
        rewards = shaped_rewards(found.scores, found.tables["kl"], found.mask, found.kl_coefficient)
        advantage, returns = advantages(rewards, values, found.mask, gamma=self.config.gamma, lam=self.config.lam)
        columns = {
            "old_logprobs": logprobs,
            "advantages": whiten(advantage, found.mask),
            "returns": returns,
            "old_values": values,
        }
        return columns, {"explained_variance": explained_variance(values, returns, found.mask)}


class GroupConfig(RolloutConfig):
    """`group` answers to each prompt. `scaled`: advantages in standard deviations of their group, which weighs prompts
    on which answers hardly differ as much as others; without it as they are (arXiv:2503.20783)."""

    kl_coefficient: float = 0.04
    group: int = Field(8, ge=2)
    scaled: bool = True


class Group:
    """GRPO's estimates."""

    warmup = 0

    def __init__(self, config: GroupConfig) -> None:
        self.config = config

    def note(self, output: Any) -> dict[str, Tensor]:
        """Nothing: there is no critic."""
        return {}

    def estimate(self, found: Answered) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The columns that `grpo` reads; the share of groups that teach nothing, all their answers being worth the
        same."""
        advantage = group_advantages(found.scores, self.config.group, self.config.scaled)
        groups = found.scores.view(-1, self.config.group)
        columns = {
            "old_logprobs": found.tables["logprobs"],
            "reference_logprobs": found.tables["reference"],
            "advantages": advantage[:, None] * found.mask,
            "kl_weight": torch.full(found.mask.shape, found.kl_coefficient),
        }
        return columns, {"groups_without_signal": float((groups == groups[:, :1]).all(1).float().mean())}
