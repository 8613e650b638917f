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

from fledge.checkpoint.resume import load_state, save_state, saved
from fledge.core.config import Config
from fledge.core.device import autocast, memory_is_running_out, pick_device, pick_dtype, rng_state, set_rng_state
from fledge.core.errors import FledgeError, Stopped
from fledge.core.files import read_jsonl, write_jsonl
from fledge.core.log import Log
from fledge.core.stop import Stop, listen_for_stop
from fledge.model.transformer import set_checkpointing
from fledge.objectives import Loss
from fledge.stages.best import Best
from fledge.train.loop import Diverged, LossWatch, SpikeConfig, Step, fit
from fledge.train.optimizers import OptimizerConfig
from fledge.train.optimizers import build as build_optimizer
from fledge.train.schedules import warmup_stable_decay

Batch = dict[str, torch.Tensor]
MEMORY_REMEDY = "free memory, or lower tokens_per_microbatch; then run the same command again to go on from there"
WORTH_COMPILING = 5e13  # FLOPs: about three minutes of training on two cores


class TrainConfig(Config):
    """What training stages have in common. Sizes are tokens; `tokens_per_microbatch` is what fits in memory.

    `gradient_checkpointing` makes more fit, for a third more arithmetic (arXiv:1604.06174). `rollbacks`: how often
    training may go back to before a loss that is no number or a spike, and leave the offending steps out (they are
    written to skipped.jsonl), before it gives up.
    """

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
    rollbacks: int = Field(2, ge=0)
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
        self.out, self.resume_directory, self.log, self.label = out, out / "resume", log, label
        self.device = pick_device(config.device)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.optimizer = build_optimizer(model, config.optimizer)
        set_checkpointing(model, config.gradient_checkpointing)
        self.seconds = 0.0
        self.waited = 0.0
        self.tokens = 0
        self.watched: dict[str, float] = {}
        self.record = out / "skipped.jsonl"
        self.skipped = [(row["first"], row["last"]) for row in read_jsonl(self.record)] if self.record.exists() else []
        self.watch = LossWatch(SpikeConfig())
        self.best = Best(self.resume_directory)
        self.kept: dict[str, Any] = {}
        self.start = self.restore()
        self.saved_step = self.start

    def fit(self, loss: Callable[[Any, Batch], Loss]) -> Iterator[Step]:
        """Yields each finished step; saves on the way and when asked to stop (then raises Stopped)."""
        if self.log.rehearsal:
            raise Rehearsed(self, loss)
        model = self.compiled()
        with listen_for_stop() as stop, self.log.progress(self.steps, self.label, self.start) as bar:
            while True:
                try:
                    yield from self.until_it_diverges(model, loss, stop, bar)
                    return
                except Diverged as error:
                    self.recover(error)
                except Stopped:
                    raise
                except FledgeError as error:
                    raise self.with_last_good_state(error) from error

    def until_it_diverges(
        self, model: nn.Module, loss: Callable[[Any, Batch], Loss], stop: Stop, bar: Any
    ) -> Iterator[Step]:
        """The steps from `start` on; the batches of those to be left out are drawn and dropped."""
        config = self.config

        def schedule(step: int) -> float:
            return warmup_stable_decay(step, self.steps, config.warmup, config.decay)

        saved_at, told = time.monotonic(), False
        for first, end in self.stretches():
            for step in fit(
                model, self.batches, loss, self.optimizer, schedule,
                steps=end, start=first, clip=config.clip, dtype=self.dtype, watch=self.watch,
            ):  # fmt: skip
                self.note(step, bar)
                yield step
                if not self.batches.between:
                    if stop.requested and not told:
                        self.log.say("[yellow]stopping where it can be gone on from; Ctrl-C again stops at once[/]")
                        told = True
                    continue
                full = memory_is_running_out()
                due = abs(time.monotonic() - saved_at) > config.save_seconds and not self.watch.high  # maybe a spike
                if stop.requested or full or due:
                    self.save(step.number + 1)
                    saved_at = time.monotonic()
                if full:
                    raise FledgeError(f"stopped after step {step.number + 1} of {self.steps}: {full}", MEMORY_REMEDY)
                if stop.requested:
                    raise Stopped(
                        f"stopped after step {step.number + 1} of {self.steps}; saved up to step {self.saved_step}",
                        "run the same command again to go on from there",
                    )

    def stretches(self) -> Iterator[tuple[int, int]]:
        """The ranges of steps to train, from `start` on."""
        start = self.start
        for first, last in sorted(self.skipped):
            if first >= start:
                yield start, first
                for _ in range(first, last + 1):
                    next(iter(self.batches), None)
                start = last + 1
        yield start, self.steps

    def recover(self, error: Diverged) -> None:
        """Notes the offending steps and goes back to before them; raises what happened once too often.

        A step that is no number has not touched the weights: it is simply left out. After a spike the newest state
        from before it is loaded.
        """
        touched = error.last > error.first
        if len(self.skipped) >= self.config.rollbacks or (touched and not self.saved_before(error.first)):
            raise self.with_last_good_state(error) from error
        known = read_jsonl(self.record) if self.record.exists() else []
        rows = [ids for batch in error.microbatches for ids in batch["ids"].tolist()]
        found = {"first": error.first, "last": error.last, "reason": error.message, "ids_of_last": rows}
        write_jsonl(self.record, [*known, found])
        self.skipped.append((error.first, error.last))
        self.optimizer.zero_grad()
        self.start = self.restore() if touched else error.last + 1
        steps = f"steps {error.first + 1} to {error.last + 1} are" if touched else f"step {error.first + 1} is"
        self.log.say(
            f"[yellow]{escape(error.message)}: {steps} left out and written to {self.record.name}; going on with step "
            f"{self.start + 1} (this may happen {self.config.rollbacks} times)[/]"
        )

    def saved_before(self, step: int) -> bool:
        """Whether a state exists that is no later than `step`."""
        return any(int(path.name.removeprefix("step-")) <= step for path in saved(self.resume_directory))

    def with_last_good_state(self, error: FledgeError) -> FledgeError:
        """The error, which also says where one can go on from."""
        last = f"the last good state is step {self.saved_step} in {self.resume_directory}"
        where = last if self.saved_step else "nothing had been saved before"
        return FledgeError(f"{error.message}; {where}", error.remedy)

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
            "watch": self.watch.state(),
            "skipped": self.skipped,
            "best": self.best.state(),
            "figures": {"seconds": self.seconds, "waited": self.waited, "tokens": self.tokens, "watched": self.watched},
        }
        save_state(self.resume_directory, state, step)
        self.best.after_saving()
        self.saved_step = step

    def keep_best(self, step: int, value: float, write: Callable[[Path], object]) -> None:
        """Takes in a held-out figure (the lower the better) after `step` steps; `write` puts the model of now into a
        directory. After the last step the best one is put into best/, unless the last is the best."""
        self.best.offer(step, value, write)
        if step < self.steps or self.best.step in (0, step):
            return
        wrong = self.best.settle(self.out, step)
        if wrong:
            self.log.say(f"[yellow]{escape(wrong)}: the best checkpoint is left out[/]")
            return
        self.kept = {"best": {"step": self.best.step, "value": self.best.value, "last": value}}
        self.log.say(
            f"the best held-out figure was {self.best.value:.4g} at step {self.best.step:,}, the last is {value:.4g}: "
            f"that model is kept in {self.label}/best"
        )

    def restore(self) -> int:
        """Loads the resume state, if there is one, and returns its step."""

        def sound(state: dict[str, Any]) -> bool:  # it has not trained on what is to be left out
            return all(skip in state["skipped"] for skip in self.skipped if skip[0] < state["step"])

        state = load_state(self.resume_directory, lambda text: self.log.say(f"[yellow]{escape(text)}[/]"), sound)
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state(state["batches"])
        set_rng_state(state["rng"])
        self.watch.load_state(state["watch"])
        self.best.load_state(state["best"])
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
            **self.kept,
            **({"skipped_steps": sum(last - first + 1 for first, last in self.skipped)} if self.skipped else {}),
        }

    def autocast(self) -> Any:
        """The precision of this session, for evaluation on the way."""
        return autocast(self.device, self.dtype)
