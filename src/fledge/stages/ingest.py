"""Sorts a user's own files by what their columns mean: text to learn from, demonstrations, comparisons.

Every row of every file is counted: read, kept as what, or dropped and why. Prompts for reinforcement learning are
those of the comparisons, else of the demonstrations; without demonstrations the best-ranked answers are taken as such.
"""

from pathlib import Path
from typing import Any

from rich.markup import escape

from fledge.core.config import Config
from fledge.core.errors import FledgeError
from fledge.core.files import write_jsonl
from fledge.core.log import Log
from fledge.core.nouns import Comparison, Conversation, Document, Message
from fledge.data.columns import ANSWERS, to_comparisons, to_conversations, to_documents
from fledge.data.parquet import write_documents
from fledge.data.readers import read

KINDS = ("text", "conversation", "comparison", "unknown")


class IngestConfig(Config):
    """`data`: a file, or a folder of files, in any readable format."""

    data: Path


def ingest(config: IngestConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes documents.parquet, demonstrations.jsonl, comparisons.jsonl and prompts.jsonl, some perhaps empty."""
    rows = read(config.data)
    log.say(escape(f"{config.data}: {rows.report}"))
    plain, said, ranked, unknown = ([row for row in rows.rows if kind_of(row) == kind] for kind in KINDS)
    if unknown:
        columns = ", ".join(name for name in unknown[0] if name not in ("source", "kind"))
        seen = f"{len(unknown):,} rows have columns of no known layout (the first, {unknown[0]['source']}: {columns})"
        if len(unknown) == len(rows.rows):
            raise FledgeError(
                f"{config.data}: {seen}", "give columns text, messages, prompt+completion or chosen+rejected"
            )
        log.say(f"[yellow]{escape(f'left out {seen}')}[/]")

    documents, dropped = to_documents(plain)
    conversations, dropped_said = to_conversations(said)
    comparisons, dropped_ranked = to_comparisons(ranked)
    for reason, count in [*dropped.items(), *dropped_said.items(), *dropped_ranked.items()]:
        log.say(f"[yellow]{escape(f'left out {count:,} rows: {reason}')}[/]")
    if not conversations:
        conversations = [best_answer(comparison) for comparison in comparisons]
    if not documents:
        documents = [Document("\n\n".join(m.content for m in c.messages), kind="prose") for c in conversations]
    if not documents:
        raise FledgeError(f"{config.data} holds neither text nor conversations", "give files with text or messages")

    prompts = [c.prompt for c in comparisons] or [c.prompt for c in conversations]
    write_documents(out / "documents.parquet", documents)
    write_jsonl(out / "demonstrations.jsonl", ({"messages": [m.as_dict() for m in c.messages]} for c in conversations))
    write_jsonl(
        out / "comparisons.jsonl",
        (
            {
                "prompt": [m.as_dict() for m in c.prompt],
                "completions": c.completions,
                "ranks": c.ranks,
                "weight": c.weight,
            }
            for c in comparisons
        ),
    )
    write_jsonl(out / "prompts.jsonl", ({"prompt": [m.as_dict() for m in prompt]} for prompt in dict.fromkeys(prompts)))
    table: list[tuple[str, int]] = [
        ("text to learn from", len(documents)),
        ("demonstrations", len(conversations)),
        ("comparisons", len(comparisons)),
    ]
    log.table("your data", ["kind", "rows"], table)
    return dict(table)


def best_answer(comparison: Comparison) -> Conversation:
    """A comparison's prompt with the answer that was ranked first."""
    best = comparison.completions[comparison.ranks.index(min(comparison.ranks))]
    return Conversation((*comparison.prompt, Message("assistant", best)))


def kind_of(row: dict[str, Any]) -> str:
    """Which of KINDS a row is, by the names of its columns."""
    if {"chosen", "completions"} & set(row):
        return "comparison"
    if "text" in row:
        return "text"
    return "conversation" if {"messages", "conversations", *ANSWERS} & set(row) else "unknown"
