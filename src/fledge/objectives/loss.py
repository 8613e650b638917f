"""What every objective returns: a sum and a count, so that the loop can divide by the count of the whole step."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Loss(NamedTuple):
    """A loss before the division.

    sum: scalar with gradient, summed over what is counted. count: scalar, no gradient.
    parts: name → detached (sum, count), for logs only; every micro-batch of a step names the same parts.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    parts: dict[str, tuple[Tensor, Tensor]] = {}


@runtime_checkable
class Auxiliary(Protocol):
    """An output that brings losses of its own: name → (coefficient, scalar with gradient)."""

    @property
    def auxiliary(self) -> dict[str, tuple[float, Tensor]]: ...


def with_auxiliary(found: Loss, output: Any) -> Loss:
    """`found` plus what the model's output adds to any loss, e.g. the balance of a mixture of experts.

    An auxiliary loss is a mean, so it is weighed by the count, and the loop's division gives it back as it is.
    """
    if not isinstance(output, Auxiliary) or not output.auxiliary:
        return found
    extra = [coefficient * value for coefficient, value in output.auxiliary.values()]
    parts = {name: (value.detach() * found.count, found.count) for name, (_, value) in output.auxiliary.items()}
    return Loss(found.sum + found.count * torch.stack(extra).sum(), found.count, found.parts | parts)


class Projectable(Protocol):
    """A model's output before the projection to the vocabulary: hidden [B,T,E] and weight [V,E]."""

    @property
    def hidden(self) -> Tensor: ...

    @property
    def weight(self) -> Tensor: ...


@runtime_checkable
class Biased(Protocol):
    """A projection with a bias [V]; None where there is none."""

    @property
    def bias(self) -> Tensor | None: ...


class Paired(Projectable, Protocol):
    """The output of a model that also says whether the second text of each row belongs to the first: logits [B,2]."""

    @property
    def pair(self) -> Tensor | None: ...


class Detecting(Protocol):
    """The output of a generator and a discriminator: what the one predicts, and the other as a function of ids [B,T] to
    logits [B,T,2] (kept, replaced)."""

    @property
    def generated(self) -> Projectable: ...

    def detect(self, ids: Tensor, /) -> Tensor: ...


class Valued(Protocol):
    """The output of a model with a scalar head: values [B,T]."""

    @property
    def values(self) -> Tensor: ...


class Acting(Protocol):
    """The output of a model that holds a policy: the policy's own."""

    @property
    def policy(self) -> Projectable: ...


class ActingAndValued(Acting, Valued, Protocol):
    """The output of an actor-critic: the policy's output beside the critic's values [B,T]."""
