"""What every objective returns: a sum and a count, so that the loop can divide by the count of the whole step."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Loss(NamedTuple):
    """A loss before the division.

    sum: scalar with gradient, summed over what is counted. count: scalar, no gradient.
    parts: name → detached (sum, count), for logs only; every micro-batch of a step names the same parts.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    parts: dict[str, tuple[Tensor, Tensor]] = {}


class Projectable(Protocol):
    """A model's output before the projection to the vocabulary: hidden [B,T,E] and weight [V,E]."""

    @property
    def hidden(self) -> Tensor: ...

    @property
    def weight(self) -> Tensor: ...


class Valued(Protocol):
    """The output of a model with a scalar head: values [B,T]."""

    @property
    def values(self) -> Tensor: ...


class ActingAndValued(Valued, Protocol):
    """The output of an actor-critic: the policy's output beside the critic's values [B,T]."""

    @property
    def policy(self) -> Projectable: ...
