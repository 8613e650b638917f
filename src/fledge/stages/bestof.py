"""Best-of-n and rejection sampling: better answers from a reward model without reinforcement learning.

The policy answers each prompt n times and the reward model keeps the best (arXiv:2009.01325, 2112.09332). Evaluated as
they are, the kept answers are best-of-n, whose distance from the policy is known: log n - (n - 1)/n nats. As
demonstrations for `sft` they are rejection-sampling fine-tuning (as in Llama 2, arXiv:2307.09288 §3.2.3).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from rich.markup import escape

from fledge.checkpoint.directory import load_model, read_config
from fledge.core.config import Config
from fledge.core.device import autocast, pick_device, pick_dtype
from fledge.core.files import write_jsonl
from fledge.core.log import Log
from fledge.core.nouns import Message
from fledge.data.branches import Answers
from fledge.data.columns import convert
from fledge.data.readers import read
from fledge.evaluate.statistics import mean
from fledge.generate.engine import Completion, Engine
from fledge.generate.sampling import Sampling
from fledge.objectives.policy import best_of_n_kl
from fledge.stages.asking import ask
from fledge.stages.judging import Judges
from fledge.stages.preflight import check_length, check_prompts, check_tokenizer
from fledge.stages.prompts import as_prompt
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer


class BestofConfig(Config):
    """`n` answers to each prompt. Demonstrations are made of kept answers whose reward is at least `above`, if it is
    given (0 is the mean of the reward model's demonstrations). `reward` and `reward_weights` as in ppo."""

    policy: Path
    reward: Path | dict[str, Path]
    reward_weights: dict[str, float] = {}
    prompts: Path
    n: int = Field(16, ge=2)
    above: float | None = None
    temperature: float = 1.0
    max_new_tokens: int = 48
    length: int = 256
    limit: int = 0
    batch: int = 256
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0


def bestof(config: BestofConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes answers.jsonl (each prompt's row with its best `answer` and `reward`), demonstrations.jsonl (the same as
    `messages`, for sft) and samples.jsonl (all completions with their rewards, and each judge's scores)."""
    tokenizer, device = Tokenizer.load(config.policy), pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    check_tokenizer(tokenizer)
    check_length(config.length, read_config(config.policy)[0])
    rows = read_rows(config.prompts, config.limit, log)
    prompts = [as_prompt(row) for row in rows]
    ids = [render(tokenizer, prompt, add_generation_prompt=True).ids for prompt in prompts]
    check_prompts(ids, config.max_new_tokens, config.length, False, log)
    judges = Judges(config.reward, config.reward_weights, config.length, device, log)

    engine = Engine(load_model(config.policy, device=device), tokenizer, max_batch=config.batch, dtype=dtype)
    asked = [prompt for prompt in prompts for _ in range(config.n)]
    sampling = Sampling(temperature=config.temperature)
    answers = ask(engine, tokenizer, asked, sampling, config.max_new_tokens, config.seed, log, f"best of {config.n}")
    groups = [slice(start, start + config.n) for start in range(0, len(answers), config.n)]
    whole = [
        Answers(tuple((*prompt, *answer.ids) for answer in answers[group]))
        for prompt, group in zip(ids, groups, strict=True)
    ]
    with autocast(device, dtype):
        rewards = judges(whole).tolist()
    chosen = [group.start + best(answers[group], rewards[group]) for group in groups]

    write_jsonl(
        out / "answers.jsonl",
        [row | {"answer": answers[i].text, "reward": rewards[i]} for row, i in zip(rows, chosen, strict=True)],
    )
    write_jsonl(out / "samples.jsonl", samples(rows, groups, answers, rewards, judges))
    demonstrations = [
        {"messages": [m.as_dict() for m in (*prompt, Message("assistant", answers[i].text))]}
        for prompt, i in zip(prompts, chosen, strict=True)
        if usable(answers[i], rewards[i], config.above)
    ]
    write_jsonl(out / "demonstrations.jsonl", demonstrations)
    gained, before = mean([rewards[i] for i in chosen]), mean([sum(rewards[g]) / config.n for g in groups])
    log.say(
        f"the best of {config.n} answers to {len(rows):,} prompts: reward {before.value:+.3f} → "
        f"[bold]{gained.value:+.3f}[/], at most {best_of_n_kl(config.n):.2f} nats from the policy; "
        f"{len(demonstrations):,} demonstrations"
    )
    return {
        "prompts": len(rows),
        "n": config.n,
        "kl": best_of_n_kl(config.n),
        "reward": gained.as_dict(),
        "reward_of_all": before.as_dict(),
        "demonstrations": len(demonstrations),
        "seed": config.seed,
    }


def read_rows(path: Path, limit: int, log: Log) -> list[dict[str, Any]]:
    """The rows of a file that ask for an answer, with all their columns; says what was left out and why."""
    found = read(path)

    def asking(row: dict[str, Any]) -> dict[str, Any]:
        as_prompt(row)
        return row

    rows, dropped = convert(found.rows, asking, "prompt, messages or instruction")
    for reason, count in [*found.report.dropped.items(), *dropped.items()]:
        log.say(f"[yellow]{escape(f'{path.name}: left out {count:,} rows: {reason}')}[/]")
    return rows[: limit or len(rows)]


def best(answers: Sequence[Completion], rewards: Sequence[float]) -> int:
    """The place of the answer with the highest reward among those that ended by themselves, if any did."""
    ended = [i for i, answer in enumerate(answers) if answer.finish == "stop"]
    return max(ended or range(len(answers)), key=lambda i: rewards[i])


def usable(answer: Completion, reward: float, above: float | None) -> bool:
    """Whether an answer can be learnt from: it ended by itself, says something, and is good enough."""
    return answer.finish == "stop" and bool(answer.text.strip()) and (above is None or reward >= above)


def samples(
    rows: Sequence[dict[str, Any]],
    groups: Sequence[slice],
    answers: Sequence[Completion],
    rewards: Sequence[float],
    judges: Judges,
) -> list[dict[str, Any]]:
    """Each prompt's row with all its completions, in the order they were drawn."""
    scores: dict[str, torch.Tensor] = judges.latest if len(judges.models) > 1 else {}
    return [
        row
        | {
            "completions": [answer.text for answer in answers[group]],
            "ended": [answer.finish == "stop" for answer in answers[group]],
            "rewards": list(rewards[group]),
            **{f"rewards_{name}": found[group].tolist() for name, found in scores.items()},
        }
        for row, group in zip(rows, groups, strict=True)
    ]
