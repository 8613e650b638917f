"""Extractive question answering: an answer is a stretch of the text, from its first to its last token.

As BERT does it on SQuAD (arXiv:1810.04805 §4.2-4.3): question and text in one row, a long text in overlapping windows,
the span of the highest summed score over all windows; "no answer" points at the row's first token.

Shapes: B rows, T tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fledge.data.encoded import Batch, Encoded
from fledge.data.labelled import Question
from fledge.evaluate import metrics
from fledge.evaluate.statistics import Estimate
from fledge.objectives import Loss, labelled
from fledge.stages.tasks import Row, Setting, Shape, outputs
from fledge.text.frame import Frame

LONGEST = 30  # tokens of an answer


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a question's text in a row: which question, the row's index of its first token, and where each of its
    tokens stands in the text, [N,2] characters."""

    question: int
    start: int
    offsets: np.ndarray


@dataclass
class Answering:
    """Spans of texts. `unanswerable`: whether a question may have no answer."""

    setting: Setting
    unanswerable: bool
    shapes: tuple[Shape, ...] = ("encoder", "decoder")
    reason: str = "an answer is pointed at in a text that is read"
    loss: Callable[[Any, Batch], Loss] = labelled.extraction

    def axes(self) -> dict[str, Any]:
        return {"head": "span"}

    def notes(self) -> dict[str, Any]:
        return {}

    def key(self, example: Question) -> str:
        return f"{example.question}\n{example.context}"

    def encode(self, examples: Sequence[Question], *, training: bool) -> list[Encoded]:
        return [encoded for _, encoded in self.windows(examples, training)]

    def windows(self, examples: Sequence[Question], training: bool) -> Iterator[tuple[Window, Encoded]]:
        """Every window as a row. In training one without the answer teaches "not here", if there may be none."""
        backend, length = self.setting.tokenizer.plain, self.setting.length
        frame = Frame.of(self.setting.tokenizer, self.setting.shape)
        contexts = backend.encode_batch([e.context for e in examples], add_special_tokens=False)
        questions = self.setting.tokenizer.encode_batch([self.setting.prefix + e.question for e in examples])
        for number, (example, context, asked) in enumerate(zip(examples, contexts, questions, strict=True)):
            head = [*frame.before, *asked.tolist()[: length // 3], *frame.between]
            room = length - len(head) - len(frame.after)
            offsets = np.array(context.offsets, np.int64).reshape(-1, 2)
            for begin in range(0, max(1, len(context.ids) - room // 2), max(1, room // 2)):
                ids = np.array([*head, *context.ids[begin : begin + room], *frame.after], np.int32)
                window = Window(number, len(head), offsets[begin : begin + room])
                span = found(example, window)
                if training and span is None and not (self.unanswerable and begin == 0):
                    continue
                answerable = np.zeros(len(ids), bool)
                answerable[0] = self.unanswerable
                answerable[len(head) : len(head) + len(window.offsets)] = True
                types = np.repeat(np.array([0, 1], np.int32), [len(head), len(ids) - len(head)])
                columns = {"ids": ids, "answerable": answerable}
                columns |= {"token_types": types} if self.setting.shape == "encoder" else {}
                first, last = span or (0, 0)
                yield window, Encoded(columns, {"starts": first, "ends": last})

    def measure(self, model: nn.Module, examples: Sequence[Any], tokens: int) -> tuple[dict[str, Estimate], list[Row]]:
        windows, encoded = zip(*self.windows(examples, training=False), strict=True)
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(examples)
        nothing = np.full(len(examples), -np.inf)
        for group, batch, output in outputs(model, encoded, tokens):
            logits = output.values.float().masked_fill(~batch["answerable"][:, :, None], -torch.inf)
            for row, i in enumerate(group):
                window = windows[i]
                size, n = len(window.offsets), window.question
                part = logits[row, window.start : window.start + size]
                score, first, last = best_span(part)
                nothing[n] = max(nothing[n], float(logits[row, 0].sum()))
                text = examples[n].context[int(window.offsets[first, 0]) : int(window.offsets[last, 1])]
                best[n] = max(best[n], (score, text.strip()))
        said = ["" if nothing[n] > score else text for n, (score, text) in enumerate(best)]
        rows = [
            {"id": e.id, "question": e.question, "answers": [text for text, _ in e.answers], "predicted": answer}
            for e, answer in zip(examples, said)
        ]
        return metrics.answers(said, [row["answers"] for row in rows]), rows


def found(example: Question, window: Window) -> tuple[int, int] | None:
    """The row's first and last token of the first answer that lies wholly in the window; None if none does."""
    if not len(window.offsets):
        return None
    starts, ends = window.offsets.T
    for text, begin in example.answers:
        end = begin + len(text)
        if not text or begin < starts[0] or end > ends[-1]:
            continue
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(starts, end, side="left")) - 1
        return window.start + first, window.start + max(first, last)
    return None


def best_span(logits: Tensor) -> tuple[float, int, int]:
    """logits [N,2] of start and end → the highest sum of a span of at most LONGEST tokens, its first and last token."""
    scores = logits[:, None, 0] + logits[None, :, 1]
    allowed = torch.ones_like(scores, dtype=torch.bool).triu().tril(LONGEST - 1)
    flat = scores.masked_fill(~allowed, -torch.inf).flatten()
    place = int(flat.argmax())
    return float(flat[place]), place // len(logits), place % len(logits)
