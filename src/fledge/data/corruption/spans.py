"""Corrupted text for an encoder and what a decoder must say: seq2seq LM, span mask with sentinels (T5,
arXiv:1910.10683), text infilling and sentence shuffling (BART, arXiv:1910.13461), and UL2's mixture of denoisers
(arXiv:2205.05131).

The decoder reads the start mark and its own text, and says that text and the end mark. Sources end with the end mark
too. T5's code always hides the last token of a window; here spans may fall anywhere.

`T` tokens of a window, `K` spans.
"""

import math

import numpy as np

from fledge.data.corruption.sample import Sample, Setting, windows
from fledge.data.packing import Example

SPAN_SHARE, INFILL_SHARE = 0.15, 0.3  # T5; BART
# UL2's denoisers (table 2 there): mode, mean span, share of the tokens. R is T5's, X is extreme; S hides an end.
DENOISERS = (
    ("R", 3.0, 0.15), ("R", 8.0, 0.15), ("S", math.inf, 0.25),
    ("X", 3.0, 0.5), ("X", 8.0, 0.5), ("X", 64.0, 0.15), ("X", 64.0, 0.5),
)  # fmt: skip


def seq2seq_lm(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """The encoder reads the beginning of a window, the decoder says the rest; of a text and its translation (as in
    `tlm`) it reads the one and says the other."""
    source = example.ids[~example.mask]
    if len(source):
        return [answered(source[: setting.length - 1], example.ids[example.mask], setting)]
    samples = []
    for window in windows(example.ids, setting.length):
        if len(window) > 1:
            cut = int(generator.integers(1, len(window)))
            samples.append(answered(window[:cut], window[cut:], setting))
    return samples


def span_mask(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """Each hidden span is one sentinel in the source; the decoder says every sentinel and what stood there."""
    share, mean = setting.share(SPAN_SHARE), setting.config.mean_span
    return [
        answered(*with_sentinels(window, generator, share, mean, setting), setting)
        for window in windows(example.ids, span_window(setting.length, share, mean))
        if len(window) > 1
    ]


def infilling(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """Spans of Poisson lengths, also of none, become one [MASK] each; the decoder says the whole text."""
    samples = []
    for window in windows(example.ids, min(setting.length, setting.target_length) - 1):
        if len(window) > 1:
            starts, lengths = poisson_spans(len(window), generator, setting)
            kept, at = [], 0
            for start, length in zip(starts.tolist(), lengths.tolist()):
                kept += [window[at:start], [setting.marks.mask]]
                at = start + length
            source = np.concatenate([*kept, window[at:]]).astype(np.int32)
            samples.append(answered(source, window, setting))
    return samples


def shuffling(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """The sentences of a window in another order (never the right one); the decoder says them in the right one."""
    samples = []
    for window in sentence_windows(example.ids, setting, min(setting.length, setting.target_length) - 1):
        starts = setting.marks.sentences(window)
        if len(starts) > 1:
            order = generator.permutation(len(starts))
            if (np.diff(order) > 0).all():
                order = np.roll(order, 1)
            sentences = np.split(window, starts[1:])
            samples.append(answered(np.concatenate([sentences[i] for i in order]), window, setting))
    return samples


def ul2(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """Each window by one of seven denoisers, drawn evenly; the source begins with the mode of its denoiser."""
    samples = []
    marks = setting.marks
    for window in windows(example.ids, setting.length - 3):
        if len(window) < 2:
            continue
        mode, mean, share = DENOISERS[generator.integers(len(DENOISERS))]
        if mode == "S":
            hidden = min(len(window) - 1, max(1, round(2 * share * generator.random() * len(window))))
            ends = np.split(window, [len(window) - hidden])
            source, target = np.append(ends[0], marks.sentinels[0]), np.append(marks.sentinels[:1], ends[1])
        else:
            source, target = with_sentinels(window, generator, share, mean, setting)
        samples.append(answered(np.append(marks.modes["RSX".index(mode)], source), target, setting))
    return samples


def answered(source: np.ndarray, answer: np.ndarray, setting: Setting) -> Sample:
    """A source for the encoder and an answer for the decoder, with marks; what is too long is cut."""
    marks = setting.marks
    answer = answer[: setting.target_length - 1]
    ids = np.append([marks.start], answer).astype(np.int32)
    targets = np.append(answer, [marks.end]).astype(np.int32)
    source = np.append(source[: setting.length - 1], [marks.end]).astype(np.int32)
    return Sample(ids, targets, {}, source)


def with_sentinels(
    ids: np.ndarray, generator: np.random.Generator, share: float, mean: float, setting: Setting
) -> tuple[np.ndarray, np.ndarray]:
    """The text with each hidden span as a sentinel, and each sentinel with what it hides."""
    sentinels = setting.marks.sentinels
    hidden = min(len(ids) - 1, max(1, round(share * len(ids))))
    spans = min(max(1, round(hidden / mean)), hidden, len(ids) - hidden + 1, len(sentinels))
    lengths = parts(hidden, spans, generator)
    gaps = parts(len(ids) - hidden + 2, spans + 1, generator)  # the outer two may be empty
    gaps[[0, -1]] -= 1
    cuts = np.cumsum(np.stack([gaps[:-1], lengths], axis=1).ravel())
    pieces = np.split(ids, cuts)  # kept, hidden, kept, hidden … kept
    marked = sentinels[:spans, None]
    source = np.concatenate([piece for kept, mark in zip(pieces[::2], marked) for piece in (kept, mark)])
    target = np.concatenate([piece for mark, gone in zip(marked, pieces[1::2]) for piece in (mark, gone)])
    return np.append(source, pieces[-1]), target


def parts(total: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """`total` as a sum of `count` numbers of at least 1, evenly drawn from all such sums: [count]."""
    cuts = np.sort(generator.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def poisson_spans(size: int, generator: np.random.Generator, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths [K] of spans that hide the share of `size` tokens exactly and never touch each other."""
    budget = min(size - 1, max(1, round(setting.share(INFILL_SHARE) * size)))
    lengths: list[int] = []
    while sum(lengths) < budget:
        lengths.append(min(int(generator.poisson(setting.config.mean_span)), budget - sum(lengths)))
    kept = size - budget
    while len(lengths) > kept + 1:  # more spans than gaps to put them into: the shortest go together
        lengths = sorted(lengths)
        lengths = [lengths[0] + lengths[1], *lengths[2:]]
    sizes = generator.permutation(np.array(lengths))
    gaps = np.sort(generator.choice(kept + 1, len(sizes), replace=False))  # the kept tokens before each span
    return gaps + np.cumsum(sizes) - sizes, sizes


def sentence_windows(ids: np.ndarray, setting: Setting, size: int) -> list[np.ndarray]:
    """Consecutive windows of at most `size` tokens that end where sentences end, if those are shorter than that."""
    bounds = np.append(setting.marks.sentences(ids), len(ids))
    found, start = [], 0
    while start < len(ids):
        last = int(bounds[np.searchsorted(bounds, start + size, side="right") - 1])
        end = last if last > start else min(start + size, len(ids))
        found.append(ids[start:end])
        start = end
    return found


def span_window(length: int, share: float, mean: float) -> int:
    """The longest window whose source, spans as sentinels and the end mark, fits into `length` tokens."""
    size = length
    while source_size(size + 1, share, mean) <= length:
        size += 1
    while size > 2 and source_size(size, share, mean) > length:
        size -= 1
    return size


def source_size(size: int, share: float, mean: float) -> int:
    """The tokens of a source made from a window of `size`, end mark included."""
    hidden = max(1, round(share * size))
    return size - hidden + max(1, round(hidden / mean)) + 1


def span_target(length: int, share: float, mean: float) -> int:
    """The longest answer to such a window: spans, their sentinels and a mark."""
    size = span_window(length, share, mean)
    hidden = max(1, round(share * size))
    return hidden + max(1, round(hidden / mean)) + 1
