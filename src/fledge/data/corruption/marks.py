"""What the objectives need to know of a vocabulary: its special tokens, and which tokens begin words or end sentences.

Special tokens are looked up among the tokenizer's special ones only, so a user's text can never be one. Sentences are
found in the ids, so that every objective is a function of ids: a sentence ends at `.`, `!`, `?` or `…` (and quotes or
brackets after it) before a blank. Leaves out abbreviations ("Mr. Smith" ends a sentence) and other scripts' rules.

`V` vocabulary, `T` tokens.
"""

from dataclasses import dataclass

import numpy as np

from fledge.text.tokenizer import DENOISING, Tokenizer

MASKS, CLASSES, SEPARATORS = ("[MASK]", "<mask>"), ("[CLS]", "<s>"), ("[SEP]", "</s>")
MODES = ("[R]", "[S]", "[X]")
STOPS = (".", "!", "?", "…", "。", "！", "？")
CLOSERS = " \t\r\n\"'”’»)]"


@dataclass(frozen=True, slots=True)
class Marks:
    """Special tokens by what they are for (None or empty where the vocabulary has none), and tables over it.

    start and end bound a decoder's text (T5: the pad token, the end mark). ordinary: the ids of plain tokens. The
    tables [V] say of each token: does it begin a word, begin with a blank, end with a blank, end a sentence.
    """

    start: int
    end: int
    mask: int | None
    cls: int | None
    sep: int | None
    sentinels: np.ndarray
    modes: tuple[int, ...]
    ordinary: np.ndarray
    begins_word: np.ndarray
    begins_blank: np.ndarray
    ends_blank: np.ndarray
    ends_sentence: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Marks":
        """The marks of a tokenizer: fledge's with `denoising`, BERT's, T5's."""
        special = tokenizer.special

        def first(names: tuple[str, ...]) -> int | None:
            return next((special[name] for name in names if name in special), None)

        sentinels = [special[name] for name in DENOISING if name.startswith("<extra_id_") and name in special]
        modes = tuple(special[name] for name in MODES if name in special)
        hidden = set(special.values())
        ordinary = np.array(sorted(set(tokenizer.vocabulary.values()) - hidden), np.int32)
        word_pieces = tokenizer.spec["model"].get("type") == "WordPiece"
        tables = np.zeros((4, tokenizer.vocab_size), bool)
        for token in ordinary.tolist():
            text = tokenizer.token_bytes(token).decode("utf-8", "replace")
            continues = text.startswith("##") if word_pieces else text[:1].isalnum() or text.startswith("�")
            blank = not continues if word_pieces else text[:1].isspace()
            tables[:, token] = not continues, blank, text[-1:].isspace(), text.rstrip(CLOSERS).endswith(STOPS)
        return cls(
            tokenizer.pad_id, tokenizer.document_id, first(MASKS), first(CLASSES), first(SEPARATORS),
            np.array(sentinels, np.int32), modes if len(modes) == len(MODES) else (), ordinary, *tables,
        )  # fmt: skip

    def words(self, ids: np.ndarray) -> np.ndarray:
        """The word that each token of ids [T] belongs to, [T]: counted from 0."""
        begins = self.begins_word[ids]
        begins[:1] = False
        return np.cumsum(begins)

    def sentences(self, ids: np.ndarray) -> np.ndarray:
        """Where each sentence of ids [T] starts; the first at 0, none if there is no token."""
        if not len(ids):
            return np.zeros(0, np.int64)
        before, after = ids[:-1], ids[1:]
        ends = self.ends_sentence[before] & (self.ends_blank[before] | self.begins_blank[after])
        return np.concatenate([[0], np.flatnonzero(ends) + 1])
