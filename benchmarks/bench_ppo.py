"""Alignment steps: PPO and GRPO of fledge against GRPO of TRL, and an SFT step against that of TRL's SFTTrainer.

TRL has no PPO any more. Its GRPO step has the same shape: sample completions, their log-probs under a reference model,
rewards, one update. fledge does more in it: PPO evaluates and trains a critic too, the engine returns log-probs, and
the trainer's are compared with them. Both get their reward from the same function of the completion's ids; one line
of fledge has a reward model instead. SFT: rows of 201 tokens, every token supervised, no packing.

TRL runs with its defaults (bfloat16 autocast) but without gradient checkpointing, which would only slow it down here,
and in float32. Each side's step is timed between the ends of two steps; TRL takes a few of them in each turn.
"""

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback, Trainer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from fledge.checkpoint.directory import load_model, save_model
from fledge.data.branches import Answers
from fledge.data.packing import Example
from fledge.data.stream import Stream
from fledge.evaluate.scoring import score_groups
from fledge.generate.engine import Completion, Engine, Request
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel
from fledge.objectives.language import next_token
from fledge.objectives.policy import grpo, ppo
from fledge.text.tokenizer import Tokenizer
from fledge.train.actor_critic import ActorCritic
from fledge.train.estimators import Critic, CriticConfig, Group, GroupConfig
from fledge.train.loop import fit
from fledge.train.optimizers import OptimizerConfig, build
from fledge.train.rollouts import Rollouts
from measure import Contender, arguments, fastest, interleaved, median, show, speedup, spread, warn_if_busy

RATE = 1e-6  # the models stay near where they began, so that every step is alike
GROUP = 8  # completions of one prompt in GRPO
PROMPT = 32
ROW = 201


def library_text() -> list[str]:
    """Some of the standard library's source."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))[:80]
    return [file.read_text(encoding="utf-8", errors="replace") for file in files]


def prompts_of(tokenizer: Tokenizer, texts: Sequence[str], count: int) -> list[str]:
    """Texts that are PROMPT tokens long."""
    pieces = (ids[start : start + PROMPT] for ids in tokenizer.encode_batch(texts) for start in range(0, 999, PROMPT))
    found = (tokenizer.decode(piece.tolist()) for piece in pieces if len(piece) == PROMPT)
    return [text for text in found if len(tokenizer.encode(text)) == PROMPT][:count]


def variety(ids: Sequence[int]) -> float:
    """The reward: the share of distinct tokens."""
    return len(set(ids)) / len(ids)


class Ends(TrainerCallback):
    """When each step of a Trainer ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by Trainer."""
        self.times.append(time.perf_counter())


def steps_of(trainer: Trainer) -> Contender:
    """Trains for `max_steps` and returns the median seconds of its steps but the first, which pays for the start."""
    ends = Ends()
    trainer.add_callback(ends)
    trainer.remove_callback(PrinterCallback)

    def run() -> float:
        ends.times.clear()
        trainer.train()
        return median(np.diff(ends.times).tolist())

    return run


def options(directory: str, rows: int, dtype: torch.dtype) -> dict[str, Any]:
    """What both trainers of TRL are told."""
    return {
        "output_dir": directory, "per_device_train_batch_size": rows, "max_steps": 4, "learning_rate": RATE,
        "bf16": dtype == torch.bfloat16, "gradient_checkpointing": False, "use_cpu": True,
        "report_to": "none", "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def trl_grpo(model: Path, prompts: list[str], answers: int, new: int, dtype: torch.dtype) -> Contender:
    """A GRPO step: as many prompts as make `answers` completions in groups, KL to a reference model."""
    settings = GRPOConfig(
        **options(str(model / "out"), answers, dtype), num_generations=GROUP, max_completion_length=new, beta=0.05
    )

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [variety(ids) for ids in completion_ids]

    data = Dataset.from_dict({"prompt": prompts})
    tokenizer = AutoTokenizer.from_pretrained(model)
    return steps_of(GRPOTrainer(str(model), reward, settings, train_dataset=data, processing_class=tokenizer))


def trl_sft(model: Path, rows: list[list[int]], batch: int, dtype: torch.dtype) -> Contender:
    """An SFT step on rows that are tokenised beforehand."""
    settings = SFTConfig(**options(str(model / "out"), batch, dtype))
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    tokenizer = AutoTokenizer.from_pretrained(model)
    return steps_of(SFTTrainer(str(model), settings, train_dataset=data, processing_class=tokenizer))


def fledge_step(
    model: Path, prompts: list[str], answers: int, new: int, dtype: torch.dtype, *, critic: bool, reward_model: bool
) -> Contender:
    """A step of PPO, or of GRPO if there is no critic: one iteration with one epoch of one minibatch, through `fit`."""
    tokenizer = Tokenizer.load(model)
    policy, reference, values, scorer = (load_model(model, head=head) for head in (None, None, "scalar", "scalar"))
    assert isinstance(policy, LanguageModel)
    engine = Engine(policy, tokenizer, max_batch=answers, dtype=dtype)  # as the stage does

    def sample(asked: list[list[int]], iteration: int) -> list[Completion]:
        first = iteration * answers
        return engine.run(
            [Request(ids, new, seed=first + i, stop_ids=(tokenizer.eos_id,)) for i, ids in enumerate(asked)]
        )

    def score(groups: list[Answers]) -> torch.Tensor:
        if reward_model:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                return score_groups(scorer, groups, PROMPT + new)
        return torch.tensor([variety(ids[PROMPT:]) for group in groups for ids in group.ids])

    both = ActorCritic(policy, values if critic else None)
    shape = {"answers_per_iteration": answers, "epochs": 1, "minibatches": 1}
    estimator = Critic(CriticConfig(**shape)) if critic else Group(GroupConfig(**shape, group=GROUP))
    rollouts = Rollouts(
        both, reference, [tokenizer.encode(prompt) for prompt in prompts], sample, score, estimator,
        length=PROMPT + new, rows_per_microbatch=answers, dtype=dtype,
    )  # fmt: skip
    optimizer = build(both, OptimizerConfig(name="adamw", learning_rate=RATE, weight_decay=0.0))
    steps = fit(both, rollouts, ppo if critic else grpo, optimizer, steps=10**9, dtype=dtype)
    return lambda: next(steps)


def fledge_sft(model: Path, rows: list[list[int]], batch: int, dtype: torch.dtype, compiled: bool) -> Contender:
    """An SFT step through `fit` on whole rows."""
    policy = load_model(model)
    examples = [Example(np.array(ids, dtype=np.int32), np.ones(len(ids), dtype=bool)) for ids in rows]
    stream = Stream({"rows": examples}, {"rows": 1.0}, len(rows[0]), batch, 1, 0, split=False)
    optimizer = build(policy, OptimizerConfig(name="adamw", learning_rate=RATE, weight_decay=0.0))
    runs = torch.compile(policy, dynamic=False) if compiled else policy
    steps = fit(runs, stream, next_token, optimizer, steps=10**9, dtype=dtype)
    return lambda: next(steps)


def main() -> None:
    """Both comparisons, in both precisions."""
    quick, rounds = arguments(__doc__, rounds=7)
    warn_if_busy()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    answers, new, batch = (8, 4, 2) if quick else (32, 64, 16)
    torch.manual_seed(0)
    texts = library_text()
    tokenizer = Tokenizer.train(texts, 512 if quick else 4096)
    prompts = prompts_of(tokenizer, texts, 64)
    ids = np.concatenate(tokenizer.encode_batch(texts))
    rows = ids[: len(ids) // ROW * ROW].reshape(-1, ROW)[:256].tolist()
    shape = ModelConfig.sized(1 if quick else 4, tokenizer.vocab_size, 512)

    with TemporaryDirectory() as directory:
        model = Path(directory)
        save_model(LanguageModel(shape), model, tokenizer=tokenizer)
        aligning: dict[str, Contender] = {}
        tuning: dict[str, Contender] = {}
        for dtype in (torch.bfloat16, torch.float32):
            name = str(dtype).removeprefix("torch.")
            aligning[f"TRL GRPO, {name}"] = trl_grpo(model, prompts, answers, new, dtype)
            for what, critic, reward_model in (("GRPO", False, False), ("PPO", True, False), ("PPO", True, True)):
                label = f"fledge {what}, {name}" + ", reward model" * reward_model
                aligning[label] = fledge_step(
                    model, prompts, answers, new, dtype, critic=critic, reward_model=reward_model
                )
            tuning[f"TRL SFT, {name}"] = trl_sft(model, rows, batch, dtype)
            tuning[f"fledge SFT, {name}"] = fledge_sft(model, rows, batch, dtype, compiled=False)
            tuning[f"fledge SFT, {name}, compiled"] = fledge_sft(model, rows, batch, dtype, compiled=True)
        lines = []
        for step, runs in (
            (f"{answers} × ({PROMPT} + {new}) tokens", aligning),
            (f"{batch} × {ROW} tokens", tuning),
        ):
            seconds = interleaved(runs, rounds)
            best = seconds[fastest(seconds, "TRL")]
            lines += [
                (
                    step,
                    what,
                    f"{median(seconds[what]) * 1000:,.0f}",
                    f"{1 / speedup(seconds[what], best):.0%}",
                    spread(seconds[what]),
                )
                for what in runs
            ]
    columns = ("step", "what", "ms", "of best TRL", "spread")
    show(f"Aligning, {shape.layers} layers of {shape.width}, median of {rounds} rounds", columns, lines)


if __name__ == "__main__":
    main()
