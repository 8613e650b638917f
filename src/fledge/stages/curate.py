"""Curate: documents from anywhere → clean, distinct documents to train on, and held-out ones to measure with."""

from pathlib import Path
from typing import Any

from rich.markup import escape

from fledge.core.errors import FledgeError
from fledge.core.files import write_json
from fledge.core.log import Log
from fledge.data import curate as curation
from fledge.data.columns import to_documents
from fledge.data.parquet import write_documents
from fledge.data.readers import read


class CurateConfig(curation.CurateConfig):
    """`documents`: any file or folder that can be read (text, Markdown, HTML, WARC, JSONL, CSV, Parquet, Arrow …)."""

    documents: Path


def curate(config: CurateConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes train.parquet, heldout.parquet and curation.json; prints what was dropped and why."""
    rows = read(config.documents)
    documents, without_text = to_documents(rows.rows)
    if not documents:
        raise FledgeError(
            f"{config.documents} holds no text to curate: {reasons(without_text)}",
            "give documents, or files with a 'text' column",
        )
    unread = {**rows.report.dropped, **without_text}
    curated = curation.curate(documents, config)

    write_documents(out / "train.parquet", curated.train)
    write_documents(out / "heldout.parquet", curated.heldout)
    summary = {
        "read": rows.report.read,
        "unread": unread,
        "documents": len(documents),
        "train": curation.kinds(curated.train),
        "heldout": curation.kinds(curated.heldout),
        "table": curated.table,
    }
    write_json(out / "curation.json", summary)

    shown = [[r["step"], r["kept"], r["dropped"], f"{r['share']:.1%}", escape(r["example"])] for r in curated.table]
    log.table("curation", ["step", "kept", "dropped", "share", "for example"], [row for row in shown if row[2]])
    if unread:
        log.say(escape(f"could not be used: {reasons(unread)}"))
    characters = sum(len(document.text) for document in curated.train)
    log.say(
        f"{len(documents):,} documents read; {len(curated.train):,} to train on ({characters:,} characters), "
        f"{len(curated.heldout):,} held out"
    )
    return summary


def reasons(dropped: dict[str, int]) -> str:
    """Counts by reason, in words."""
    return ", ".join(f"{count:,} × {reason}" for reason, count in dropped.items()) or "there were no rows"
