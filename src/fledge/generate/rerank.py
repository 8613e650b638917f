"""N-best lists in a new order, by what other models think of them (as arXiv:1409.3215 §3.6 rescored a baseline's).

A candidate's new score is the weighted mean of its summed log-probabilities under all models, over a power of its
length. Models must share one vocabulary. Left out: weights learnt from references.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fledge.core.errors import FledgeError
from fledge.data.encoded import IGNORED, Encoded, by_length, collate_encoded
from fledge.generate.beam import Hypothesis
from fledge.generate.sources import evaluating
from fledge.model.inputs import inputs
from fledge.objectives.language import token_logprobs
from fledge.text.tokenizer import Tokenizer

Lists = Sequence[Sequence[Hypothesis]]


@torch.inference_mode()
def rescored(
    model: Any,
    tokenizer: Tokenizer,
    sources: Sequence[list[int]] | None,
    prompts: Sequence[list[int]] | None,
    lists: Lists,
    tokens: int = 8192,
) -> list[list[float]]:
    """Σ log p of every candidate under `model`, given its source or its prompt (as `nbest` takes them)."""
    rows = []
    for number, candidates in enumerate(lists):
        start = prompts[number] if prompts else [tokenizer.pad_id]
        for candidate in candidates:
            targets = [*[IGNORED] * (len(start) - 1), *candidate.ids]
            columns = {"ids": [*start, *candidate.ids[:-1]], "targets": targets}
            columns |= {"source_ids": sources[number]} if sources else {}
            rows.append(Encoded({name: np.array(ids, np.int32) for name, ids in columns.items()}))
    found = [0.0] * len(rows)
    device = next(model.parameters()).device
    with evaluating(model):
        for group in by_length(rows, range(len(rows)), tokens):
            batch = {name: c.to(device) for name, c in collate_encoded([rows[i] for i in group]).items()}
            sums = token_logprobs(model(**inputs(batch)), batch["targets"]).sum(1)
            for i, value in zip(group, sums.tolist()):
                found[i] = value
    values = iter(found)
    return [[next(values) for _ in candidates] for candidates in lists]


def rerank(
    lists: Lists,
    others: Sequence[Sequence[Sequence[float]]],
    weights: Sequence[float] | None = None,
    length_penalty: float = 1.0,
) -> list[list[Hypothesis]]:
    """The lists, best first again, by their own log-probabilities and those of `others` (as `rescored` gives them).

    `weights`: of the lists' own and of each other's; by default all weigh the same.
    """
    chosen = list(weights or [1.0] * (1 + len(others)))
    if len(chosen) != 1 + len(others) or sum(chosen) <= 0:
        raise FledgeError(f"{len(chosen)} weights for {1 + len(others)} models", "give one for each, not all 0")
    ordered = []
    for number, candidates in enumerate(lists):
        scored = []
        for place, candidate in enumerate(candidates):
            each = [candidate.logprob, *(other[number][place] for other in others)]
            total = sum(w * value for w, value in zip(chosen, each)) / sum(chosen)
            scored.append(replace(candidate, score=total / len(candidate.ids) ** length_penalty))
        ordered.append(sorted(scored, key=lambda entry: -entry.score))
    return ordered
