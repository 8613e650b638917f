"""Labels for texts: classes, numbers, and tags of words.

The labels are those of the training data, in order; a label of the evaluation that training never showed is an error.
A word is read at its first token, where it has its tag.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from fledge.core.errors import FledgeError
from fledge.data.encoded import IGNORED, Batch, Encoded
from fledge.data.labelled import Labelled, Tagged
from fledge.evaluate import metrics
from fledge.evaluate.statistics import Estimate
from fledge.objectives import Loss, labelled
from fledge.stages.tasks import Row, Setting, Shape, outputs
from fledge.text.frame import Frame

READS = "it reads a whole text: an encoder, or a decoder at the text's end"


@dataclass
class Classification:
    """Classes of texts or of pairs of texts."""

    setting: Setting
    names: list[str]
    shapes: tuple[Shape, ...] = ("encoder", "decoder")
    reason: str = READS
    loss: Callable[[Any, Batch], Loss] = labelled.classification

    def __post_init__(self) -> None:
        self.number = {name: i for i, name in enumerate(self.names)}
        if len(self.names) < 2:
            raise FledgeError(f"all examples have the label {self.names}", "give examples of two classes or more")

    def axes(self) -> dict[str, Any]:
        return {"head": "classifier", "labels": len(self.names)}

    def notes(self) -> dict[str, Any]:
        return label_notes(self.names) | {"problem_type": "single_label_classification"}

    def key(self, example: Labelled) -> str:
        return f"{example.text}\n{example.pair or ''}"

    def encode(self, examples: Sequence[Labelled], *, training: bool) -> list[Encoded]:
        return encode_texts(self.setting, examples, [number_of(self.number, e.label) for e in examples])

    def measure(self, model: nn.Module, examples: Sequence[Any], tokens: int) -> tuple[dict[str, Estimate], list[Row]]:
        encoded = self.encode(examples, training=False)
        rows: list[Row] = [{}] * len(encoded)
        for group, _, output in outputs(model, encoded, tokens):
            chances = output.values.float().softmax(-1)
            for i, values in zip(group, chances.tolist()):
                best = int(np.argmax(values))
                rows[i] = {**said_of(examples[i]), "predicted": self.names[best], "probability": values[best]}
        predicted = [self.number[row["predicted"]] for row in rows]
        gold = [self.number[str(e.label)] for e in examples]
        return metrics.classes(predicted, gold, len(self.names)), rows


@dataclass
class Regression:
    """A number for texts or for pairs of texts. `center` is the mean of the training data's, where an encoder's head
    begins."""

    setting: Setting
    center: float
    shapes: tuple[Shape, ...] = ("encoder", "decoder")
    reason: str = READS
    loss: Callable[[Any, Batch], Loss] = labelled.regression

    def axes(self) -> dict[str, Any]:
        return {"head": "classifier", "labels": 1}

    def notes(self) -> dict[str, Any]:
        return label_notes(["score"]) | {"problem_type": "regression"}

    def key(self, example: Labelled) -> str:
        return f"{example.text}\n{example.pair or ''}"

    def encode(self, examples: Sequence[Labelled], *, training: bool) -> list[Encoded]:
        return encode_texts(self.setting, examples, [float(e.label) for e in examples])

    def measure(self, model: nn.Module, examples: Sequence[Any], tokens: int) -> tuple[dict[str, Estimate], list[Row]]:
        encoded = self.encode(examples, training=False)
        rows: list[Row] = [{}] * len(encoded)
        for group, _, output in outputs(model, encoded, tokens):
            for i, value in zip(group, output.values[:, 0].float().tolist()):
                rows[i] = {**said_of(examples[i]), "predicted": value}
        return metrics.numbers([row["predicted"] for row in rows], [float(e.label) for e in examples]), rows


@dataclass
class Tagging:
    """A tag for every word."""

    setting: Setting
    names: list[str]
    shapes: tuple[Shape, ...] = ("encoder", "decoder")
    reason: str = "a tag belongs to a word that is read"
    loss: Callable[[Any, Batch], Loss] = labelled.tagging
    cut: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.number = {name: i for i, name in enumerate(self.names)}

    def axes(self) -> dict[str, Any]:
        return {"head": "tokens", "labels": len(self.names)}

    def notes(self) -> dict[str, Any]:
        return label_notes(self.names)

    def key(self, example: Tagged) -> str:
        return " ".join(example.tokens)

    def encode(self, examples: Sequence[Tagged], *, training: bool) -> list[Encoded]:
        frame = Frame.of(self.setting.tokenizer, self.setting.shape)
        words = [" " * (i > 0) + word for e in examples for i, word in enumerate(e.tokens)]
        pieces = iter(self.setting.tokenizer.encode_batch(words))
        room = self.setting.length - len(frame.before) - len(frame.after)
        encoded = []
        for example in examples:
            ids: list[int] = []
            tags: list[int] = []
            for tag in example.tags:
                piece = next(pieces).tolist()
                ids += piece
                tags += [number_of(self.number, tag), *[IGNORED] * (len(piece) - 1)][: len(piece)]
            edges = [IGNORED] * len(frame.before), [IGNORED] * len(frame.after)
            columns = {"ids": [*frame.before, *ids[:room], *frame.after], "tags": [*edges[0], *tags[:room], *edges[1]]}
            encoded.append(Encoded({name: np.array(values, np.int32) for name, values in columns.items()}))
        return encoded

    def measure(self, model: nn.Module, examples: Sequence[Any], tokens: int) -> tuple[dict[str, Estimate], list[Row]]:
        encoded = self.encode(examples, training=False)
        rows: list[Row] = [{}] * len(encoded)
        for group, batch, output in outputs(model, encoded, tokens):
            for i, best, tags in zip(group, output.values.argmax(-1).tolist(), batch["tags"].tolist()):
                said = [self.names[label] for label, tag in zip(best, tags) if tag != IGNORED]
                # A word that was cut off, or that has no token, is taken to have the commonest tag there is: the first.
                said += [self.names[0]] * (len(examples[i].tokens) - len(said))
                rows[i] = {"tokens": examples[i].tokens, "tags": examples[i].tags, "predicted": said}
        return metrics.tags([row["predicted"] for row in rows], [e.tags for e in examples]), rows


def label_notes(names: Sequence[str]) -> dict[str, Any]:
    """The labels as config.json has them."""
    return {
        "num_labels": len(names),
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def number_of(numbers: dict[str, int], label: Any) -> int:
    """The number of a label; raises FledgeError for one that training has not shown."""
    if str(label) not in numbers:
        raise FledgeError(
            f"the label '{label}' does not occur in the training data", f"known: {', '.join(list(numbers)[:20])}"
        )
    return numbers[str(label)]


def encode_texts(setting: Setting, examples: Sequence[Labelled], labels: Sequence[float | int]) -> list[Encoded]:
    """Texts and pairs between their marks, with their labels."""
    frame = Frame.of(setting.tokenizer, setting.shape)
    firsts = setting.tokenizer.encode_batch([setting.prefix + e.text for e in examples])
    pairs = iter(setting.tokenizer.encode_batch([e.pair for e in examples if e.pair is not None]))
    encoded = []
    for example, first, label in zip(examples, firsts, labels, strict=True):
        second = None if example.pair is None else next(pairs).tolist()
        ids, types = frame.join(first.tolist(), second, setting.length)
        columns = {"ids": ids} | ({"token_types": types} if setting.shape == "encoder" else {})
        encoded.append(Encoded(columns, {"labels": label}))
    return encoded


def said_of(example: Labelled) -> Row:
    """An example as a row of the predictions."""
    return {"text": example.text} | ({"pair": example.pair} if example.pair else {}) | {"label": example.label}
