"""Reinforcement learning from the reward model: InstructGPT's step 3 (arXiv:2203.02155 §3.5, 1707.06347).

The policy starts as the SFT model, the critic as the reward model; both are trained. A KL penalty per token holds the
policy near the SFT model, whose log-probs are the reference; with `documents` the gradient of pretraining text is mixed
in (PPO-ptx). Rollouts use the engine on the very weights that are trained. The reward is the model's score minus its
mean on demonstrations, or a weighed sum of several models' (helpful and harmless: `stages/judging.py`).
"""

from functools import partial
from pathlib import Path
from typing import Any

from fledge.checkpoint.directory import load_model
from fledge.core.log import Log
from fledge.objectives.policy import ppo as ppo_loss
from fledge.stages.reinforcing import ReinforceConfig, begin, learn, roll_out
from fledge.train.actor_critic import ActorCritic
from fledge.train.estimators import Critic, CriticConfig


class PpoConfig(ReinforceConfig):
    """The critic starts as the heaviest of the rewards. Clipping: the policy's ratio to 1 ± `clip_ratio`, the critic's
    values to ± `value_clip` of what they were."""

    rollouts: CriticConfig = CriticConfig()
    value_clip: float = 2.0
    value_coefficient: float = 0.1


def ppo(config: PpoConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes a Hugging Face directory of the policy, and samples.jsonl: answers as it learns."""
    found = begin(config, 2, log)  # the policy and the critic
    critic = load_model(found.judges.heaviest, device=found.device)
    model = ActorCritic(found.policy, critic, averaged=config.average > 0)
    rollouts = roll_out(found, model, Critic(config.rollouts), log)
    loss = partial(
        ppo_loss, clip=config.clip_ratio, value_clip=config.value_clip, value_coefficient=config.value_coefficient
    )
    return learn(found, model, rollouts, loss, out, log, "ppo")
