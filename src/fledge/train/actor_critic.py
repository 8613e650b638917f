"""An actor and a critic as one model, so that PPO goes through the same loop as everything else.

Two separate networks, as in InstructGPT (arXiv:2203.02155): the policy begins as the SFT model, the critic as the
reward model. They share nothing. The mean of the policies of an alignment run forgets less than the last one and is
aligned as well (arXiv:2309.06256, 2406.16768): `average` keeps it (uniformly, arXiv:1803.05407).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fledge.objectives.loss import Projectable


class ActorCritic(nn.Module):
    """A language model `policy` and a scalar model `critic`, both called as `Transformer.forward` says; None where
    nobody asks for values.

    averaged: `.average` holds the mean of the policies at the calls of `.average.update_parameters(policy)`; it is part
    of the state, so that a resumed run goes on with it, and is not trained.
    """

    def __init__(self, policy: nn.Module, critic: nn.Module | None, averaged: bool = False) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic
        self.average = AveragedModel(policy).requires_grad_(False) if averaged else None

    @property
    def chosen(self) -> Any:
        """The policy to keep: the mean, once there is one."""
        return self.average.module if self.average is not None and self.average.n_averaged else self.policy

    def forward(self, *args: Tensor, **columns: Tensor) -> "ActorCriticOutput":
        """ids, positions, documents … [B,T] → `.policy` (hidden [B,T,E], weight [V,E]) and `.values` [B,T]."""

        def judged() -> Any:
            assert self.critic is not None, "there is no critic to ask"
            return self.critic(*args, **columns)

        return ActorCriticOutput(self.policy(*args, **columns), judged)


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
