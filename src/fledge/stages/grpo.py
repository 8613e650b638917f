"""Reinforcement learning without a critic: GRPO (arXiv:2402.03300).

Each prompt is answered several times, and an answer is as good as its reward is above the mean of its group: little
more than half of PPO's memory and arithmetic, paid for with prompts. The KL to the SFT model is a term of the loss. All
else is as in `ppo`: the rewards, the pretraining text mixed in, rollouts on the very weights that are trained.
"""

from functools import partial
from pathlib import Path
from typing import Any

from fledge.core.log import Log
from fledge.objectives.policy import grpo as grpo_loss
from fledge.stages.reinforcing import ReinforceConfig, begin, learn, roll_out
from fledge.train.actor_critic import ActorCritic
from fledge.train.estimators import Group, GroupConfig


class GrpoConfig(ReinforceConfig):
    """`rollouts.group` answers to each prompt. The policy's ratio is clipped to 1 ± `clip_ratio`."""

    rollouts: GroupConfig = GroupConfig()


def grpo(config: GrpoConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes a Hugging Face directory of the policy, and samples.jsonl: answers as it learns."""
    found = begin(config, 1, log)
    model = ActorCritic(found.policy, None, averaged=config.average > 0)
    rollouts = roll_out(found, model, Group(config.rollouts), log)
    return learn(found, model, rollouts, partial(grpo_loss, clip=config.clip_ratio), out, log, "grpo")
