"""Objectives: pure functions from a model's output and a batch to `Loss(sum, count, parts)`."""

from fledge.objectives.language import bits_per_byte, next_token, token_entropy, token_logprobs
from fledge.objectives.loss import Loss
from fledge.objectives.policy import ppo
from fledge.objectives.preference import ranking

__all__ = ["Loss", "bits_per_byte", "next_token", "ppo", "ranking", "token_entropy", "token_logprobs"]
