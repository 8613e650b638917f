"""Sample answers as a policy learns: on the console, and in samples.jsonl for the report and the page of runs."""

from pathlib import Path
from typing import Any

from rich.markup import escape

from fledge.core.files import read_jsonl, write_jsonl
from fledge.core.log import Log
from fledge.text.tokenizer import Tokenizer
from fledge.train.rollouts import Iteration


def show_samples(found: Iteration, tokenizer: Tokenizer, count: int, out: Path, log: Log) -> None:
    """The answers of an iteration to its first prompts, one each, on the console and in samples.jsonl."""
    answered = zip(found.prompts, found.answers, found.scores, strict=True)
    rows: list[dict[str, Any]] = [
        {
            "iteration": found.index,
            "prompt": tokenizer.decode(prompt, skip_special=False),
            "answer": tokenizer.decode(answer),
            "reward": score,
        }
        for prompt, answer, score in list(answered)[: count * found.group : found.group]
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
