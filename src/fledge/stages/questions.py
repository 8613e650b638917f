"""Questions: documented names → demonstrations for sft, prompts for comparisons and PPO, a held-out evaluation."""

from collections import Counter
from pathlib import Path
from typing import Any

from fledge.core.errors import FledgeError
from fledge.core.files import read_jsonl, write_jsonl
from fledge.core.log import Log
from fledge.data.python.names import Name
from fledge.data.python.questions import Plan, ask


class QuestionsConfig(Plan):
    """`names`: the names.jsonl of collect, with all_names.txt beside it."""

    names: Path


def questions(config: QuestionsConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes demonstrations.jsonl, prompts.jsonl and evaluation.jsonl."""
    names = [Name(**row) for row in read_jsonl(config.names)]
    listing = config.names.with_name("all_names.txt")
    if not listing.is_file():
        raise FledgeError(f"{listing} does not exist", "run the collect step that writes it beside names.jsonl")
    existing = set(listing.read_text(encoding="utf-8").split())
    asked = ask(names, existing, config)

    conversations = ([message.as_dict() for message in c.messages] for c in asked.demonstrations)
    write_jsonl(out / "demonstrations.jsonl", ({"messages": messages} for messages in conversations))
    write_jsonl(out / "prompts.jsonl", (question.as_dict() for question in asked.prompts))
    write_jsonl(out / "evaluation.jsonl", (question.as_dict() for question in asked.evaluation))

    counts = {
        "prompts": Counter(f"{question.kind}, {question.split}" for question in asked.prompts),
        "evaluation": Counter(f"{question.kind}, {question.split}" for question in asked.evaluation),
    }
    rows = [[file, sort, count] for file, sorts in counts.items() for sort, count in sorted(sorts.items())]
    log.table(
        "questions", ["file", "sort", "rows"], [["demonstrations", "conversations", len(asked.demonstrations)], *rows]
    )
    return {
        "names": len(names),
        "held_out_names": len(asked.held_out),
        "demonstrations": len(asked.demonstrations),
        **{file: dict(sorts) for file, sorts in counts.items()},
    }
