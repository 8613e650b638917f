"""Sorts a user's own files by what their columns mean: text to learn from, demonstrations, comparisons.

Every row of every file is counted: read, kept as what, or dropped and why. Prompts for reinforcement learning are
those of the comparisons, else of the demonstrations.
"""

from pathlib import Path
from typing import Any

from fledge.core.config import Config
from fledge.core.errors import FledgeError
from fledge.core.files import write_jsonl
from fledge.core.log import Log
from fledge.data.columns import to_comparisons, to_conversations, to_documents
from fledge.data.parquet import write_documents
from fledge.data.readers import read


class IngestConfig(Config):
    """`data`: a file, or a folder of files, in any readable format."""

    data: Path


def ingest(config: IngestConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes documents.parquet, demonstrations.jsonl, comparisons.jsonl and prompts.jsonl (empty where there are none)."""
    rows = read(config.data)
    log.say(f"{config.data}: {rows.report}")
    plain, said, ranked = ([row for row in rows.rows if kind_of(row) == kind] for kind in range(3))

    documents, dropped = to_documents(plain)
    conversations, dropped_said = to_conversations(said)
    comparisons, dropped_ranked = to_comparisons(ranked)
    for reason, count in [*dropped.items(), *dropped_said.items(), *dropped_ranked.items()]:
        log.say(f"[yellow]left out {count:,} rows: {reason}[/]")
    if not documents and not conversations:
        raise FledgeError(f"{config.data} holds neither text nor conversations", "give files with text or messages")

    prompts = [c.prompt for c in comparisons] or [c.prompt for c in conversations]
    write_documents(out / "documents.parquet", documents)
    write_jsonl(out / "demonstrations.jsonl", ({"messages": [m.as_dict() for m in c.messages]} for c in conversations))
    write_jsonl(
        out / "comparisons.jsonl",
        (
            {"prompt": [m.as_dict() for m in c.prompt], "completions": c.completions, "ranks": c.ranks}
            for c in comparisons
        ),
    )
    write_jsonl(out / "prompts.jsonl", ({"prompt": [m.as_dict() for m in prompt]} for prompt in dict.fromkeys(prompts)))
    table = [
        ["text to learn from", len(documents)],
        ["demonstrations", len(conversations)],
        ["comparisons", len(comparisons)],
    ]
    log.table("your data", ["kind", "rows"], table)
    return {kind: count for kind, count in table}


def kind_of(row: dict[str, Any]) -> int:
    """0: text, 1: a conversation, 2: a comparison."""
    if {"chosen", "completions"} & set(row):
        return 2
    return 0 if "text" in row else 1
