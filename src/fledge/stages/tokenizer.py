"""Byte-level BPE learnt from the curated documents (arXiv:1508.07909, GPT-2's byte alphabet)."""

from pathlib import Path
from typing import Any

from fledge.core.config import Config
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.data.columns import to_documents
from fledge.data.readers import read
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer


class TokenizerConfig(Config):
    """`documents`: any readable file or folder with text. `denoising` adds the special tokens that the objectives
    beside language modelling need ([MASK], [CLS], [SEP], sentinels; docs/objectives.md)."""

    documents: Path
    vocab_size: int = 4096
    denoising: bool = False


def tokenizer(config: TokenizerConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    documents, _ = to_documents(read(config.documents).rows)
    if not documents:
        raise FledgeError(f"{config.documents} holds no text to learn a vocabulary from", "give documents with text")
    special = SPECIAL + DENOISING * config.denoising
    learnt = Tokenizer.train((d.text for d in documents), config.vocab_size, special_tokens=special)
    learnt.save(out)
    sample = [d.text for d in documents[:: max(1, len(documents) // 500)]]
    tokens = sum(len(ids) for ids in learnt.encode_batch(sample))
    size = sum(len(text.encode()) for text in sample)
    log.say(f"vocabulary {learnt.vocab_size:,}; {size / tokens:.2f} bytes per token on its own text")
    return {"vocab_size": learnt.vocab_size, "bytes_per_token": size / tokens}
