"""Objectives: pure functions from a model's output and a batch to `Loss(sum, count, parts)`."""

from fledge.objectives.detection import replaced_tokens
from fledge.objectives.language import bits_per_byte, next_token, token_entropy, token_logprobs
from fledge.objectives.loss import Loss
from fledge.objectives.masked import masked_and_pair
from fledge.objectives.policy import grpo, ppo
from fledge.objectives.preference import ranking

__all__ = [
    "Loss",
    "bits_per_byte",
    "grpo",
    "masked_and_pair",
    "next_token",
    "ppo",
    "ranking",
    "replaced_tokens",
    "token_entropy",
    "token_logprobs",
]
