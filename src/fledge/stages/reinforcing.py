"""What PPO and GRPO share: the models and prompts they begin with, rollouts by the engine, what they say and keep."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from fledge.checkpoint.directory import load_model, read_config, save_model
from fledge.core.device import autocast, pick_device, pick_dtype
from fledge.core.log import Log
from fledge.data.branches import Answers
from fledge.data.stream import Stream
from fledge.generate.engine import Completion, Engine, Request
from fledge.generate.sampling import Sampling
from fledge.model.heads import LanguageModel
from fledge.objectives import Loss
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
from fledge.stages.prompts import read_prompts
from fledge.stages.samples import rewind_samples, show_samples
from fledge.stages.session import Session, TrainConfig
from fledge.text.tokenizer import Tokenizer
from fledge.train.actor_critic import ActorCritic
from fledge.train.optimizers import OptimizerConfig
from fledge.train.rollouts import Estimator, Rollouts


class ReinforceConfig(TrainConfig):
    """`reward` is a reward model, or several by name, weighed by `reward_weights` (1 where none is given).
    `iterations` of rollouts; `ptx_tokens` of pretraining text per optimizer step, if there are `documents`, mixed by
    `weights` as in pretraining. What is written is the mean of the policies that answered in the last `average` of the
    iterations; at 0 it is the last policy."""

    policy: Path
    reward: Path | dict[str, Path]
    reward_weights: dict[str, float] = {}
    prompts: Path
    documents: Path | None = None
    weights: dict[str, float] = {}
    iterations: int = 20
    max_new_tokens: int = 40
    drop_long: bool = False
    temperature: float = 1.0
    ptx_tokens: int = 1024
    clip_ratio: float = 0.2
    batch: int = 256
    sample_every: int = 5
    samples: int = 6
    average: float = Field(0.0, ge=0, le=1)
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", learning_rate=4e-5, weight_decay=0.0)
    warmup: float = 0.05
    decay: float = 0.5


@dataclass(frozen=True)
class Beginning:
    """What a run begins with, checked: prompts as token ids, the policy, the reference to stay near, the rewards."""

    config: ReinforceConfig
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype
    prompts: list[list[int]]
    policy: LanguageModel
    reference: LanguageModel
    judges: Judges


def begin(config: ReinforceConfig, trained: int, log: Log) -> Beginning:
    """Reads and checks. `trained`: how many models of the policy's size are trained."""
    torch.manual_seed(config.seed)
    device = pick_device(config.device)
    tokenizer = Tokenizer.load(config.policy)
    check_tokenizer(tokenizer)
    shape = read_config(config.policy)[0]
    check_length(config.length, shape)
    prompts = read_prompts(config.prompts, tokenizer, log)
    check_vocabulary(prompts, shape, "prompts")
    prompts = check_prompts(prompts, config.max_new_tokens, config.length, config.drop_long, log)
    frozen = 1 + (len(config.reward) if isinstance(config.reward, dict) else 1) + (config.average > 0)
    check_memory(shape, config, log, models=trained, copies=frozen)
    policy, reference = (load_model(config.policy, device=device) for _ in range(2))
    judges = Judges(config.reward, config.reward_weights, config.length, device, log)
    check_finite(policy, str(config.policy))
    dtype = pick_dtype(config.dtype, device)
    return Beginning(config, tokenizer, device, dtype, prompts, policy, reference, judges)


def roll_out(found: Beginning, model: ActorCritic, estimator: Estimator, log: Log) -> Rollouts:
    """The batches: answers by the engine on the very weights that are trained."""
    config, tokenizer = found.config, found.tokenizer
    engine = Engine(found.policy, tokenizer, max_batch=config.batch, dtype=found.dtype)
    sampling = Sampling(temperature=config.temperature)

    def sample(asked: list[list[int]], iteration: int) -> list[Completion]:
        if model.average is not None and iteration >= (1 - config.average) * config.iterations:
            model.average.update_parameters(found.policy)
        first = (config.seed * 1_000 + iteration) * 100_000
        return engine.run(
            [
                Request(ids, config.max_new_tokens, sampling, seed=first + i, stop_ids=(tokenizer.eos_id,))
                for i, ids in enumerate(asked)
            ]
        )

    def score(groups: list[Answers]) -> torch.Tensor:
        with autocast(found.device, found.dtype):
            return found.judges(groups)

    models = (found.policy, found.reference, *found.judges.models.values())  # a critic begins as one of the judges
    mixed = estimator.config.ptx_coefficient > 0
    return Rollouts(
        model, found.reference, found.prompts, sample, score, estimator,
        length=config.length, rows_per_microbatch=config.rows_per_microbatch,
        branching=all(each.config.can_branch for each in models), dtype=found.dtype, seed=config.seed,
        ptx=pretraining(config, tokenizer, log) if mixed else None,
    )  # fmt: skip


def pretraining(config: ReinforceConfig, tokenizer: Tokenizer, log: Log) -> Stream | None:
    """The stream of the ptx rows: one micro-batch a step; None without documents."""
    if config.documents is None:
        return None
    texts = document_examples(read_documents(config.documents, log), tokenizer)
    rows = max(1, config.ptx_tokens // config.length)
    return Stream(texts, mixture(config.weights, texts), config.length, rows, 1, config.seed + 1, split=True)


def learn(
    found: Beginning,
    model: ActorCritic,
    rollouts: Rollouts,
    loss: Callable[[Any, Any], Loss],
    out: Path,
    log: Log,
    name: str,
) -> dict[str, Any]:
    """Trains, says how it goes, writes the policy and samples.jsonl: answers as it learns."""
    config = found.config
    session = Session(config, model, rollouts, config.iterations * rollouts.steps_per_iteration, out, log, name)
    rewind_samples(out, rollouts.index)
    mixed = rollouts.config.ptx_coefficient if rollouts.ptx else 0
    log.say(
        f"{len(found.prompts):,} prompts; {config.iterations} iterations of {rollouts.config.answers_per_iteration} "
        f"answers, {rollouts.steps_per_iteration} steps each; pretraining mix {mixed}"
    )
    told = -1
    for step in session.fit(loss):
        now = rollouts.iteration
        if now is None or now.index == told:
            continue
        told = now.index
        log.metrics(step.number + 1, iteration=now.index, **now.numbers, **found.judges.numbers())
        session.watched = {key: now.numbers[key] for key in ("reward", "kl", "length")}
        if now.index % config.sample_every == 0 or now.index + 1 == config.iterations:
            show_samples(now, found.tokenizer, config.samples, out, log)

    if rollouts.stopped:
        log.say(f"[yellow]stopped early: {rollouts.stopped}[/]")
    save_model(model.chosen, out, tokenizer=found.tokenizer)
    last = rollouts.iteration.numbers if rollouts.iteration else session.watched
    return {"iterations": rollouts.index, "stopped": rollouts.stopped, "last": last, **session.summary()}
