"""Promote: the better of the candidates takes the place of the model so far, if it is better with confidence.

Both answer the same frozen questions, sampled alike. Answers to one question are compared by the reference labeller
where the truth is known, else by `judge`, a reward model that the candidate was not trained against. The test is the
exact sign test on the questions where they differ, one-sided, its level shared among the candidates (Bonferroni); the
win rate comes with its interval. If none passes, the model so far stays. Either way the one that stands is written
here, with the history of the rounds, so that the next round goes on from this directory. Left out: asking people.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from scipy.stats import binomtest

from fledge.checkpoint.directory import CHECKSUMS, FILES, load_model, read_config
from fledge.core.config import Config
from fledge.core.device import pick_device, pick_dtype
from fledge.core.errors import FledgeError
from fledge.core.files import checksum, read_json, read_jsonl, write_json, write_jsonl
from fledge.core.log import Log
from fledge.core.nouns import messages_of
from fledge.evaluate.labeller import prefer
from fledge.evaluate.scoring import score_sequences
from fledge.evaluate.statistics import mean, win_rate
from fledge.generate.engine import Engine
from fledge.generate.sampling import Sampling
from fledge.stages.asking import ask
from fledge.stages.evaluate import figures
from fledge.stages.examples import answer_ids
from fledge.stages.gather import PROMOTION
from fledge.text.tokenizer import Tokenizer

ANSWERS = "answers.jsonl"
Row = dict[str, Any]


class PromoteConfig(Config):
    """`previous`: the model so far; `gathered`: the directory of the gather step; `significance`: how probable it may
    be at most that a candidate which is no better is promoted."""

    previous: Path
    candidates: dict[str, Path]
    evaluation: Path
    gathered: Path
    judge: Path | None = None
    significance: float = Field(0.05, gt=0, lt=1)
    temperature: float = 1.0
    max_new_tokens: int = 48
    length: int = 256
    batch: int = 128
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 17


def promote(config: PromoteConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes the model that stands, promotion.json (tests and history) and answers.jsonl."""
    rows = read_jsonl(config.evaluation)
    known = all("truth" in row and "kind" in row for row in rows)
    if not rows or not (known or config.judge):
        raise FledgeError(
            f"nobody can judge answers to {config.evaluation}",
            "give rows with prompt, kind and truth, or judge=DIR of a reward model that was not trained against",
        )
    frozen, before = checksum(config.evaluation), history(config.previous)
    if before and before["evaluation"] != frozen:
        raise FledgeError(
            f"{config.evaluation} is not the set that the rounds before were judged by",
            f"give that one again; to begin anew with another, copy {config.previous} without its {PROMOTION}",
        )
    said = {
        name: answers(name, path, rows, config, log)
        for name, path in {"previous": config.previous, **config.candidates}.items()
    }
    said["start"] = [row["start"] for row in read_jsonl(config.previous / ANSWERS)] if before else said["previous"]
    compare, quality = by_truth(rows) if not config.judge else by_judge(rows, config)

    tests = {name: tested(compare(said[name], said["previous"])) for name in config.candidates}
    level = config.significance / len(tests)
    best = max(tests, key=lambda name: tests[name]["preferred"]["value"])
    better = tests[best]["p"] < level and tests[best]["preferred"]["value"] > 0.5
    standing = best if better else "previous"
    gathered = read_json(config.gathered / "gathered.json")
    rounds = before["rounds"] if before else [{"round": 0, "model": str(config.previous), **quality(said["previous"])}]
    this = {
        "round": len(rounds), "promoted": best if better else None, "candidate": best, **tests[best],
        "against_start": win_rate(compare(said[standing], said["start"])).as_dict(), **quality(said[standing]),
        **{key: gathered[key] for key in ("counts", "people", "alpha", "agreement")},
    }  # fmt: skip
    used = gathered["used"] if better else (before or {"used": 0})["used"]  # what is not in the model is still new
    copy_model(config.candidates[best] if better else config.previous, out)
    result = {"evaluation": frozen, "used": used, "level": level, "tests": tests, "rounds": [*rounds, this]}
    write_json(out / PROMOTION, result)
    write_jsonl(
        out / ANSWERS,
        ({"prompt": row["prompt"], **{name: texts[i] for name, texts in said.items()}} for i, row in enumerate(rows)),
    )
    tell(this, tests, level, log)
    return {"promoted": this["promoted"], "tests": tests, "round": this["round"], "used": used}


def history(model: Path) -> Row | None:
    """What a model says of the rounds that it came from; None if it came from none."""
    path = model / PROMOTION
    found: Row | None = read_json(path) if path.is_file() else None
    return found


def answers(name: str, path: Path, rows: Sequence[Row], config: PromoteConfig, log: Log) -> list[str]:
    """A model's answer to each question; the same seeds for every model."""
    device = pick_device(config.device)
    tokenizer, model = Tokenizer.load(path), load_model(path, device=device)
    engine = Engine(model, tokenizer, max_batch=config.batch, dtype=pick_dtype(config.dtype, device))
    prompts, sampling = [messages_of(row["prompt"]) for row in rows], Sampling(temperature=config.temperature)
    found = ask(engine, tokenizer, prompts, sampling, config.max_new_tokens, config.seed, log, name)
    return [completion.text.strip() for completion in found]


Compare = Callable[[Sequence[str], Sequence[str]], list[float]]
Quality = Callable[[Sequence[str]], Row]


def by_truth(rows: Sequence[Row]) -> tuple[Compare, Quality]:
    """Comparing answers with each other (1 better, 0 worse, ½ a tie), and their figures, by the reference labeller."""

    def compare(ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
        return [prefer(a, b, row["truth"], row["kind"]) for row, a, b in zip(rows, ours, theirs, strict=True)]

    def quality(texts: Sequence[str]) -> Row:
        return {"figures": {key: value.as_dict() for key, value in figures(list(rows), texts).items() if value.n}}

    return compare, quality


def by_judge(rows: Sequence[Row], config: PromoteConfig) -> tuple[Compare, Quality]:
    """The same by a reward model's scores."""
    assert config.judge is not None
    device = pick_device(config.device)
    tokenizer, model = Tokenizer.load(config.judge), load_model(config.judge, device=device)
    base = float(read_config(config.judge)[1].get("reward_mean", 0.0))
    prompts = [messages_of(row["prompt"]) for row in rows]

    def scores(texts: Sequence[str]) -> list[float]:
        ids = [
            answer_ids(tokenizer, prompt, text)[-config.length :] for prompt, text in zip(prompts, texts, strict=True)
        ]
        return [float(score) - base for score in score_sequences(model, ids, config.length)]

    def compare(ours: Sequence[str], theirs: Sequence[str]) -> list[float]:
        pairs = zip(ours, theirs, scores(ours), scores(theirs), strict=True)
        return [0.5 if text == other else float(a > b) for text, other, a, b in pairs]

    return compare, lambda texts: {"figures": {"score": mean(scores(texts)).as_dict()}}


def tested(outcomes: Sequence[float]) -> Row:
    """The win rate with its interval, and the exact sign test's p: how probable as many wins were by chance."""
    wins, losses = sum(o == 1 for o in outcomes), sum(o == 0 for o in outcomes)
    p = float(binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0
    return {"preferred": win_rate(outcomes).as_dict(), "wins": wins, "losses": losses, "p": p}


def copy_model(source: Path, out: Path) -> None:
    """A model's files, unchanged."""
    shards = [path.name for path in source.glob("model-*.safetensors")] + ["model.safetensors.index.json"]
    for name in (*FILES, *shards, CHECKSUMS, "special_tokens_map.json", "vocab.json", "merges.txt"):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def tell(this: Row, tests: Row, level: float, log: Log) -> None:
    """The tests as a table, and what follows from them."""
    rows = [
        [
            name,
            f"{t['preferred']['value']:.1%}",
            f"{t['preferred']['low']:.1%} to {t['preferred']['high']:.1%}",
            t["wins"],
            t["losses"],
            f"{t['p']:.2g}",
        ]
        for name, t in tests.items()
    ]
    log.table(f"round {this['round']}", ["candidate", "preferred", "95 %", "wins", "losses", "p"], rows)
    verdict = f"[bold]{this['promoted']}[/] is promoted" if this["promoted"] else "the model so far stays"
    log.say(f"{verdict} (a candidate needs p < {level:.3g})")
