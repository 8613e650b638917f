"""What every training stage shares around `fit`: sizes in tokens, resume state, stop signals, progress, metrics.

The stage keeps its own cadence: it loops over `session.fit(...)` and evaluates or samples where it likes.
Resume is bit-identical on one process: weights, optimizer, schedule (a function of the step), data position, RNG.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from rich.markup import escape
from torch import nn

from fledge.checkpoint.resume import load_state, save_state
from fledge.core.config import Config
from fledge.core.device import autocast, pick_device, pick_dtype, rng_state, set_rng_state
from fledge.core.errors import FledgeError, Stopped
from fledge.core.log import Log
from fledge.core.stop import listen_for_stop
from fledge.model.transformer import Stack
from fledge.objectives import Loss
from fledge.train.loop import Step, fit
from fledge.train.optimizers import OptimizerConfig
from fledge.train.optimizers import build as build_optimizer
from fledge.train.schedules import warmup_stable_decay

Batch = dict[str, torch.Tensor]
WORTH_COMPILING = 1e13  # FLOPs: about half a minute of training on two cores


class TrainConfig(Config):
    """What training stages have in common. Sizes are tokens; `tokens_per_microbatch` is what fits in memory, and
    `gradient_checkpointing` makes more of it fit, for a third more arithmetic (arXiv:1604.06174)."""

    length: int = Field(256, gt=1)
    tokens_per_step: int = Field(8192, gt=0)
    tokens_per_microbatch: int = Field(8192, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig()
    warmup: float = 0.02
    decay: float = 0.4
    clip: float = 1.0
    save_seconds: float = 60.0
    log_every: int = 5
    device: str = "auto"
    dtype: str = "auto"
    compile: Literal["auto", "always", "never"] = "auto"
    gradient_checkpointing: bool = False
    seed: int = 0

    @property
    def microbatches(self) -> int:
        return max(1, math.ceil(self.tokens_per_step / self.tokens_per_microbatch))

    @property
    def rows_per_microbatch(self) -> int:
        return max(1, self.tokens_per_step // (self.length * self.microbatches))


class Batches(Protocol):
    """A stream of steps, each a list of micro-batches, which knows where it is.

    between: whether it has a position now (rollouts have one only between iterations). one_shape: whether all
    micro-batches have the same shape.
    """

    @property
    def between(self) -> bool: ...
    @property
    def one_shape(self) -> bool: ...
    def __iter__(self) -> Iterator[list[Batch]]: ...
    def __next__(self) -> list[Batch]: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any], /) -> None: ...


class Rehearsed(Exception):
    """Raised instead of training where only preflight was asked for (`Log.rehearsal`)."""

    def __init__(self, session: "Session", loss: Callable[[Any, Batch], Loss]) -> None:
        self.session, self.loss = session, loss


class Session:
    """One training job: `start` is the step it goes on from, `fit` yields the steps that are left."""

    def __init__(
        self, config: TrainConfig, model: nn.Module, batches: Batches, steps: int, out: Path, log: Log, label: str
    ) -> None:
        self.config, self.model, self.batches, self.steps = config, model, batches, steps
        self.resume_directory, self.log, self.label = out / "resume", log, label
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.optimizer = build_optimizer(model, config.optimizer)
        for module in model.modules():
            if isinstance(module, Stack):
                module.checkpointing = config.gradient_checkpointing
        self.seconds = 0.0
        self.waited = 0.0
        self.tokens = 0
        self.watched: dict[str, float] = {}
        self.start = self.restore()
        self.saved_step = self.start

    def fit(self, loss: Callable[[Any, Batch], Loss]) -> Iterator[Step]:
        """Yields each finished step; saves on the way and when asked to stop (then raises Stopped)."""
        if self.log.rehearsal:
            raise Rehearsed(self, loss)
        config = self.config
        model = self.compiled()

        def schedule(step: int) -> float:
            return warmup_stable_decay(step, self.steps, config.warmup, config.decay)

        saved_at, told = time.monotonic(), False
        with listen_for_stop() as stop, self.log.progress(self.steps, self.label, self.start) as bar:
            stepping = fit(
                model, self.batches, loss, self.optimizer, schedule,
                steps=self.steps, start=self.start, clip=config.clip, dtype=self.dtype,
            )  # fmt: skip
            try:
                for step in stepping:
                    self.note(step, bar)
                    yield step
                    due = time.monotonic() - saved_at > config.save_seconds
                    if (due or stop.requested) and self.batches.between:
                        self.save(step.number + 1)
                        saved_at = time.monotonic()
                    if stop.requested and not self.batches.between and not told:
                        self.log.say("[yellow]stopping where it can be gone on from; Ctrl-C again stops at once[/]")
                        told = True
                    if stop.requested and self.batches.between:
                        raise Stopped(
                            f"stopped after step {step.number + 1} of {self.steps}; saved up to step {self.saved_step}",
                            "run the same command again to go on from there",
                        )
            except Stopped:
                raise
            except FledgeError as error:
                last = f"the last good state is step {self.saved_step} in {self.resume_directory}"
                where = last if self.saved_step else "nothing had been saved before"
                raise FledgeError(f"{error.message}; {where}", error.remedy) from error

    def compiled(self) -> nn.Module:
        """The model, compiled where that pays: batches of one shape, a compiler at hand, and long enough a job.

        A resumed job decides as the first attempt did, however little is left: compiled code has other last bits.
        """
        flops = self.steps * self.config.tokens_per_step * 6 * sum(p.numel() for p in self.model.parameters())
        able = self.device.type == "cuda" or shutil.which("g++") is not None
        pays = able and self.batches.one_shape and flops > WORTH_COMPILING
        if self.config.compile == "never" or (self.config.compile == "auto" and not pays):
            return self.model
        self.log.say("[dim]compiling the model: the first step takes about half a minute[/]")
        compiled: nn.Module = torch.compile(self.model, dynamic=False)  # type: ignore[assignment]
        return compiled

    def note(self, step: Step, bar: Any) -> None:
        """Progress bar and metrics.jsonl."""
        self.seconds += step.seconds
        self.waited += step.waited
        self.tokens += step.tokens
        rate = step.tokens / max(step.seconds, 1e-9)
        bar.update(1, loss=step.loss, tokens_per_second=rate, **self.watched)
        if step.every(self.config.log_every) or step.number + 1 == self.steps:
            self.log.metrics(
                step.number + 1,
                loss=step.loss,
                grad_norm=step.grad_norm,
                learning_rate=step.learning_rate,
                tokens_per_second=rate,
                tokens=self.tokens,
                **step.parts,
            )

    def save(self, step: int) -> None:
        """Everything that the next attempt needs to go on to the same bits."""
        state = {
            "step": step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state(),
            "rng": rng_state(),
            "figures": {"seconds": self.seconds, "waited": self.waited, "tokens": self.tokens, "watched": self.watched},
        }
        save_state(self.resume_directory, state, step)
        self.saved_step = step

    def restore(self) -> int:
        """Loads the resume state, if there is one, and returns its step."""
        state = load_state(self.resume_directory, lambda text: self.log.say(f"[yellow]{escape(text)}[/]"))
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state(state["batches"])
        set_rng_state(state["rng"])
        figures = state["figures"]
        self.seconds, self.waited, self.tokens = figures["seconds"], figures["waited"], figures["tokens"]
        self.watched = figures["watched"]
        self.log.rewind(state["step"])
        step: int = state["step"]
        self.log.say(f"going on from step {step:,} of {self.steps:,}")
        return step

    def summary(self) -> dict[str, Any]:
        """Speed figures of the whole job, interruptions aside."""
        seconds = max(self.seconds, 1e-9)
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens / seconds,
            "data_wait_share": self.waited / seconds,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "seed": self.config.seed,
        }

    def autocast(self) -> Any:
        """The precision of this session, for evaluation on the way."""
        return autocast(self.device, self.dtype)
