"""Documents, conversations and comparisons as token ids with a mask of what is supervised."""

from collections.abc import Sequence

import numpy as np

from fledge.core.nouns import Conversation, Document, Message
from fledge.data.packing import Example
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer


def document_examples(documents: Sequence[Document], tokenizer: Tokenizer) -> dict[str, list[Example]]:
    """Documents by kind, each between document marks: mark, text, mark; every token is a target."""
    mark = np.array([tokenizer.document_id], dtype=np.int32)
    found: dict[str, list[Example]] = {}
    for document, ids in zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True):
        whole = np.concatenate([mark, ids, mark])
        found.setdefault(document.kind or "text", []).append(Example(whole, np.ones(len(whole), dtype=bool)))
    return found


def conversation_examples(conversations: Sequence[Conversation], tokenizer: Tokenizer) -> list[Example]:
    """Conversations through the chat template; only what the assistant said is supervised, end-of-turn included."""
    rendered = [render(tokenizer, conversation.messages) for conversation in conversations]
    return [Example(np.array(r.ids, dtype=np.int32), np.array(r.mask, dtype=bool)) for r in rendered]


def answer_ids(tokenizer: Tokenizer, prompt: Sequence[Message], answer: str) -> list[int]:
    """A prompt and one answer as a policy would have sampled it: the last token is the end of the turn."""
    ids = render(tokenizer, prompt, add_generation_prompt=True).ids
    return [*ids, *tokenizer.encode(answer), tokenizer.eos_id]
