"""Text to text: translation and every task that can be put as one (T5, arXiv:1910.10683), named by a prefix.

An encoder-decoder and the LSTM read the source and write the target; a decoder reads both in one row and learns the
target only. Measured on what beam search writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from fledge.data.encoded import IGNORED, Batch, Encoded
from fledge.data.labelled import TextPair
from fledge.evaluate import metrics
from fledge.evaluate.statistics import Estimate
from fledge.generate.beam import Hypothesis
from fledge.generate.sources import nbest
from fledge.objectives import Loss, next_token
from fledge.stages.tasks import Row, Setting, Shape


@dataclass
class Writing:
    """Sources and the texts to be written."""

    setting: Setting
    shapes: tuple[Shape, ...] = ("encoder_decoder", "lstm", "decoder")
    reason: str = "an encoder cannot write"
    loss: Callable[[Any, Batch], Loss] = next_token

    def axes(self) -> dict[str, Any]:
        return {"head": "language"}

    def notes(self) -> dict[str, Any]:
        prefix = self.setting.prefix
        return {"task_specific_params": {"text_to_text": {"prefix": prefix}}} if prefix else {}

    def key(self, example: TextPair) -> str:
        return f"{self.text(example)}\n{example.target}"

    def text(self, example: TextPair) -> str:
        """The source as the model reads it."""
        return (example.prefix or self.setting.prefix) + example.source

    def sources(self, examples: Sequence[TextPair]) -> list[list[int]]:
        """The sources' ids, closed by the document mark."""
        found = self.setting.tokenizer.encode_batch([self.text(e) for e in examples])
        return [[*ids.tolist(), self.setting.tokenizer.document_id] for ids in found]

    def encode(self, examples: Sequence[TextPair], *, training: bool) -> list[Encoded]:
        tokenizer, end = self.setting.tokenizer, self.setting.tokenizer.document_id
        targets = tokenizer.encode_batch([e.target for e in examples])
        encoded = []
        for source, target in zip(self.sources(examples), targets, strict=True):
            answer = [*target.tolist(), end]
            if self.setting.shape == "decoder":
                prompt = self.prompt(source)
                columns = {"ids": [*prompt, *answer[:-1]], "targets": [*[IGNORED] * (len(prompt) - 1), *answer]}
            else:
                columns = {"ids": [tokenizer.pad_id, *answer[:-1]], "targets": answer, "source_ids": source}
            encoded.append(Encoded({name: np.array(ids, np.int32) for name, ids in columns.items()}))
        return encoded

    def prompt(self, source: list[int]) -> list[int]:
        """What a decoder goes on from: the source between a document mark and the end of a turn."""
        return [self.setting.tokenizer.document_id, *source[:-1], self.setting.tokenizer.eos_id]

    def measure(self, model: nn.Module, examples: Sequence[Any], tokens: int) -> tuple[dict[str, Estimate], list[Row]]:
        lists = self.write(model, self.sources(examples))
        decode = self.setting.tokenizer.decode
        rows = []
        for example, found in zip(examples, lists, strict=True):
            best = found[: self.setting.nbest]
            row = {"source": example.source, "target": example.target, "predicted": decode(best[0].ids).strip()}
            if self.setting.nbest > 1:
                row["nbest"] = [{"text": decode(e.ids).strip(), "score": e.score, "logprob": e.logprob} for e in best]
            rows.append(row | {"score": best[0].score})
        return metrics.texts([row["predicted"] for row in rows], [e.target for e in examples]), rows

    def write(self, model: Any, sources: Sequence[list[int]]) -> list[list[Hypothesis]]:
        """The n-best lists for sources."""
        prompts = [self.prompt(source) for source in sources] if self.setting.shape == "decoder" else None
        given = None if prompts else sources
        return nbest(
            model, self.setting.tokenizer, given, prompts,
            max_new_tokens=self.setting.max_new_tokens, config=self.setting.beam,
        )  # fmt: skip
