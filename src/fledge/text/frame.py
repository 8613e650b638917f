"""The marks around texts that are read as a whole: [CLS] a [SEP] b [SEP], or a vocabulary's document and turn marks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fledge.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Frame:
    """The marks before, between and after texts."""

    before: list[int]
    between: list[int]
    after: list[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer, shape: str) -> "Frame":
        """[CLS] and [SEP] for an encoder, where the vocabulary has them; document and end-of-turn marks elsewhere."""
        if shape == "encoder" and {"[CLS]", "[SEP]"} <= tokenizer.special.keys():
            separator = tokenizer.special["[SEP]"]
            return cls([tokenizer.special["[CLS]"]], [separator], [separator])
        # A row is read at its last token, and `transformers` takes that to be the last one that is no padding.
        last = [] if tokenizer.eos_id == tokenizer.pad_id else [tokenizer.eos_id]
        return cls([tokenizer.document_id], [tokenizer.eos_id], last)

    def join(self, first: Sequence[int], second: Sequence[int] | None, length: int) -> tuple[np.ndarray, np.ndarray]:
        """ids and token types [T ≤ length] of one text or of two; where they are too long, the longer one is cut."""
        room = length - len(self.before) - len(self.after) - (len(self.between) if second is not None else 0)
        a, b = list(first), list(second or ())
        a = a[: max(room // 2, room - len(b))]
        b = b[: room - len(a)]
        head = [*self.before, *a, *(self.between if second is not None else ())]
        tail = [*b, *self.after]
        types = np.repeat(np.array([0, 1 if second is not None else 0], np.int32), [len(head), len(tail)])
        return np.array([*head, *tail], np.int32), types
