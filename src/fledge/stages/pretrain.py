"""Self-supervised pretraining: a decoder learns language by predicting the next token (arXiv:2005.14165).

Documents are cut into rows of `length` tokens, rows hold whole pieces that never see each other, and the mixture of
kinds follows `weights` (default: as many tokens as there are). Held-out documents give bits per byte, which, unlike
the loss, compares models of different vocabularies.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from fledge.checkpoint.directory import save_model
from fledge.core.device import pick_device
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.data.packing import Example
from fledge.data.stream import Stream
from fledge.evaluate.language import evaluate_language
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.objectives.language import next_token
from fledge.stages.examples import document_examples, read_documents
from fledge.stages.preflight import check_contamination, check_length, check_memory
from fledge.stages.session import Session, TrainConfig
from fledge.text.tokenizer import Tokenizer


class PretrainConfig(TrainConfig):
    """`tokens` is the training budget; `depth` sizes the model (width 64·depth); `context` is its longest sequence."""

    documents: Path
    tokenizer: Path
    heldout: Path | None = None
    depth: int = Field(4, gt=0)
    context: int = Field(512, gt=1)
    tokens: int = Field(2_000_000, gt=0)
    weights: dict[str, float] = {}
    evaluate_every: int = 100
    evaluate_documents: int = 64


def pretrain(config: PretrainConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes a Hugging Face directory of a Qwen3-shaped decoder."""
    torch.manual_seed(config.seed)
    tokenizer = Tokenizer.load(config.tokenizer)
    documents = read_documents(config.documents, log)
    heldout = read_documents(config.heldout, log)[: config.evaluate_documents] if config.heldout else []
    check_contamination((d.text for d in documents), (d.text for d in heldout), "held-out documents")
    sources = document_examples(documents, tokenizer)

    weights = mixture(config.weights, sources)
    shape = ModelConfig.sized(config.depth, tokenizer.vocab_size, config.context)
    device = pick_device(config.device)
    check_length(config.length, shape)
    stream = Stream(
        sources, weights, config.length, config.rows_per_microbatch, config.microbatches, config.seed, split=True
    )
    steps = max(1, config.tokens // stream.tokens_per_step)
    show_mixture(sources, weights, steps * stream.tokens_per_step, log)
    flops = steps * stream.tokens_per_step * shape.flops_per_token(config.length)
    log.say(
        f"{shape.parameters() / 1e6:.1f} M parameters ({shape.layers} layers of {shape.width}), {steps:,} steps of "
        f"{stream.tokens_per_step:,} tokens, {flops:.2g} FLOPs"
    )
    check_memory(shape, device, config.tokens_per_microbatch, config.length, copies=0, log=log)

    model = build(shape).to(device)
    session = Session(config, model, stream, steps, out, log, "pretrain")
    for step in session.fit(next_token):
        if heldout and (step.every(config.evaluate_every) or step.number + 1 == steps):
            with session.autocast():
                measured = evaluate_language(model, tokenizer, heldout, length=config.length)
            log.metrics(step.number + 1, bits_per_byte=measured.bits_per_byte.value)
            session.watched = {"bits_per_byte": measured.bits_per_byte.value}

    save_model(model, out, tokenizer=tokenizer)
    return {
        "parameters": shape.parameters(),
        "flops_per_token": shape.flops_per_token(config.length),
        "epochs": stream.epochs(),
        **session.watched,
        **session.summary(),
    }


def mixture(weights: dict[str, float], sources: dict[str, list[Example]]) -> dict[str, float]:
    """The share of each kind: as asked, or by its tokens."""
    unknown = set(weights) - set(sources)
    if unknown:
        raise FledgeError(f"no documents of kind '{sorted(unknown)[0]}'", f"kinds here: {', '.join(sorted(sources))}")
    tokens = {kind: float(sum(len(e.ids) for e in examples)) for kind, examples in sources.items()}
    chosen = {kind: weights.get(kind, 0.0) for kind in sources} if weights else tokens
    total = sum(chosen.values())
    return {kind: weight / total for kind, weight in chosen.items() if weight > 0}


def show_mixture(sources: dict[str, list[Example]], weights: dict[str, float], tokens: int, log: Log) -> None:
    """The mixture as a table: documents, tokens, weight and how often each will be seen."""
    rows = []
    for kind, weight in weights.items():
        size = sum(len(e.ids) for e in sources[kind])
        rows.append([kind, len(sources[kind]), size, f"{weight:.0%}", round(tokens * weight / size, 2)])
    log.table("mixture", ["kind", "documents", "tokens", "weight", "epochs"], rows)
