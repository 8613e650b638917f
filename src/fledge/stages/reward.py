"""The reward model: InstructGPT's step 2 (arXiv:2203.02155 §3.5, eq. 1).

A scalar head on the SFT model learns from all pairs of a prompt's ranked answers at once, each ranking by the weight
that it has. Held-out accuracy, by kind of pair, and calibration tell whether the reward is any good before
reinforcement learning spends time on it. The mean score of demonstrations is written to config.json as `reward_mean`,
their standard deviation as `reward_std`; rewards are scores minus that mean, and where several models judge together,
divided by that deviation.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape

from fledge.checkpoint.directory import load_model, read_config, save_model
from fledge.core.device import pick_device
from fledge.core.errors import FledgeError
from fledge.core.files import write_json
from fledge.core.log import Log
from fledge.core.nouns import Comparison, Message
from fledge.data.columns import to_comparisons
from fledge.data.rankings import Ranked, RankedStream
from fledge.data.readers import read
from fledge.evaluate.calibration import preference_calibration
from fledge.evaluate.scoring import score_groups, score_sequences
from fledge.evaluate.statistics import proportion
from fledge.model.heads import Headed
from fledge.objectives.preference import ranking
from fledge.stages.examples import answer_ids
from fledge.stages.preflight import (
    check_finite,
    check_length,
    check_memory,
    check_reward_position,
    check_tokenizer,
    check_vocabulary,
)
from fledge.stages.session import Session, TrainConfig
from fledge.stages.sft import read_conversations
from fledge.text.tokenizer import Tokenizer


class RewardConfig(TrainConfig):
    """`model` is the SFT model; `heldout` the share of prompts kept for measuring."""

    model: Path
    comparisons: Path
    demonstrations: Path | None = None
    heldout: float = 0.1
    epochs: float = 1.0
    prompts_per_step: int = 32
    drop_long: bool = False


def reward(config: RewardConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes a Hugging Face directory, `*ForSequenceClassification` with one label, and reward.json.

    Where there is more than one epoch, best/ is the model after the one with the lowest held-out loss, if that is not
    the last: reward models overfit soon (arXiv:2203.02155, appendix C.2).
    """
    torch.manual_seed(config.seed)
    tokenizer = Tokenizer.load(config.model)
    check_tokenizer(tokenizer)
    shape, device = read_config(config.model)[0], pick_device(config.device)
    check_length(config.length, shape)
    comparisons = weighty(read_comparisons(config.comparisons, log), log)
    groups = [to_ranked(comparison, tokenizer) for comparison in comparisons]
    check_reward_position([ids for group in groups for ids in group.ids], tokenizer)
    check_vocabulary((ids for group in groups for ids in group.ids), shape, "comparisons")
    kept = fitting(groups, config.length, config.drop_long, log)
    held = held_out(comparisons, config.heldout, config.seed)
    train = [groups[i] for i in kept if not held[i]]
    test = [i for i in kept if held[i]]
    if not train:
        raise FledgeError("no comparisons are left to train on", "give more comparisons or a smaller heldout share")

    check_memory(shape, config, log)
    model = load_model(config.model, device=device, head="scalar")
    check_finite(model, str(config.model))
    stream = RankedStream(
        train, config.length, config.prompts_per_step, config.microbatches, config.seed, branching=shape.can_branch
    )
    steps = max(1, round(config.epochs * stream.steps_per_epoch))
    log.say(f"{len(train):,} prompts to learn from, {len(test):,} held out; {steps:,} steps of {stream.per_step}")
    session = Session(config, model, stream, steps, out, log, "reward")
    heldout = [groups[i] for i in test]

    def write(directory: Path) -> dict[str, float]:
        scale = demonstration_scale(model, tokenizer, config, session, log)
        save_model(model, directory, tokenizer=tokenizer, extra=scale)
        return scale

    for step in session.fit(ranking):
        if heldout and (step.every(stream.steps_per_epoch) or step.number + 1 == steps > stream.steps_per_epoch):
            found = margins(heldout, scores(model, heldout, config.length, session))
            session.watched = {"heldout_loss": ranking_loss([margin for *_, margin in found])}
            log.metrics(step.number + 1, **session.watched)
            session.keep_best(step.number + 1, session.watched["heldout_loss"], write)

    found = margins(heldout, scores(model, heldout, config.length, session))
    measured: dict[str, Any] = {}
    if found:
        differences = [margin for *_, margin in found]
        measured["accuracy"] = proportion(sum(d > 0 for d in differences), len(differences)).as_dict()
        measured["calibration"] = preference_calibration(np.array(differences), np.array([g for g, *_ in found]))
        measured["by_pair"] = by_pair(found, [comparisons[i] for i in test], config.comparisons, log)
        log.say(f"held-out accuracy [bold]{measured['accuracy']['value']:.1%}[/] over {len(differences):,} pairs")
    scale = write(out)
    write_json(out / "reward.json", measured | scale)
    return {"comparisons": len(train), "heldout": len(test), **scale, **measured, **session.summary()}


def read_comparisons(path: Path, log: Log) -> list[Comparison]:
    """The comparisons of a file; says what was dropped and why."""
    rows = read(path)
    comparisons, dropped = to_comparisons(rows.rows)
    for reason, count in [*rows.report.dropped.items(), *dropped.items()]:
        log.say(f"[yellow]{escape(f'{path.name}: left out {count:,} rows: {reason}')}[/]")
    if not comparisons:
        raise FledgeError(
            f"{path} holds no comparisons", "give columns prompt+chosen+rejected or prompt+completions+ranks"
        )
    return comparisons


def weighty(comparisons: Sequence[Comparison], log: Log) -> list[Comparison]:
    """The comparisons that count for something; says how many do not."""
    found = [comparison for comparison in comparisons if comparison.weight > 0]
    if not found:
        raise FledgeError("every comparison has the weight 0", "ask people whom others agree with, or drop the weights")
    if len(found) < len(comparisons):
        log.say(f"[yellow]left out {len(comparisons) - len(found):,} comparisons: they have the weight 0[/]")
    return found


def held_out(comparisons: Sequence[Comparison], share: float, seed: int) -> list[bool]:
    """Which comparisons are kept for measuring: prompts are drawn, so that no prompt stands on both sides."""
    drawn = np.random.default_rng([seed, 1]).random(len(comparisons)) < share
    first: dict[tuple[Message, ...], int] = {}
    return [bool(drawn[first.setdefault(tuple(c.prompt), i)]) for i, c in enumerate(comparisons)]


def to_ranked(comparison: Comparison, tokenizer: Tokenizer) -> Ranked:
    """A comparison as token ids, each answer closed by the end of the turn."""
    ids = tuple(tuple(answer_ids(tokenizer, comparison.prompt, answer)) for answer in comparison.completions)
    return Ranked(ids, comparison.ranks, comparison.weight)


def fitting(groups: Sequence[Ranked], length: int, drop_long: bool, log: Log) -> list[int]:
    """The indices of the prompts whose answers all fit into `length` tokens; refuses others unless `drop_long`."""
    longest = [max(len(ids) for ids in group.ids) for group in groups]
    kept = [i for i, size in enumerate(longest) if size <= length]
    if len(kept) < len(groups) and not (drop_long and kept):
        raise FledgeError(
            f"{len(groups) - len(kept):,} of {len(groups):,} comparisons are longer than {length} tokens",
            f"set length={max(longest)}, or drop_long=true to leave them out",
        )
    if len(kept) < len(groups):
        log.say(f"[yellow]left out {len(groups) - len(kept):,} comparisons: longer than {length} tokens[/]")
    return kept


def scores(model: Headed, groups: Sequence[Ranked], length: int, session: Session) -> list[list[float]]:
    """The model's raw score of each answer of each group."""
    with session.autocast():
        values = iter(score_groups(model, groups, length).tolist())
    return [[next(values) for _ in group.ids] for group in groups]


def margins(groups: Sequence[Ranked], scored: Sequence[Sequence[float]]) -> list[tuple[int, int, int, float]]:
    """(group, better answer, worse answer, score difference) of every pair that is not a tie."""
    return [
        (g, i, j, values[i] - values[j])
        for g, (group, values) in enumerate(zip(groups, scored, strict=True))
        for i, a in enumerate(group.ranks)
        for j, b in enumerate(group.ranks)
        if a < b
    ]


def ranking_loss(differences: Sequence[float]) -> float:
    """The mean of -log σ(d) over pairs; infinite where there are none."""
    return float(np.logaddexp(0.0, -np.array(differences)).mean()) if differences else math.inf


def by_pair(
    found: Sequence[tuple[int, int, int, float]], comparisons: Sequence[Comparison], path: Path, log: Log
) -> list[dict[str, Any]]:
    """Accuracy by what was compared with what, where the labeller wrote down `verdicts`."""
    rows = [row for row in read(path).rows if "verdicts" in row]
    said = {
        (str(row["prompt"]), text): v
        for row in rows
        for text, v in zip(row["completions"], row["verdicts"], strict=True)
    }
    counts: dict[str, list[bool]] = {}
    for g, i, j, margin in found:
        comparison = comparisons[g]
        prompt = str([m.as_dict() for m in comparison.prompt])
        better, worse = (said.get((prompt, comparison.completions[k])) for k in (i, j))
        if better and worse and better != worse:
            counts.setdefault(f"{better} above {worse}", []).append(margin > 0)
    table = [{"pair": pair, **proportion(sum(hits), len(hits)).as_dict()} for pair, hits in sorted(counts.items())]
    if table:
        log.table(
            "held-out accuracy", ["pair", "accuracy", "n"], [[r["pair"], f"{r['value']:.1%}", r["n"]] for r in table]
        )
    return table


def demonstration_scale(
    model: Headed, tokenizer: Tokenizer, config: RewardConfig, session: Session, log: Log
) -> dict[str, float]:
    """`reward_mean` and `reward_std` of the raw scores of demonstrations (at most 1,000): what rewards are measured
    from, and by. Without demonstrations the mean is 0 and the spread unknown."""
    if config.demonstrations is None:
        return {"reward_mean": 0.0}
    conversations = [c for c in read_conversations(config.demonstrations, log) if c.messages[-1].role == "assistant"]
    chosen = conversations[:: max(1, len(conversations) // 1000)]
    ids = [answer_ids(tokenizer, c.messages[:-1], c.messages[-1].content) for c in chosen]
    fit = [row for row in ids if len(row) <= config.length]
    with session.autocast():
        found = score_sequences(model, fit, config.length)
    return {"reward_mean": float(found.mean()), "reward_std": float(found.std(correction=0))}
