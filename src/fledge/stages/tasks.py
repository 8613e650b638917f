"""What every labelled task has: how examples are read and laid out as rows, and how a model is asked about them.

The tasks themselves: `labelling`, `answering`, `writing`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from rich.markup import escape
from torch import nn

from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.data.encoded import Batch, Encoded, by_length, collate_encoded
from fledge.data.readers import read
from fledge.evaluate.statistics import Estimate
from fledge.generate.beam import BeamConfig
from fledge.model.inputs import inputs
from fledge.objectives import Loss
from fledge.text.tokenizer import Tokenizer

Shape = Literal["encoder", "decoder", "encoder_decoder", "lstm"]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a task is set in: the vocabulary, the model's shape, the longest row, and how texts are written."""

    tokenizer: Tokenizer
    shape: Shape
    length: int
    prefix: str = ""
    beam: BeamConfig = field(default_factory=BeamConfig)
    max_new_tokens: int = 64
    nbest: int = 1


class Task(Protocol):
    """A labelled task. `shapes` are the models it can be put to, `reason` why no others."""

    shapes: tuple[Shape, ...]
    reason: str

    @property
    def loss(self) -> Callable[[Any, Batch], Loss]: ...

    def axes(self) -> dict[str, Any]:
        """The axes of the model's config that the task decides: its head, how many labels."""
        ...

    def notes(self) -> dict[str, Any]:
        """What config.json should say of it."""
        ...

    def encode(self, examples: Sequence[Any], *, training: bool) -> list[Encoded]:
        """The rows of these examples (more or fewer than there are examples)."""
        ...

    def key(self, example: Any) -> str:
        """A text that is the same for the same example: none may be learnt from and measured on."""
        ...

    def measure(self, model: nn.Module, examples: Sequence[Any], tokens: int) -> tuple[dict[str, Estimate], list[Row]]:
        """The figures on these examples, and what the model said to each."""
        ...


def read_rows(
    path: Path,
    convert: Callable[[Sequence[Row], Mapping[str, str]], tuple[list[Any], dict[str, int]]],
    columns: Mapping[str, str],
    log: Log,
) -> list[Any]:
    """The examples of a file; says what was left out and why."""
    rows = read(path)
    examples, dropped = convert(rows.rows, columns)
    for reason, count in [*rows.report.dropped.items(), *dropped.items()]:
        log.say(f"[yellow]{escape(f'{path.name}: left out {count:,} rows: {reason}')}[/]")
    return examples


@torch.no_grad()
def outputs(model: nn.Module, rows: Sequence[Encoded], tokens: int) -> Iterator[tuple[list[int], Batch, Any]]:
    """Runs all rows, in batches of at most `tokens`; yields which rows a batch holds, the batch, and the output."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for group in by_length(rows, range(len(rows)), tokens):
        batch = {name: column.to(device) for name, column in collate_encoded([rows[i] for i in group]).items()}
        yield group, batch, model(**inputs(batch))
    model.train(training)


def check_shape(task: Task, name: str, shape: Shape) -> None:
    """Refuses a task that a shape of model cannot do."""
    if shape not in task.shapes:
        raise FledgeError(
            f"task '{name}' does not fit a model of shape '{shape}': {task.reason}",
            f"give a model of shape {' or '.join(task.shapes)}",
        )
