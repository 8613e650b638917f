"""The prompts of any readable file."""

from pathlib import Path
from typing import Any

from rich.markup import escape

from fledge.core.log import Log
from fledge.core.nouns import Message
from fledge.data.columns import checked, convert, prompt_of
from fledge.data.readers import read
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer


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
