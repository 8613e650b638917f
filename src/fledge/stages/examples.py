"""Documents, conversations and comparisons as token ids with a mask of what is supervised."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.markup import escape

from fledge.core.log import Log
from fledge.core.nouns import Conversation, Document, Message
from fledge.data.columns import Row, to_documents
from fledge.data.packing import Example
from fledge.data.readers import read
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer


def read_documents(path: Path, log: Log) -> list[Document]:
    """The documents of any readable file or folder; says what was left out and why."""
    rows = read(path)
    documents, dropped = to_documents(rows.rows)
    for reason, count in [*rows.report.dropped.items(), *dropped.items()]:
        log.say(f"[yellow]{escape(f'{path.name}: left out {count:,} rows: {reason}')}[/]")
    return documents


def document_examples(documents: Sequence[Document], tokenizer: Tokenizer) -> dict[str, list[Example]]:
    """Documents by kind, each between document marks: mark, text, mark; every token is a target."""
    mark = np.array([tokenizer.document_id], dtype=np.int32)
    found: dict[str, list[Example]] = {}
    for document, ids in zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True):
        found.setdefault(document.kind or "text", []).append(Example.of(np.concatenate([mark, ids, mark])))
    return found


def text_examples(documents: Sequence[Document], tokenizer: Tokenizer) -> dict[str, list[Example]]:
    """Documents by kind without marks: what the objectives beside language modelling corrupt."""
    found: dict[str, list[Example]] = {}
    for document, ids in zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True):
        found.setdefault(document.kind or "text", []).append(Example.of(ids))
    return found


def translation_examples(rows: Sequence[Row], tokenizer: Tokenizer) -> dict[str, list[Example]]:
    """Rows of source and target text, one after the other; only the target is supervised, which tells them apart."""
    both = [tokenizer.encode_batch([row[side] for row in rows]) for side in ("source", "target")]
    examples = [
        Example(np.concatenate([a, b]), np.repeat([False, True], [len(a), len(b)])) for a, b in zip(*both, strict=True)
    ]
    return {"text": examples}


def conversation_examples(conversations: Sequence[Conversation], tokenizer: Tokenizer) -> list[Example]:
    """Conversations through the chat template; only what the assistant said is supervised, end-of-turn included."""
    rendered = [render(tokenizer, conversation.messages) for conversation in conversations]
    return [Example(np.array(r.ids, dtype=np.int32), np.array(r.mask, dtype=bool)) for r in rendered]


def answer_ids(tokenizer: Tokenizer, prompt: Sequence[Message], answer: str) -> list[int]:
    """A prompt and one answer as a policy would have sampled it: the last token is the end of the turn."""
    ids = render(tokenizer, prompt, add_generation_prompt=True).ids
    return [*ids, *tokenizer.encode(answer), tokenizer.eos_id]
