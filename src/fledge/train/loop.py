"""The one loop: a generator that knows nothing but a model, batches and a loss.

The caller owns the cadence: it evaluates, logs and saves between the steps that `fit` yields. The gradient of a step
is the sum of the micro-batches' `Loss.sum` divided by the global count, over all micro-batches and all processes, so
one batch, four uneven micro-batches and two processes give the same gradient. Compilation, gradient checkpointing,
LoRA and distribution are applied to the model beforehand.
Left out: prefetching (a stream's position after a step is exactly what has been trained on) and loss scaling
(float16 is not supported).
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fledge.core.config import Config
from fledge.core.device import autocast
from fledge.core.errors import FledgeError
from fledge.model.inputs import inputs
from fledge.objectives.loss import Loss, with_auxiliary

Batch = dict[str, Tensor]


class Optimizer(Protocol):
    """What the loop asks of an optimizer: any of torch's will do."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...
    def step(self) -> Any: ...
    def zero_grad(self) -> None: ...


class Diverged(FledgeError):
    """Training went wrong in the steps `first` to `last` (counted from 0), of which the last did not touch the
    weights; `microbatches` are what it was fed."""

    def __init__(self, message: str, remedy: str, first: int, last: int) -> None:
        super().__init__(message, remedy)
        self.first, self.last = first, last
        self.microbatches: Sequence[Batch] = ()


class SpikeConfig(Config):
    """When a loss counts as a spike: `patience` steps in a row above mean + `deviations`·std of the last `window`
    ordinary losses. One strange batch is no spike. `deviations` 0 switches the check off."""

    window: int = 64
    deviations: float = 6.0
    patience: int = 3


@dataclass(frozen=True)
class Step:
    """One finished optimizer step; `number` counts from 0.

    loss: mean over what was counted, in the loss's unit. grad_norm: before clipping. tokens: real (not padding) ones
    on this process. seconds: the whole step, of which `waited` for data. parts: the loss's parts, each sum/count,
    without those of which nothing was counted.
    """

    number: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float
    waited: float
    parts: dict[str, float]

    def every(self, n: int) -> bool:
        """Whether n, 2n, 3n … steps are done; never for n = 0."""
        return n > 0 and (self.number + 1) % n == 0

    @property
    def tokens_per_second(self) -> float:
        """Speed of this step on this process."""
        return self.tokens / max(self.seconds, 1e-9)


def fit(
    model: nn.Module,
    batches: Iterator[Sequence[Batch]],
    loss: Callable[[Any, Batch], Loss],
    optimizer: Optimizer,
    schedule: Callable[[int], float] = lambda step: 1.0,
    *,
    steps: int,
    start: int = 0,
    clip: float = 1.0,
    dtype: torch.dtype = torch.float32,
    watch: "LossWatch | None" = None,
) -> Iterator[Step]:
    """Trains from step `start` to `steps`, yielding each finished step; ends early when `batches` ends.

    batches: each item is the list of one step's micro-batches: the model's `inputs`, ids and documents [B,T] always,
    beside the columns that `loss(output, batch)` reads. schedule: step → multiplier of every parameter group's base
    learning rate. clip: bound on the global gradient norm, 0 for none. dtype: of autocast; float32 is none.
    watch: notices spikes; a new one by default.

    Raises Diverged, before the weights are touched, at a step whose loss or gradient is not finite or that has
    nothing to learn from, and at a loss spike. The weights in memory are then still those of the step before.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    watch = watch or LossWatch(SpikeConfig())
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    steps_of_batches = iter(batches)
    for number in range(start, steps):
        began = time.perf_counter()
        microbatches = next(steps_of_batches, None)
        if microbatches is None:
            return
        waited = time.perf_counter() - began
        if not model.training:
            model.train()

        totals = Totals(device)
        for batch in microbatches:
            totals.tokens += int(batch["documents"].count_nonzero())
            batch = {name: column.to(device, non_blocking=True) for name, column in batch.items()}
            with autocast(device, dtype):
                output = model(**inputs(batch))
                found = with_auxiliary(loss(output, batch), output)
            found.sum.backward()
            totals.add(found)
        grad_norm, value, parts = reduce_and_clip(parameters, totals, clip)
        try:
            check_finite(number, value, grad_norm)
            watch.check(number, value)
        except Diverged as error:
            error.microbatches = microbatches
            raise

        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule(number)
        optimizer.step()
        optimizer.zero_grad()
        rate = optimizer.param_groups[0]["lr"]
        seconds = time.perf_counter() - began
        yield Step(number, value, grad_norm, rate, totals.tokens, seconds, waited, parts)


class Totals:
    """Sums over the micro-batches of a step; they stay on the device until the step is read."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros(2, device=device)
        self.parts: dict[str, Tensor] = {}
        self.tokens = 0

    def add(self, found: Loss) -> None:
        """Takes in the loss of one micro-batch."""
        self.loss += torch.stack([found.sum.detach().float(), found.count.float()])
        for name, (total, count) in found.parts.items():
            pair = torch.stack([total.float(), count.float()])
            self.parts[name] = self.parts[name] + pair if name in self.parts else pair


def reduce_and_clip(
    parameters: Sequence[nn.Parameter], totals: Totals, clip: float
) -> tuple[float, float, dict[str, float]]:
    """Turns summed gradients into the clipped gradient of the global mean, in place.

    Returns the gradient norm before clipping, the mean loss and the parts. This is the step's only wait for the device.
    """
    sums = torch.stack([totals.loss, *totals.parts.values()])
    if dist.is_initialized():
        all_reduce_gradients(parameters)
        dist.all_reduce(sums)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True) / sums[0, 1]
    scale = 1 / sums[0, 1]
    if clip:
        scale = scale * (clip / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, scale)
    (loss, count), *parts, (grad_norm, _) = torch.cat([sums, torch.stack([norm, norm])[None]]).tolist()
    means = {name: total / n for name, (total, n) in zip(totals.parts, parts, strict=True) if n}
    return grad_norm, loss / count if count else math.nan, means


def all_reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sums the gradients over all processes, in one message per dtype; a process without a gradient adds zeros."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for dtype in sorted({p.dtype for p in parameters}, key=str):
        gradients = [p.grad for p in parameters if p.grad is not None and p.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        pieces = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])


def check_finite(number: int, loss: float, grad_norm: float) -> None:
    """Refuses a step whose numbers are not finite."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {grad_norm}"
    raise Diverged(
        f"training stopped at step {number + 1}: {what}",
        "lower optimizer.learning_rate; if it is the first step, check that the data has supervised tokens",
        number,
        number,
    )


class LossWatch:
    """Notices when the loss has left the range of the last steps for good."""

    def __init__(self, config: SpikeConfig) -> None:
        self.config = config
        self.ordinary: deque[float] = deque(maxlen=config.window)
        self.high = 0

    def state(self) -> dict[str, Any]:
        """What it has seen, for a resume state."""
        return {"ordinary": list(self.ordinary), "high": self.high}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.ordinary, self.high = deque(state["ordinary"], maxlen=self.config.window), state["high"]

    def check(self, number: int, loss: float) -> None:
        """Takes in the loss of a step; raises Diverged at the last step of a spike's patience."""
        full = len(self.ordinary) == self.config.window
        if not self.config.deviations or not full:
            self.ordinary.append(loss)
            return
        mean = sum(self.ordinary) / len(self.ordinary)
        std = math.sqrt(sum((x - mean) ** 2 for x in self.ordinary) / len(self.ordinary))
        bound = mean + self.config.deviations * max(std, 1e-3 * abs(mean))
        if loss <= bound:
            self.high = 0
            self.ordinary.append(loss)
            return
        self.high += 1
        if self.high >= self.config.patience:
            raise Diverged(
                f"training stopped at step {number + 1}: the loss spiked to {loss:.4g} (mean {mean:.4g}, bound "
                f"{bound:.4g}) and stayed there for {self.high} steps",
                "lower optimizer.learning_rate and go on from the last good checkpoint",
                number - self.high + 1,
                number,
            )
