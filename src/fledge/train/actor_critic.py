"""An actor and a critic as one model, so that PPO goes through the same loop as everything else.

Two separate networks, as in InstructGPT (arXiv:2203.02155): the policy begins as the SFT model, the critic as the
reward model. They share nothing.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fledge.objectives.loss import Projectable


class ActorCritic(nn.Module):
    """A language model `policy` and a scalar model `critic`, both called as model(ids, positions, documents)."""

    def __init__(self, policy: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None
    ) -> "ActorCriticOutput":
        """ids, positions, documents [B,T] → `.policy` (hidden [B,T,E], weight [V,E]) and `.values` [B,T]."""
        return ActorCriticOutput(self.policy(ids, positions, documents), lambda: self.critic(ids, positions, documents))


class ActorCriticOutput:
    """`.policy` is the policy's output. `.values` [B,T] runs the critic, when asked: pretraining text never does."""

    def __init__(self, policy: Projectable, critic: Callable[[], Any]) -> None:
        self.policy = policy
        self._critic = critic

    @property
    def values(self) -> Tensor:
        """V of the text up to and including each position."""
        values: Tensor = self._critic().values
        return values
