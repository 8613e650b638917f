"""Comparisons: several sampled answers to each prompt, ranked by a labeller (InstructGPT, arXiv:2203.02155 §3.4).

The labeller here is the reference labeller, which knows the documentation; it stands where people stand in
`fledge label`, and its rankings have the same columns. A policy that answers a question always in the same way
leaves nothing to rank, so the K answers are sampled under different conditions, each by the policy itself:

* plain: at temperature 1;
* warm: at a higher temperature;
* swapped: its answer to the same question about another name (a fluent fact that is not true of this one);
* declining: its own continuation of the first word of a decline;
* shown: the demonstration, where there is one (the labeller's own answer).

Comparisons must cover what the assistant should know: a reward model prefers a decline to any truth it has never
seen ranked.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fledge.checkpoint.directory import load_model
from fledge.core.config import Config
from fledge.core.device import pick_device, pick_dtype
from fledge.core.files import read_jsonl, write_jsonl
from fledge.core.log import Log
from fledge.core.nouns import Message, messages_of
from fledge.data.python.questions import DECLINE
from fledge.evaluate.labeller import rank, verdict
from fledge.generate.engine import Engine
from fledge.generate.sampling import Sampling
from fledge.stages.asking import ask
from fledge.text.tokenizer import Tokenizer


class CompareConfig(Config):
    """`plain`, `warm` … say how many of the K answers come from each condition; K is their sum, 4 to 9."""

    model: Path
    prompts: Path
    plain: int = 2
    warm: int = 1
    swapped: int = 1
    declining: int = 1
    temperature: float = 1.3
    max_new_tokens: int = 48
    limit: int = 0
    batch: int = 128
    device: str = "auto"
    seed: int = 0


def compare(config: CompareConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes `comparisons.jsonl`: prompt, completions, ranks (0 best) and what the labeller saw in each answer."""
    rows = read_jsonl(config.prompts)
    rows = rows[: config.limit or len(rows)]
    tokenizer = Tokenizer.load(config.model)
    device = pick_device(config.device)
    model = load_model(config.model, device=device)
    engine = Engine(model, tokenizer, max_batch=config.batch, dtype=pick_dtype("auto", device))
    prompts = [messages_of(row["prompt"]) for row in rows]

    answers: list[list[tuple[str, str]]] = [[] for _ in rows]

    def collect(condition: str, asked: list[tuple[Message, ...]], temperature: float, start: str, seed: int) -> None:
        sampling = Sampling(temperature=temperature)
        completions = ask(engine, tokenizer, asked, sampling, config.max_new_tokens, seed, log, condition, start=start)
        for found, completion in zip(answers, completions, strict=True):
            found.append((condition, start + completion.text))

    for number in range(config.plain):
        collect("plain", prompts, 1.0, "", config.seed + number)
    for number in range(config.warm):
        collect("warm", prompts, config.temperature, "", config.seed + 100 + number)
    for number in range(config.swapped):
        collect("swapped", swapped(rows, config.seed + number), 1.0, "", config.seed + 200 + number)
    for number in range(config.declining):
        collect("declining", prompts, 1.0, DECLINE[:12], config.seed + 300 + number)

    comparisons = []
    for row, found in zip(rows, answers, strict=True):
        if row["real"]:
            found.append(("shown", row["truth"]))
        texts = list(dict.fromkeys(text for _, text in found))
        comparisons.append(
            {
                "prompt": row["prompt"],
                "completions": texts,
                "ranks": list(rank(texts, row["truth"], row["kind"])),
                "conditions": [next(c for c, t in found if t == text) for text in texts],
                "verdicts": [verdict(text, row["truth"], row["kind"]) for text in texts],
                "name": row["name"],
                "real": row["real"],
            }
        )
    useful = [c for c in comparisons if len(set(c["ranks"])) > 1]
    write_jsonl(out / "comparisons.jsonl", useful)
    return summarise(comparisons, useful, log)


def swapped(rows: list[dict[str, Any]], seed: int) -> list[tuple[Message, ...]]:
    """Each row's question with the name of another row of the same kind in its place."""
    order = np.random.default_rng(seed).permutation(len(rows))
    by_kind: dict[str, list[int]] = {}
    for index in order:
        if rows[index]["real"]:
            by_kind.setdefault(rows[index]["kind"], []).append(int(index))
    asked = []
    for index, row in enumerate(rows):
        candidates = by_kind.get(row["kind"]) or list(range(len(rows)))
        other = rows[candidates[index % len(candidates)]]
        asked.append(messages_of(other["prompt"]))
    return asked


def summarise(comparisons: list[dict[str, Any]], useful: list[dict[str, Any]], log: Log) -> dict[str, Any]:
    """What the labeller found, by condition, as a table and as figures."""
    table = []
    for condition in ("plain", "warm", "swapped", "declining", "shown"):
        seen = [
            (c["real"], v)
            for c in comparisons
            for k, v in zip(c["conditions"], c["verdicts"], strict=True)
            if k == condition
        ]
        for real in (True, False):
            verdicts = [v for r, v in seen if r == real]
            if verdicts:
                shares = [f"{verdicts.count(v) / len(verdicts):.0%}" for v in ("truthful", "declined", "wrong")]
                table.append([condition, "real" if real else "invented", len(verdicts), *shares])
    log.table("distinct answers by condition", ["condition", "name", "answers", "truthful", "declined", "wrong"], table)
    pairs = sum(1 for c in useful for i, a in enumerate(c["ranks"]) for b in c["ranks"][i + 1 :] if a != b)
    log.say(f"{len(useful):,} of {len(comparisons):,} prompts have answers of different rank: {pairs:,} pairs")
    return {"prompts": len(comparisons), "comparisons": len(useful), "pairs": pairs, "conditions": table}
