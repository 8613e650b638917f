"""Reinforcement learning from the reward model: InstructGPT's step 3 (arXiv:2203.02155 §3.5, 1707.06347).

The policy starts as the SFT model, the critic as the reward model; both are trained. A KL penalty per token holds the
policy near the SFT model, whose log-probs are the reference; with `documents` the gradient of pretraining text is mixed
in (PPO-ptx). Rollouts use the engine on the very weights that are trained. The reward is the model's score minus its
mean on demonstrations, or a weighed sum of several models' (helpful and harmless: `stages/judging.py`).
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from rich.markup import escape

from fledge.checkpoint.directory import load_model, read_config, save_model
from fledge.core.device import pick_device, pick_dtype
from fledge.core.files import read_jsonl, write_jsonl
from fledge.core.log import Log
from fledge.core.nouns import Message
from fledge.data.columns import checked, convert, prompt_of
from fledge.data.readers import read
from fledge.data.stream import Stream
from fledge.generate.engine import Completion, Engine, Request
from fledge.generate.sampling import Sampling
from fledge.objectives.policy import ppo as ppo_loss
from fledge.stages.examples import document_examples, read_documents
from fledge.stages.judging import Judges
from fledge.stages.preflight import (
    check_finite,
    check_length,
    check_memory,
    check_prompts,
    check_tokenizer,
    check_vocabulary,
)
from fledge.stages.pretrain import mixture
from fledge.stages.session import Session, TrainConfig
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer
from fledge.train.actor_critic import ActorCritic
from fledge.train.optimizers import OptimizerConfig
from fledge.train.rollouts import Iteration, RolloutConfig, Rollouts


class PpoConfig(TrainConfig):
    """`reward` is a reward model, or several by name, weighed by `reward_weights` (1 where none is given); the critic
    starts as the heaviest. `iterations` of rollouts; `ptx_tokens` of pretraining text per optimizer step, if there are
    `documents`, mixed by `weights` as in pretraining. What is written is the mean of the policies that answered in the
    last `average` of the iterations; at 0 it is the last policy."""

    policy: Path
    reward: Path | dict[str, Path]
    reward_weights: dict[str, float] = {}
    prompts: Path
    documents: Path | None = None
    weights: dict[str, float] = {}
    iterations: int = 20
    rollouts: RolloutConfig = RolloutConfig()
    max_new_tokens: int = 40
    drop_long: bool = False
    temperature: float = 1.0
    ptx_tokens: int = 1024
    clip_ratio: float = 0.2
    value_clip: float = 2.0
    value_coefficient: float = 0.1
    batch: int = 256
    sample_every: int = 5
    samples: int = 6
    average: float = Field(0.0, ge=0, le=1)
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", learning_rate=4e-5, weight_decay=0.0)
    warmup: float = 0.05
    decay: float = 0.5


def ppo(config: PpoConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes a Hugging Face directory of the policy, and samples.jsonl: answers as it learns."""
    torch.manual_seed(config.seed)
    device = pick_device(config.device)
    tokenizer = Tokenizer.load(config.policy)
    check_tokenizer(tokenizer)
    shape = read_config(config.policy)[0]
    check_length(config.length, shape)
    prompts = read_prompts(config.prompts, tokenizer, log)
    check_vocabulary(prompts, shape, "prompts")
    prompts = check_prompts(prompts, config.max_new_tokens, config.length, config.drop_long, log)
    copies = 7 + (len(config.reward) if isinstance(config.reward, dict) else 1)
    check_memory(shape, device, config.tokens_per_microbatch, config.length, copies=copies, log=log)
    policy, reference = (load_model(config.policy, device=device) for _ in range(2))
    judges = Judges(config.reward, config.reward_weights, config.length, device, log)
    critic = load_model(judges.heaviest, device=device)
    check_finite(policy, str(config.policy))
    model = ActorCritic(policy, critic, averaged=config.average > 0)

    engine = Engine(policy, tokenizer, max_batch=config.batch, dtype=pick_dtype(config.dtype, device))
    sampling = Sampling(temperature=config.temperature)

    def sample(asked: list[list[int]], iteration: int) -> list[Completion]:
        if model.average is not None and iteration >= (1 - config.average) * config.iterations:
            model.average.update_parameters(policy)
        first = (config.seed * 1_000 + iteration) * 100_000
        return engine.run(
            [
                Request(ids, config.max_new_tokens, sampling, seed=first + i, stop_ids=(tokenizer.eos_id,))
                for i, ids in enumerate(asked)
            ]
        )

    def score(sequences: list[list[int]]) -> torch.Tensor:
        with session.autocast():
            return judges(sequences)

    rollouts = Rollouts(
        model, reference, prompts, sample, score, config.rollouts,
        length=config.length, rows_per_microbatch=config.rows_per_microbatch,
        dtype=pick_dtype(config.dtype, device), seed=config.seed, ptx=pretraining(config, tokenizer, log),
    )  # fmt: skip
    loss = partial(
        ppo_loss, clip=config.clip_ratio, value_clip=config.value_clip, value_coefficient=config.value_coefficient
    )
    session = Session(config, model, rollouts, config.iterations * rollouts.steps_per_iteration, out, log, "ppo")
    rewind_samples(out, rollouts.index)
    mixed = config.rollouts.ptx_coefficient if rollouts.ptx else 0
    log.say(
        f"{len(prompts):,} prompts; {config.iterations} iterations of {config.rollouts.answers_per_iteration} answers, "
        f"{rollouts.steps_per_iteration} steps each; pretraining mix {mixed}"
    )
    told = -1
    for step in session.fit(loss):
        found = rollouts.iteration
        if found is None or found.index == told:
            continue
        told = found.index
        log.metrics(step.number + 1, iteration=found.index, **found.numbers, **judges.numbers())
        session.watched = {key: found.numbers[key] for key in ("reward", "kl", "length")}
        if found.index % config.sample_every == 0 or found.index + 1 == config.iterations:
            show_samples(found, tokenizer, config.samples, out, log)

    if rollouts.stopped:
        log.say(f"[yellow]stopped early: {rollouts.stopped}[/]")
    save_model(model.chosen, out, tokenizer=tokenizer)
    last = rollouts.iteration.numbers if rollouts.iteration else session.watched
    return {"iterations": rollouts.index, "stopped": rollouts.stopped, "last": last, **session.summary()}


def read_prompts(path: Path, tokenizer: Tokenizer, log: Log) -> list[list[int]]:
    """The prompts of any readable file as token ids; says what was left out and why."""
    rows = read(path)
    prompts, dropped = convert(rows.rows, as_prompt, "prompt, messages or instruction")
    for reason, count in [*rows.report.dropped.items(), *dropped.items()]:
        log.say(f"[yellow]{escape(f'{path.name}: left out {count:,} rows: {reason}')}[/]")
    return [render(tokenizer, prompt, add_generation_prompt=True).ids for prompt in prompts]


def as_prompt(row: dict[str, Any]) -> tuple[Message, ...]:
    """The messages that ask for an answer: a conversation that ends in an answer is taken up to it."""
    messages = prompt_of(row)
    if messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    checked((*messages, Message("assistant", "an answer")))
    return messages


def pretraining(config: PpoConfig, tokenizer: Tokenizer, log: Log) -> Stream | None:
    """The stream of the ptx rows: one micro-batch a step."""
    if config.documents is None or not config.rollouts.ptx_coefficient:
        return None
    texts = document_examples(read_documents(config.documents, log), tokenizer)
    rows = max(1, config.ptx_tokens // config.length)
    return Stream(texts, mixture(config.weights, texts), config.length, rows, 1, config.seed + 1, split=True)


def show_samples(found: Iteration, tokenizer: Tokenizer, count: int, out: Path, log: Log) -> None:
    """The first answers of an iteration, on the console and in samples.jsonl."""
    rows: list[dict[str, Any]] = [
        {
            "iteration": found.index,
            "prompt": tokenizer.decode(prompt, skip_special=False),
            "answer": tokenizer.decode(answer),
            "reward": score,
        }
        for prompt, answer, score in list(zip(found.prompts, found.answers, found.scores, strict=True))[:count]
    ]
    path = out / "samples.jsonl"
    write_jsonl(path, [*(read_jsonl(path) if path.is_file() else []), *rows])
    shown = [[row["reward"], escape(last_turn(row["prompt"])), escape(row["answer"])] for row in rows]
    log.table(f"answers of iteration {found.index + 1}", ["reward", "prompt", "answer"], shown)


def rewind_samples(out: Path, iteration: int) -> None:
    """Drops the samples of `iteration` and later ones: a resumed job will draw them again."""
    path = out / "samples.jsonl"
    if path.is_file():
        write_jsonl(path, [row for row in read_jsonl(path) if row["iteration"] < iteration])


def last_turn(prompt: str) -> str:
    """What the user said last, for the console."""
    return prompt.rsplit("<|im_start|>user", 1)[-1].split("<|im_end|>")[0].strip()
