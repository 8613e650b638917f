"""Direct preference optimisation (arXiv:2305.18290): from rankings to a policy without a reward model or rollouts.

It reads the comparisons that the reward stage reads, all pairs of a prompt's ranked answers. The reference is frozen:
its log-probs of every answer are computed once, before training. Held-out pairs tell whether what the policy has come
to prefer holds beyond them. Left out: pretraining text, and fresh answers (what is compared is what was sampled once).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from fledge.checkpoint.directory import load_model, read_config, save_model
from fledge.core.device import autocast, pick_device, pick_dtype
from fledge.core.errors import FledgeError
from fledge.core.files import write_json
from fledge.core.log import Log
from fledge.core.nouns import Comparison
from fledge.data.rankings import Ranked, RankedStream
from fledge.evaluate.calibration import preference_calibration
from fledge.evaluate.scoring import score_answers
from fledge.evaluate.statistics import proportion
from fledge.model.heads import Headed
from fledge.objectives.preference import direct
from fledge.stages.preflight import (
    check_finite,
    check_length,
    check_memory,
    check_reward_position,
    check_tokenizer,
    check_vocabulary,
)
from fledge.stages.reward import by_pair, fitting, held_out, margins, read_comparisons, to_ranked
from fledge.stages.session import Session, TrainConfig
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer
from fledge.train.optimizers import OptimizerConfig


class DpoConfig(TrainConfig):
    """`model` is the SFT model, and the reference unless another is named; `heldout` the share of prompts kept for
    measuring. `beta` holds the policy near the reference; `label_smoothing` is how often a judgement may be wrong;
    `anchor` weighs the best answers' own cross-entropy, so that they are not forgotten together with the others."""

    model: Path
    comparisons: Path
    reference: Path | None = None
    heldout: float = 0.1
    epochs: float = 1.0
    prompts_per_step: int = 32
    beta: float = Field(0.1, gt=0)
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    anchor: float = Field(0.0, ge=0)
    drop_long: bool = False
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", learning_rate=4e-5, weight_decay=0.0)
    warmup: float = 0.1


def dpo(config: DpoConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes a Hugging Face directory of the policy, and dpo.json: what held-out pairs say."""
    torch.manual_seed(config.seed)
    if config.label_smoothing and config.loss == "ipo":
        raise FledgeError("label_smoothing means nothing to the ipo loss", "leave one of them out")
    tokenizer = Tokenizer.load(config.model)
    check_tokenizer(tokenizer)
    shape, device = read_config(config.model)[0], pick_device(config.device)
    check_length(config.length, shape)
    comparisons = read_comparisons(config.comparisons, log)
    groups = [with_prompt(comparison, tokenizer) for comparison in comparisons]
    check_reward_position([ids for group in groups for ids in group.ids], tokenizer)
    check_vocabulary((ids for group in groups for ids in group.ids), shape, "comparisons")
    kept = fitting(groups, config.length, config.drop_long, log)
    held = held_out(comparisons, config.heldout, config.seed)
    if all(held[i] for i in kept):
        raise FledgeError("no comparisons are left to train on", "give more comparisons or a smaller heldout share")

    check_memory(shape, config, log, copies=int(bool(config.reference)))
    model = load_model(config.model, device=device, head="language")
    check_finite(model, str(config.model))
    dtype = pick_dtype(config.dtype, device)
    with autocast(device, dtype):
        known = referenced([groups[i] for i in kept], reference_of(config, model), config.length)
    train = [group for i, group in zip(kept, known, strict=True) if not held[i]]
    test = [(group, comparisons[i]) for i, group in zip(kept, known, strict=True) if held[i]]
    stream = RankedStream(
        train, config.length, config.prompts_per_step, config.microbatches, config.seed, branching=shape.can_branch
    )
    steps = max(1, round(config.epochs * stream.steps_per_epoch))
    log.say(
        f"{len(train):,} prompts to learn from, {len(test):,} held out; {steps:,} steps of {stream.per_step}; "
        f"{config.loss} loss, beta {config.beta:g}"
    )
    session = Session(config, model, stream, steps, out, log, "dpo")
    loss = partial(
        direct, beta=config.beta, label_smoothing=config.label_smoothing, form=config.loss, anchor=config.anchor
    )
    for step in session.fit(loss):
        session.watched = {key: step.parts[key] for key in ("accuracy", "margin") if key in step.parts}

    measured: dict[str, Any] = {}
    if test:
        with session.autocast():
            measured = on_held_out(model, test, config, log)
    write_json(out / "dpo.json", measured)
    save_model(model, out, tokenizer=tokenizer)
    return {"comparisons": len(train), "heldout": len(test), **measured, **session.summary()}


def with_prompt(comparison: Comparison, tokenizer: Tokenizer) -> Ranked:
    """A comparison as token ids with the length of its prompt, so that the answers are targets."""
    prompt = render(tokenizer, comparison.prompt, add_generation_prompt=True).ids
    return replace(to_ranked(comparison, tokenizer), prompt=len(prompt))


def reference_of(config: DpoConfig, model: Headed) -> Headed:
    """The reference model: the one that will be trained, before it is, or the one that was named."""
    if config.reference is None:
        return model
    if Tokenizer.load(config.reference).vocab_size != Tokenizer.load(config.model).vocab_size:
        raise FledgeError(
            f"{config.reference} has another vocabulary than {config.model}", "give a reference with the same tokenizer"
        )
    reference: Headed = load_model(config.reference, device=next(model.parameters()).device, head="language")
    return reference


def referenced(groups: Sequence[Ranked], model: Headed, length: int) -> list[Ranked]:
    """The groups with log π_ref of each answer."""
    found = score_answers(model, groups, length)
    return [replace(group, reference=tuple(values)) for group, values in zip(groups, found, strict=True)]


def on_held_out(
    model: Headed, test: Sequence[tuple[Ranked, Comparison]], config: DpoConfig, log: Log
) -> dict[str, Any]:
    """Accuracy and calibration of the reward that the policy implies, and how far answers moved, on held-out pairs."""
    groups = [group for group, _ in test]
    shifts = [
        [now - then for now, then in zip(values, group.reference, strict=True)]
        for group, values in zip(groups, score_answers(model, groups, config.length), strict=True)
    ]
    found = margins(groups, [[config.beta * shift for shift in values] for values in shifts])
    if not found:
        return {}
    differences = [margin for *_, margin in found]
    measured: dict[str, Any] = {
        "accuracy": proportion(sum(d > 0 for d in differences), len(differences)).as_dict(),
        "margin": float(np.mean(differences)),
        "chosen_shift": float(np.mean([shifts[g][i] for g, i, _, _ in found])),
        "rejected_shift": float(np.mean([shifts[g][j] for g, _, j, _ in found])),
        "calibration": preference_calibration(np.array(differences), np.array([g for g, *_ in found])),
        "by_pair": by_pair(found, [comparison for _, comparison in test], config.comparisons, log),
    }
    log.say(
        f"held-out accuracy [bold]{measured['accuracy']['value']:.1%}[/] over {len(differences):,} pairs; the better "
        f"answers moved by {measured['chosen_shift']:+.2f} nats, the worse by {measured['rejected_shift']:+.2f}"
    )
    return measured
