"""Self-supervised pretraining: a model learns language by an objective of the table in `objective`.

The default is a decoder that predicts the next token (arXiv:2005.14165): documents are cut into rows of `length`
tokens, rows hold whole pieces that never see each other. Other objectives corrupt windows of the text first
(`data/corruption/`), on a model of the shape they need. The mixture of kinds follows `weights` (default: as many tokens
as there are). Held-out documents give bits per byte of a language model, which, unlike the loss, compares models of
different vocabularies, and the loss and accuracy of any other objective.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from fledge.checkpoint.directory import load_model, read_config, save_model
from fledge.core.device import pick_device
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.core.nouns import Document
from fledge.data.corruption.sample import CorruptionConfig
from fledge.data.labelled import parallel_rows
from fledge.data.packing import Example
from fledge.data.stream import Stream
from fledge.evaluate.language import evaluate_language
from fledge.evaluate.objective import measure_objective
from fledge.model.config import ModelConfig, Shape
from fledge.model.heads import Headed
from fledge.stages.examples import document_examples, read_documents, text_examples, translation_examples
from fledge.stages.objective import Plan, plan_of
from fledge.stages.preflight import (
    check_contamination,
    check_finite,
    check_length,
    check_memory,
    check_vocabulary,
)
from fledge.stages.session import Session, TrainConfig
from fledge.text.tokenizer import Tokenizer


class PretrainConfig(TrainConfig):
    """`tokens` is the training budget; `depth` sizes the model (width 64·depth); `context` is its longest sequence.
    `model`: one to go on from instead (on other texts, or with another objective, whose head is then fresh).

    objective: a name of docs/objectives.md, or several with weights ({span_mask: 1, infilling: 1}). shape: by default
    the one that the objective needs. translations: a file whose lines translate those of `documents`.
    """

    documents: Path
    tokenizer: Path
    heldout: Path | None = None
    objective: str | dict[str, float] = "lm"
    shape: Shape | Literal["auto"] = "auto"
    corruption: CorruptionConfig = CorruptionConfig()
    translations: Path | None = None
    heldout_translations: Path | None = None
    model: Path | None = None
    depth: int = Field(4, gt=0)
    context: int = Field(512, gt=1)
    tokens: int = Field(2_000_000, gt=0)
    weights: dict[str, float] = {}
    evaluate_every: int = 100
    evaluate_documents: int = 64


def pretrain(config: PretrainConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes a Hugging Face directory of the model that the objective trains: for detection, of the discriminator.

    In best/ it writes that of the best held-out figure, if that is not the last.
    """
    torch.manual_seed(config.seed)
    tokenizer = Tokenizer.load(config.tokenizer)
    plan = plan_of(config.objective, config.shape, config.corruption, config.length, tokenizer)
    documents, sources = read_texts(plan, config.documents, config.translations, tokenizer, log)
    heldout, held = read_texts(
        plan, config.heldout, config.heldout_translations, tokenizer, log, config.evaluate_documents
    )
    check_contamination((d.text for d in documents), (d.text for d in heldout), "held-out documents")
    plan.check_texts(sources)

    weights = mixture(config.weights, sources)
    common = plan.common
    given = None if config.model is None else begun_from(config.model, plan, tokenizer)
    sizes = config.depth, tokenizer.vocab_size, config.context
    shape = given.config if given else ModelConfig.sized(*sizes, common.shape, head=common.head)
    device = pick_device(config.device)
    check_length(config.length, shape)
    stream = Stream(
        sources, weights, config.length, config.rows_per_microbatch, config.microbatches, config.seed, split=True,
        arrange=None if plan.plain else plan.rows,
    )  # fmt: skip
    steps = max(1, config.tokens // stream.tokens_per_step)
    show_mixture(sources, weights, steps * stream.tokens_per_step, log)
    flops = steps * stream.tokens_per_step * shape.flops_per_token(config.length)
    log.say(
        f"{shape.parameters() / 1e6:.1f} M parameters ({shape.layers} layers of {shape.width}), {steps:,} steps of "
        f"{stream.tokens_per_step:,} tokens, {flops:.2g} FLOPs"
    )
    check_memory(shape, config, log)

    model = plan.model(shape, given).to(device)
    rows = [] if plan.plain else plan.heldout_rows(held)

    def write(directory: Path) -> None:
        save_model(plan.product(model), directory, tokenizer=tokenizer, extra=plan.notes())

    session = Session(config, model, stream, steps, out, log, "pretrain")
    for step in session.fit(common.loss):
        if heldout and (step.every(config.evaluate_every) or step.number + 1 == steps):
            with session.autocast():
                if plan.plain:
                    measured = evaluate_language(model, tokenizer, heldout, length=config.length)
                    session.watched = {"bits_per_byte": measured.bits_per_byte.value}
                else:
                    found = measure_objective(model, rows, common.loss, config.rows_per_microbatch)
                    session.watched = {f"heldout_{name}": value for name, value in found.items()}
            log.metrics(step.number + 1, **session.watched)
            session.keep_best(
                step.number + 1, session.watched["bits_per_byte" if plan.plain else "heldout_loss"], write
            )

    write(out)
    return {
        "parameters": shape.parameters(),
        "flops_per_token": shape.flops_per_token(config.length),
        "epochs": stream.epochs(),
        **session.watched,
        **session.summary(),
    }


def begun_from(directory: Path, plan: Plan, tokenizer: Tokenizer) -> Headed:
    """The model in a directory, with the objective's head. Raises FledgeError where the two do not fit together."""
    found, wanted = read_config(directory)[0].shape, plan.common.shape
    if found != wanted:
        raise FledgeError(
            f"{directory} is of shape={found}, the objective needs shape={wanted}: {plan.common.why}",
            "give another model, or another objective",
        )
    model: Headed = load_model(directory, head=plan.common.head, labels=2 if plan.common.head == "tokens" else None)
    check_vocabulary([[tokenizer.vocab_size - 1]], model.config, "texts")
    check_finite(model, str(directory))
    return model


def read_texts(
    plan: Plan, path: Path | None, translations: Path | None, tokenizer: Tokenizer, log: Log, most: int | None = None
) -> tuple[list[Document], dict[str, list[Example]]]:
    """The first `most` documents of a path, with translations if there are any, and the same as examples by kind."""
    if path is None:
        return [], {}
    if translations is not None:
        rows = [row for row in parallel_rows(path, translations) if row["source"].strip() and row["target"].strip()]
        texts = [Document(f"{row['source']}\n{row['target']}") for row in rows[:most]]
        return texts, translation_examples(rows[:most], tokenizer)
    documents = read_documents(path, log)[:most]
    return documents, (document_examples if plan.plain else text_examples)(documents, tokenizer)


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
