"""Fine-tuning on labelled tasks: classes, numbers, sentence pairs, tags, answers in a text, text to text.

One recipe for all (GPT, Radford et al. 2018; BERT, arXiv:1810.04805; T5, arXiv:1910.10683): a pretrained backbone, or
a fresh one for comparison, gets the head of the task and all of it is trained. What training has learnt from is never
measured on. The result is a Hugging Face directory of the task's kind; every figure comes with an interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from fledge.checkpoint.directory import load_model, read_config, save_model
from fledge.checkpoint.families import family_for
from fledge.checkpoint.lstm import is_lstm, load_lstm, save_lstm
from fledge.core.config import make_config
from fledge.core.device import pick_device
from fledge.core.errors import FledgeError
from fledge.core.files import write_json, write_jsonl
from fledge.core.log import Log
from fledge.data.encoded import EncodedStream
from fledge.data.labelled import parallel_rows, to_labelled, to_questions, to_tagged, to_text_pairs
from fledge.evaluate.metrics import needed
from fledge.generate.beam import BeamConfig
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.model.lstm import LstmConfig, LstmModel
from fledge.stages.answering import Answering
from fledge.stages.labelling import Classification, Regression, Tagging
from fledge.stages.preflight import check_finite, check_length, check_memory
from fledge.stages.session import Session, TrainConfig
from fledge.stages.tasks import Setting, Shape, Task, check_shape, read_rows
from fledge.stages.writing import Writing
from fledge.text.tokenizer import Tokenizer
from fledge.train.optimizers import OptimizerConfig

Name = Literal["classification", "regression", "tagging", "answering", "text_to_text"]


class FinetuneConfig(TrainConfig):
    """`train` and `evaluate` are files of examples (without `evaluate`, a share `heldout` of train is kept for it);
    `columns` names columns that are not found by themselves, e.g. columns.label=stars. Text to text also reads two
    files that match by line: train + train_targets, evaluate + evaluate_targets; `prefix` names the task to the model.

    `model` is a pretrained directory. Without it a fresh model of `shape` and `depth` (and any `axes`) begins with the
    `tokenizer`. `limit` takes the first so many training examples. beam, max_new_tokens, nbest: how texts are written
    when they are measured. epochs=0 measures only.
    """

    task: Name
    train: Path
    train_targets: Path | None = None
    evaluate: Path | None = None
    evaluate_targets: Path | None = None
    heldout: float = Field(0.1, gt=0, lt=1)
    columns: dict[str, str] = {}
    prefix: str = ""
    limit: int = 0
    model: Path | None = None
    tokenizer: Path | None = None
    shape: Shape | None = None
    depth: int = Field(4, gt=0)
    context: int = Field(512, gt=1)
    axes: dict[str, Any] = {}
    epochs: float = Field(3.0, ge=0)
    evaluate_every: int = 0
    beam: BeamConfig = BeamConfig()
    max_new_tokens: int = Field(64, gt=0)
    nbest: int = Field(1, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", learning_rate=5e-4, weight_decay=0.01)


def finetune(config: FinetuneConfig, out: Path, log: Log) -> dict[str, Any]:
    """Writes a Hugging Face directory, evaluation.json and predictions.jsonl."""
    torch.manual_seed(config.seed)
    job = prepare(config, log)
    task, model, stream = job.task, job.model, job.stream
    if isinstance(model.config, ModelConfig):
        check_memory(model.config, config, log)
    steps = round(config.epochs * stream.steps_per_epoch)
    log.say(
        f"{job.examples:,} examples to learn from in {len(stream.samples):,} rows, {len(job.evaluation):,} to measure "
        f"on; {model.config.parameters() / 1e6:.1f} M parameters, {steps:,} steps"
    )
    session = Session(config, model, stream, steps, out, log, "finetune")
    for step in session.fit(task.loss):
        if step.every(config.evaluate_every):
            with session.autocast():
                figures, _ = task.measure(model, job.evaluation, config.tokens_per_microbatch)
            log.metrics(step.number + 1, **{name: figure.value for name, figure in figures.items()})

    with session.autocast():
        figures, predictions = task.measure(model, job.evaluation, config.tokens_per_microbatch)
    rows = [[name, f"{f.value:.4g}", f"{f.low:.4g} – {f.high:.4g}", f.n] for name, f in figures.items()]
    log.table(f"{config.task}: {len(job.evaluation):,} examples", ["metric", "value", "95 % interval", "n"], rows)
    measured = {name: figure.as_dict() for name, figure in figures.items()}
    write_json(out / "evaluation.json", {"task": config.task, "metrics": measured})
    write_jsonl(out / "predictions.jsonl", predictions)
    save = save_lstm if isinstance(model, LstmModel) else save_model
    save(model, out, tokenizer=job.tokenizer, extra=task.notes())
    return {
        "task": config.task,
        "examples": job.examples,
        "parameters": model.config.parameters(),
        "metrics": measured,
        **session.summary(),
    }


@dataclass(frozen=True)
class Job:
    """All that a fine-tuning needs before it begins; `examples` is how many it learns from."""

    tokenizer: Tokenizer
    task: Task
    model: Any
    stream: EncodedStream
    evaluation: list[Any]
    examples: int


def prepare(config: FinetuneConfig, log: Log) -> Job:
    """Reads examples and model, and refuses what does not go together before any time is spent."""
    if config.task == "text_to_text":
        for module in ("sacrebleu", "rouge_score.rouge_scorer"):
            needed(module)
    start = config.model or config.tokenizer
    if start is None:
        raise FledgeError("there is nothing to begin with", "give model=DIRECTORY, or tokenizer=DIRECTORY and shape=…")
    tokenizer, shape = Tokenizer.load(start), shape_of(config)
    train, evaluation = examples_of(config, log)
    setting = Setting(tokenizer, shape, config.length, config.prefix, config.beam, config.max_new_tokens, config.nbest)
    task = task_of(config, setting, train)
    check_shape(task, config.task, shape)
    train = apart(train, evaluation, task, config.limit, log)
    encoded = fitting(task.encode(train, training=True), config.length, log)
    model = model_for(task, config, shape, tokenizer).to(pick_device(config.device))
    check_length(config.length, model.config)
    if shape != "lstm":
        family_for(model.config)  # refuses now, not after training, what could not be written
    tokens = max(1, config.tokens_per_step // config.microbatches)
    stream = EncodedStream(encoded, tokens, config.microbatches, config.seed)
    return Job(tokenizer, task, model, stream, evaluation, len(train))


def shape_of(config: FinetuneConfig) -> Shape:
    """The shape of the model: the pretrained one's, or as asked, or what the task is usually given to."""
    if config.model is None:
        return config.shape or ("encoder_decoder" if config.task == "text_to_text" else "encoder")
    shape: Shape = "lstm" if is_lstm(config.model) else read_config(config.model)[0].shape
    if config.shape not in (None, shape):
        raise FledgeError(f"{config.model} is of shape '{shape}', not '{config.shape}'", "leave shape out")
    return shape


def examples_of(config: FinetuneConfig, log: Log) -> tuple[list[Any], list[Any]]:
    """The examples to learn from and those to measure on."""
    convert: Any = {
        "classification": partial(to_labelled, number=False),
        "regression": partial(to_labelled, number=True),
        "tagging": to_tagged,
        "answering": to_questions,
        "text_to_text": to_text_pairs,
    }[config.task]

    def read(path: Path, targets: Path | None) -> list[Any]:
        if targets is None:
            return read_rows(path, convert, config.columns, log)
        examples, dropped = to_text_pairs(parallel_rows(path, targets), {"source": "source", "target": "target"})
        for reason, count in dropped.items():
            log.say(f"[yellow]{path.name}: left out {count:,} lines: {reason}[/]")
        return examples

    train = read(config.train, config.train_targets)
    if config.evaluate is not None:
        return train, read(config.evaluate, config.evaluate_targets)
    held = np.random.default_rng([config.seed, 1]).random(len(train)) < config.heldout
    return [e for e, h in zip(train, held) if not h], [e for e, h in zip(train, held) if h]


def apart(train: list[Any], evaluation: list[Any], task: Task, limit: int, log: Log) -> list[Any]:
    """What is learnt from without what is measured on, the first `limit` of it (0: all)."""
    known = {" ".join(task.key(e).lower().split()) for e in evaluation}
    kept = [e for e in train if " ".join(task.key(e).lower().split()) not in known]
    if len(kept) < len(train):
        log.say(f"[yellow]left out {len(train) - len(kept):,} training examples that are measured on too[/]")
    kept = kept[:limit] if limit else kept
    if not kept or not evaluation:
        raise FledgeError(
            f"{len(kept):,} examples are left to learn from and {len(evaluation):,} to measure on", "give more examples"
        )
    return kept


def task_of(config: FinetuneConfig, setting: Setting, train: Sequence[Any]) -> Task:
    """The task, with what it learns about itself from the training examples."""
    match config.task:
        case "classification":
            return Classification(setting, names_for(config, {str(e.label) for e in train}))
        case "regression":
            return Regression(setting, float(np.mean([e.label for e in train])))
        case "tagging":
            return Tagging(setting, names_for(config, {tag for e in train for tag in e.tags}))
        case "answering":
            return Answering(setting, any(not e.answers for e in train))
        case "text_to_text":
            return Writing(setting)


def names_for(config: FinetuneConfig, found: set[str]) -> list[str]:
    """The labels in order: the model's own, where it knows all that were found, else a new order."""
    known = read_config(config.model)[1].get("id2label") if config.model else None
    names = [known[number] for number in sorted(known, key=int)] if known else []
    return names if found <= set(names) else in_order(found)


def in_order(names: set[str]) -> list[str]:
    """Labels by number where they are numbers, else by name; O, the tag of nothing, first."""
    numeric = all(name.lstrip("-").isdigit() for name in names)
    return sorted(names, key=lambda name: (name != "O", int(name) if numeric else 0, name))


def fitting(encoded: list[Any], length: int, log: Log) -> list[Any]:
    """The rows that fit; the longer ones are left out and counted."""
    kept = [e for e in encoded if max(e.lengths) <= length]
    if len(kept) < len(encoded):
        log.say(f"[yellow]left out {len(encoded) - len(kept):,} examples: longer than {length} tokens (length)[/]")
    return kept


def model_for(task: Task, config: FinetuneConfig, shape: Shape, tokenizer: Tokenizer) -> Any:
    """The model with the task's head: on the pretrained backbone, or all fresh."""
    axes = task.axes()
    if config.model is not None:
        lstm = shape == "lstm"
        model = (
            load_lstm(config.model) if lstm
            else load_model(config.model, head=axes["head"], labels=axes.get("labels"))
        )  # fmt: skip
        check_finite(model, str(config.model))
        return begun(model, task)
    if shape == "lstm":
        sizes = {"vocab_size": tokenizer.vocab_size, "context": config.context, "layers": 2, "width": 64 * config.depth}
        return LstmModel(make_config(LstmConfig, sizes | config.axes, where="axes"))
    sized = ModelConfig.sized(config.depth, tokenizer.vocab_size, config.context, shape, **config.axes | axes)
    return begun(build(sized), task)


@torch.no_grad()
def begun(model: nn.Module, task: Task) -> nn.Module:
    """The model, whose first guess of a number is the mean, where its head has a bias."""
    if isinstance(task, Regression):
        for name, parameter in model.named_parameters():
            if name in ("score.out.bias", "score.bias"):
                parameter.fill_(task.center)
    return model
