"""Masked tokens for encoders: MLM (BERT, arXiv:1810.04805), replaced-token detection (ELECTRA, arXiv:2003.10555) and
the translation language model (XLM, arXiv:1901.07291).

Of the chosen tokens MLM shows 80 % as [MASK], 10 % as a random token and 10 % as they are; the model says what stood
there. Special tokens are never chosen. Whole words: either all tokens of a word are chosen, or none.

`T` tokens of a window.
"""

import numpy as np

from fledge.data.corruption.sample import Sample, Setting, windows
from fledge.data.packing import IGNORED, Example

SHARE = 0.15  # of the tokens (BERT)
MASKED, RANDOM = 0.8, 0.1  # of the chosen ones; the rest is shown as it is


def mlm(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """[CLS] window [SEP], with some tokens hidden."""
    samples = []
    for window in windows(example.ids, setting.length - 2):
        ids, targets = hidden(window, generator, setting)
        samples.append(Sample(*enclosed(setting, ids, targets), {"token_types": np.zeros(len(ids) + 2, np.int32)}))
    return samples


def rtd(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """[CLS] window [SEP] with 15 % as [MASK], which a generator fills in: a discriminator must find what it replaced.

    Column draws [T]: uniform numbers in [0, 1), with which the generator's samples are drawn: no hidden state.
    """
    samples = []
    for window in windows(example.ids, setting.length - 2):
        picked = chosen(window, generator, setting)
        targets = np.full(len(window), IGNORED, np.int32)
        targets[picked] = window[picked]
        ids = window.copy()
        ids[picked] = setting.marks.mask
        draws = generator.random(len(ids) + 2, np.float32)
        samples.append(Sample(*enclosed(setting, ids, targets), {"draws": draws}))
    return samples


def tlm(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """[CLS] a [SEP] b [SEP] of a text (unsupervised in the example) and its translation (supervised), tokens of both
    hidden, so that each language helps with the other; positions restart in b, token types tell the languages."""
    a, b = example.ids[~example.mask], example.ids[example.mask]
    if not len(a) or not len(b):
        return []
    room = setting.length - 3
    keep = min(len(a), max(room - len(b), room // 2))
    a, b = a[:keep], b[: room - keep]
    return [paired(a, b, generator, setting, restart=True)]


def paired(
    a: np.ndarray, b: np.ndarray, generator: np.random.Generator, setting: Setting, *, restart: bool = False
) -> Sample:
    """[CLS] a [SEP] b [SEP] with tokens of both hidden, and its token types."""
    marks = setting.marks
    whole = np.concatenate([[marks.cls], a, [marks.sep], b, [marks.sep]]).astype(np.int32)
    plain = np.ones(len(whole), bool)
    plain[[0, len(a) + 1, -1]] = False
    ids, targets = hidden(whole, generator, setting, plain)
    first = len(a) + 2
    types = np.repeat(np.array([0, 1], np.int32), [first, len(b) + 1])
    columns = {"token_types": types}
    if restart:
        columns["positions"] = np.concatenate([np.arange(first), np.arange(len(b) + 1)])
    return Sample(ids, targets, columns)


def enclosed(setting: Setting, ids: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ids and targets [T] between [CLS] and [SEP], which have nothing to say: [T+2] each."""
    marks = setting.marks
    whole = np.concatenate([[marks.cls], ids, [marks.sep]]).astype(np.int32)
    return whole, np.pad(targets, 1, constant_values=IGNORED)


def hidden(
    ids: np.ndarray, generator: np.random.Generator, setting: Setting, plain: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What the model reads and what it must say, [T] each; only `plain` tokens [T] bool are hidden (None: all)."""
    picked = chosen(ids, generator, setting, plain)
    fate = generator.random(len(picked))
    shown, targets = ids.copy(), np.full(len(ids), IGNORED, np.int32)
    targets[picked] = ids[picked]
    shown[picked[fate < MASKED]] = setting.marks.mask
    swapped = picked[(fate >= MASKED) & (fate < MASKED + RANDOM)]
    shown[swapped] = generator.choice(setting.marks.ordinary, len(swapped))
    return shown, targets


def chosen(
    ids: np.ndarray, generator: np.random.Generator, setting: Setting, plain: np.ndarray | None = None
) -> np.ndarray:
    """Positions to hide, sorted: the share of the plain tokens, at least one; never more than that in whole words,
    unless a single word is longer."""
    places = np.arange(len(ids)) if plain is None else np.flatnonzero(plain)
    budget = max(1, round(setting.share(SHARE) * len(places)))
    if not setting.config.whole_words:
        return np.sort(generator.choice(places, min(budget, len(places)), replace=False))
    words = setting.marks.words(ids)[places]
    taken: list[int] = []
    for word in generator.permutation(np.unique(words)):
        tokens = places[words == word].tolist()
        if not taken or len(taken) + len(tokens) <= budget:
            taken += tokens
    return np.sort(np.array(taken))
