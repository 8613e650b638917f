"""Cleans, filters, de-duplicates and splits documents, and accounts for every one it drops.

Tables go through Daft, embedded in this process: filters (`filters.py`), exact duplicates by a hash of the normalised
text, near-duplicates by MinHash over word shingles (Broder 1997) with locality-sensitive banding, as for C4-like
corpora (arXiv:2107.06499). Of duplicates the first document stays. The held-out split goes by a hash of the text and is
drawn after de-duplication; a corpus of a few long documents is split inside them instead.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from fledge.core.errors import FledgeError
from fledge.core.nouns import Document
from fledge.data.filters import REASONS, FilterConfig, reason_to_drop

FEW = 20  # documents below which each is split, instead of all


class CurateConfig(FilterConfig):
    """Filters, de-duplication and split. `keep_kinds` are passed through as they are and never held out."""

    near_threshold: float = 0.8  # Jaccard similarity of word shingles from which on two documents are the same
    shingle: int = 5  # words
    bands: int = 32
    band_rows: int = 4
    heldout_share: float = 0.05
    seed: int = 0
    keep_kinds: tuple[str, ...] = ("facts",)


@dataclass(frozen=True, slots=True)
class Curated:
    """`table` has one row a step: step, kept, dropped, share (of what reached it), example (of what was dropped)."""

    train: list[Document]
    heldout: list[Document]
    table: list[dict[str, Any]]


def curate(documents: Sequence[Document], config: CurateConfig) -> Curated:
    """Curates `documents`; each is in `train`, in `heldout` or counted in one row of `table`.

    Raises FledgeError if nothing remains.
    """
    alive = [index for index, document in enumerate(documents) if document.kind not in config.keep_kinds]
    exempt = [document for document in documents if document.kind in config.keep_kinds]
    table: list[dict[str, Any]] = []

    def drop(step: str, dropped: set[int]) -> None:
        nonlocal alive
        before = len(alive) + len(exempt)
        alive = [index for index in alive if index not in dropped]
        table.append(account(step, before, dropped, documents))

    reasons = dict(zip(alive, filter_reasons([documents[index] for index in alive], config)))
    for reason in REASONS:
        drop(reason, {index for index, why in reasons.items() if why == reason})
    drop("exact duplicate", exact_duplicates([documents[i].text for i in alive], alive))
    drop("near duplicate", near_duplicates([documents[i].text for i in alive], alive, config))
    if not alive and not exempt:
        raise FledgeError(
            f"nothing remains of {len(documents)} documents: {most_common(table)}",
            "give more or better text, or loosen the rule that dropped it",
        )
    train, heldout = split([documents[index] for index in alive], config)
    return Curated(train + exempt, heldout, table)


def account(step: str, before: int, dropped: set[int], documents: Sequence[Document]) -> dict[str, Any]:
    """One row of the table."""
    example = ""
    if dropped:
        first = documents[min(dropped)]
        example = f"{first.source}: {' '.join(first.text.split())[:60]}".removeprefix(": ")
    share = len(dropped) / before if before else 0.0
    return {
        "step": step,
        "kept": before - len(dropped),
        "dropped": len(dropped),
        "share": round(share, 4),
        "example": example,
    }


def most_common(table: Sequence[dict[str, Any]]) -> str:
    """The two rows that dropped most, in words."""
    rows = sorted((row for row in table if row["dropped"]), key=lambda row: -row["dropped"])[:2]
    return ", ".join(f"{row['dropped']} {row['step']}" for row in rows) or "there were none"


def filter_reasons(documents: Sequence[Document], config: FilterConfig) -> list[str]:
    """Why each document is dropped, "" for those that stay."""
    daft = quiet_daft()
    if not documents:
        return []

    @daft.func
    def reason(text: str, kind: str) -> str:
        return reason_to_drop(text, kind, config)

    frame = daft.from_pydict({"text": [d.text for d in documents], "kind": [d.kind for d in documents]})
    return frame.select(reason(daft.col("text"), daft.col("kind")).alias("reason")).to_pydict()["reason"]


def exact_duplicates(texts: Sequence[str], ids: Sequence[int]) -> set[int]:
    """The ids whose text, lower-cased and with single spaces, an earlier one has already."""
    daft = quiet_daft()
    if not texts:
        return set()
    frame = daft.from_pydict({"id": list(ids), "text": list(texts)})
    same = daft.col("text").lower().regexp_replace(r"\s+", " ").strip()
    first = frame.with_column("key", same).groupby("key").agg(daft.col("id").min()).to_pydict()["id"]
    return set(ids) - set(first)


def near_duplicates(texts: Sequence[str], ids: Sequence[int], config: CurateConfig) -> set[int]:
    """The ids whose text resembles that of an earlier one, directly or through a chain of others."""
    if not texts:
        return set()
    signatures = minhashes(texts, config)
    parent = list(range(len(texts)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in candidates(signatures, config):
        first, second = sorted((root(a), root(b)))
        if first != second and np.mean(signatures[a] == signatures[b]) >= config.near_threshold:
            parent[second] = first
    return {ids[node] for node in range(len(texts)) if root(node) != node}


def minhashes(texts: Sequence[str], config: CurateConfig) -> np.ndarray:
    """MinHash signatures [documents, bands * rows] (uint32) of the word shingles of the normalised texts."""
    daft = quiet_daft()
    plain = daft.col("text").normalize(remove_punct=True, lowercase=True, white_space=True)
    signature = plain.minhash(
        num_hashes=config.bands * config.band_rows, ngram_size=config.shingle, seed=1 + config.seed
    )
    column = daft.from_pydict({"text": list(texts)}).select(signature.alias("signature")).to_arrow()["signature"]
    width = config.bands * config.band_rows
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def candidates(signatures: np.ndarray, config: CurateConfig) -> Iterator[tuple[int, int]]:
    """Pairs of documents that agree in all rows of some band; within a large group, each with its first only."""
    for band in range(config.bands):
        rows = np.ascontiguousarray(signatures[:, band * config.band_rows : (band + 1) * config.band_rows])
        keys = rows.view([("", rows.dtype)] * config.band_rows).ravel()
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
        for group in np.split(order, starts):
            if len(group) <= 32:
                yield from combinations(group.tolist(), 2)
            else:
                yield from ((int(group[0]), int(other)) for other in group[1:])


def split(documents: Sequence[Document], config: CurateConfig) -> tuple[list[Document], list[Document]]:
    """(train, held-out): whole documents by the hash of their text, or the ends of documents if there are only few."""
    if not config.heldout_share or not documents:
        return list(documents), []
    if len(documents) < FEW:
        parts = [split_document(document, config.heldout_share) for document in documents]
        return [head for head, _ in parts if head.text], [tail for _, tail in parts if tail.text]
    places = [place(document.text, config.seed) for document in documents]
    limit = max(config.heldout_share, min(places))
    train = [d for d, p in zip(documents, places) if p >= limit and p != min(places)]
    heldout = [d for d, p in zip(documents, places) if p < limit or p == min(places)]
    return train, heldout


def split_document(document: Document, share: float) -> tuple[Document, Document]:
    """The document without and only its last `share`, cut at the end of a line if there is one nearby."""
    cut = round(len(document.text) * (1 - share))
    line_end = document.text.rfind("\n", cut // 2, cut) + 1
    cut = line_end or cut
    head, tail = document.text[:cut], document.text[cut:]
    return Document(head, document.source, document.kind), Document(tail, document.source, document.kind)


def place(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the text and the seed."""
    digest = hashlib.sha256(f"{seed}:{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def kinds(documents: Sequence[Document]) -> dict[str, dict[str, int]]:
    """Documents and characters by kind."""
    count: Counter[str] = Counter(document.kind for document in documents)
    size: Counter[str] = Counter()
    for document in documents:
        size[document.kind] += len(document.text)
    return {kind: {"documents": count[kind], "characters": size[kind]} for kind in sorted(count)}


def quiet_daft() -> Any:
    """Daft, with its usage reports and progress bars switched off before it is imported."""
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")  # also where fledge is a library
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    import daft

    return daft
