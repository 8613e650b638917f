"""Pairs of segments for encoders: next-sentence prediction (BERT, arXiv:1810.04805) and sentence order (ALBERT,
arXiv:1909.11942), together with MLM as in both papers.

A text is cut at its sentences into stretches that fill a row; each is split into two segments at one of its sentence
ends. NSP replaces the second by sentences of another text half of the time; SOP swaps the two half of the time. Labels
as in `transformers`: 0 is "as it was written". Leaves out BERT's shorter stretches (10 %).
"""

import itertools

import numpy as np

from fledge.data.corruption.masking import paired
from fledge.data.corruption.sample import Sample, Setting
from fledge.data.packing import IGNORED, Example


def nsp(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """[CLS] a [SEP] b [SEP]: does b follow a, or is it from another text? What a random b displaced comes next."""
    bounds = bounds_of(example.ids, setting)
    samples, first, room = [], 0, setting.length - 3
    while (stretch := stretch_at(bounds, first, room)) is not None:
        middle = int(generator.integers(first + 1, stretch))
        a, b = example.ids[bounds[first] : bounds[middle]], example.ids[bounds[middle] : bounds[stretch]]
        other = elsewhere(example, generator, setting, room - len(a)) if generator.random() < 0.5 else None
        samples.append(labelled(a, b if other is None else other, int(other is not None), generator, setting))
        first = stretch if other is None else middle
    return samples


def sop(example: Example, generator: np.random.Generator, setting: Setting) -> list[Sample]:
    """[CLS] a [SEP] b [SEP] of two segments that follow each other: in this order, or in the other?"""
    bounds = bounds_of(example.ids, setting)
    samples, first = [], 0
    while (stretch := stretch_at(bounds, first, setting.length - 3)) is not None:
        middle = int(generator.integers(first + 1, stretch))
        a, b = example.ids[bounds[first] : bounds[middle]], example.ids[bounds[middle] : bounds[stretch]]
        swapped = bool(generator.random() < 0.5)
        samples.append(labelled(*((b, a) if swapped else (a, b)), int(swapped), generator, setting))
        first = stretch
    return samples


def labelled(a: np.ndarray, b: np.ndarray, label: int, generator: np.random.Generator, setting: Setting) -> Sample:
    """The pair with its label at [CLS]: column pair_targets, and in pair_weights how many tokens are hidden, so that
    the label counts as much as they do together."""
    sample = paired(a, b, generator, setting)
    labels = np.full(len(sample.ids), IGNORED, np.int32)
    weights = np.zeros(len(sample.ids), np.float32)
    labels[0], weights[0] = label, np.count_nonzero(sample.targets != IGNORED)
    return Sample(sample.ids, sample.targets, sample.columns | {"pair_targets": labels, "pair_weights": weights})


def bounds_of(ids: np.ndarray, setting: Setting) -> np.ndarray:
    """Where sentences start, and the end of the last one; those that would fill more than half a row are cut."""
    bounds = np.append(setting.marks.sentences(ids), len(ids))
    longest = max(1, (setting.length - 3) // 2)
    return np.concatenate([*(np.arange(a, b, longest) for a, b in itertools.pairwise(bounds)), bounds[-1:]])


def stretch_at(bounds: np.ndarray, first: int, room: int) -> int | None:
    """The sentence before which a stretch that begins with sentence `first` ends: as many as fit into `room` tokens,
    which two always do; None if there are no two."""
    if first + 2 >= len(bounds):
        return None
    return int(np.searchsorted(bounds, bounds[first] + room, side="right")) - 1


def elsewhere(example: Example, generator: np.random.Generator, setting: Setting, room: int) -> np.ndarray | None:
    """Sentences of a random other text, from a random one on, at most `room` tokens; None if there is no other."""
    count = len(setting.texts)
    first = int(generator.integers(count)) if count else 0
    for number in range(first, first + count):
        other = setting.texts[number % count]
        if other is not example and len(other.ids):
            start = int(generator.choice(bounds_of(other.ids, setting)[:-1]))
            return other.ids[start : start + room]
    return None
