"""Supervised fine-tuning on demonstrations: InstructGPT's step 1 (arXiv:2203.02155 §3.5).

The loss is on what the assistant says, end-of-turn included, in every turn. Rows of pretraining text are mixed in so
that the model keeps its language.
"""

from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from fledge.checkpoint.directory import load_model, read_config, save_model
from fledge.core.device import pick_device
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.core.nouns import Conversation
from fledge.data.columns import to_conversations
from fledge.data.readers import read
from fledge.data.stream import Stream
from fledge.objectives.language import next_token
from fledge.stages.examples import conversation_examples, document_examples, read_documents
from fledge.stages.preflight import (
    check_examples,
    check_finite,
    check_length,
    check_marks,
    check_memory,
    check_tokenizer,
    check_vocabulary,
)
from fledge.stages.pretrain import mixture
from fledge.stages.session import Session, TrainConfig
from fledge.text.tokenizer import Tokenizer


class SftConfig(TrainConfig):
    """`epochs` over the demonstrations; `documents` are mixed in with `pretraining_share` of the rows, by `weights` as
    in pretraining."""

    model: Path
    demonstrations: Path
    documents: Path | None = None
    weights: dict[str, float] = {}
    pretraining_share: float = 0.1
    epochs: float = 3.0
    drop_long: bool = False


def sft(config: SftConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes a Hugging Face directory of the fine-tuned model."""
    torch.manual_seed(config.seed)
    tokenizer = Tokenizer.load(config.model)
    check_tokenizer(tokenizer)
    shape, device = read_config(config.model)[0], pick_device(config.device)
    check_length(config.length, shape)
    conversations = read_conversations(config.demonstrations, log)
    examples = conversation_examples(conversations, tokenizer)
    check_marks(examples, tokenizer, "demonstrations")
    check_vocabulary((e.ids for e in examples), shape, "demonstrations")
    examples = check_examples(examples, config.length, config.drop_long, "demonstrations", log)

    sources, weights = {"demonstrations": examples}, {"demonstrations": 1.0}
    if config.documents and config.pretraining_share:
        texts = document_examples(read_documents(config.documents, log), tokenizer)
        sources |= texts
        weights = {"demonstrations": 1 - config.pretraining_share}
        weights |= {kind: config.pretraining_share * share for kind, share in mixture(config.weights, texts).items()}
    stream = Stream(
        sources, weights, config.length, config.rows_per_microbatch, config.microbatches, config.seed,
        split=True, whole=["demonstrations"],
    )  # fmt: skip
    tokens = sum(len(e.ids) for e in examples)
    supervised = sum(int(e.mask.sum()) for e in examples)
    steps = max(1, round(config.epochs * tokens / weights["demonstrations"] / stream.tokens_per_step))
    log.say(
        f"{len(examples):,} conversations, {tokens:,} tokens, {supervised / tokens:.0%} of them supervised; "
        f"{steps:,} steps of {stream.tokens_per_step:,} tokens"
    )

    check_memory(shape, config, log)
    model = load_model(config.model, device=device)
    check_finite(model, str(config.model))
    session = Session(config, model, stream, steps, out, log, "sft")
    for _ in session.fit(next_token):
        pass

    save_model(model, out, tokenizer=tokenizer)
    return {
        "conversations": len(examples),
        "supervised_share": supervised / tokens,
        "epochs": stream.epochs(),
        **session.summary(),
    }


def read_conversations(path: Path, log: Log) -> list[Conversation]:
    """The conversations of a file in any of the known layouts; says what was dropped and why."""
    rows = read(path)
    conversations, dropped = to_conversations(rows.rows)
    for reason, count in [*rows.report.dropped.items(), *dropped.items()]:
        log.say(f"[yellow]{escape(f'{path.name}: left out {count:,} rows: {reason}')}[/]")
    if not conversations:
        raise FledgeError(
            f"{path} holds no conversations",
            "give columns messages, prompt+completion, instruction+output or conversations",
        )
    return conversations
