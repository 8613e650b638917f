"""Text for one stream that predicts its tokens in an order: LM (arXiv:2005.14165), prefix LM (arXiv:1910.10683) and
permutation LM (XLNet, arXiv:1906.08237).

Two-stream attention in one row: the window's tokens are the content stream; after them stands the query stream, one
[MASK] for each token to predict, at the position of that token. Column `order` says who sees whom
(`model/visibility.py`): a token sees what comes before it in the order, and itself; a [MASK], written -1-rank, sees
the tokens that come before its own, and nobody sees it. Only the last 1/6 of an order is predicted, as in the paper.

`T` tokens of a window.
"""

import math

import numpy as np

from fledge.data.corruption.sample import Sample, Setting, shifted, windows
from fledge.data.packing import IGNORED, Example

PREDICTED = 1 / 6  # of an order (XLNet's K = 6)


def lm(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """The next token, everywhere: the text between document marks."""
    return [
        Sample(ids, shifted(ids), {"prefix": np.zeros(len(ids), bool)})
        for ids in windows(bounded(example, setting), setting.length)
    ]


def prefix_lm(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """A random beginning of the window is read both ways; the rest is predicted token by token."""
    samples = []
    for ids in windows(bounded(example, setting), setting.length):
        if len(ids) > 1:
            cut = int(generator.integers(1, len(ids)))
            targets = shifted(ids)
            targets[: cut - 1] = IGNORED
            samples.append(Sample(ids, targets, {"prefix": np.arange(len(ids)) < cut}))
    return samples


def permutation(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """The last tokens of a random order, each from those before it in the order."""
    share = setting.share(PREDICTED)
    samples = []
    for window in windows(example.ids, permutation_window(setting.length, share)):
        rank = generator.permutation(len(window))  # rank[i]: when token i comes
        asked = np.flatnonzero(rank >= len(window) - math.ceil(share * len(window)))
        nothing = np.full(len(window), IGNORED, np.int32)
        masks = np.full(len(asked), setting.marks.mask, np.int32)
        columns = {
            "positions": np.concatenate([np.arange(len(window)), asked]),
            "order": np.concatenate([rank, -1 - rank[asked]]).astype(np.int32),
        }
        targets = np.concatenate([nothing, window[asked]])
        samples.append(Sample(np.concatenate([window, masks]), targets, columns))
    return samples


def bounded(example: Example, setting: Setting) -> np.ndarray:
    """The text between document marks."""
    return np.concatenate([[setting.marks.end], example.ids, [setting.marks.end]]).astype(np.int32)


def permutation_window(length: int, share: float) -> int:
    """The longest window that fits into `length` tokens together with its [MASK]s."""
    size = math.floor(length / (1 + share))
    while size + math.ceil(share * size) > length:
        size -= 1
    return size
