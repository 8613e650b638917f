"""Bits per byte and next-token calibration of held-out documents, in one pass.

Documents are packed as in pretraining, each bounded by the document mark, so a figure depends on a document's place in
its row only where a row's end cuts it. Both figures come with bootstrap intervals over documents. Logits are formed for
a chunk of positions at a time and follow autocast. Left out: sliding windows, which give long documents more context.

`B` rows, `T` their length, `E` width, `V` vocabulary, `N` positions with a target, `D` documents, `K` bins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fledge.core.device import compute_dtype
from fledge.core.errors import FledgeError
from fledge.core.nouns import Document
from fledge.data.packing import Example, Row, collate, pack
from fledge.evaluate.calibration import BINS, bin_of, calibration_error, reliability
from fledge.evaluate.statistics import Estimate, ratio
from fledge.objectives.language import projection, rows_per_chunk, supervised
from fledge.objectives.loss import Projectable
from fledge.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class LanguageMeasure:
    """What `evaluate_language` finds: bits per byte, expected calibration error, and its reliability curve (JSON)."""

    bits_per_byte: Estimate
    calibration_error: Estimate
    reliability: list[dict[str, float]]


@torch.no_grad()
def evaluate_language(
    model: nn.Module,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    *,
    length: int,
    tokens_per_microbatch: int = 8192,
) -> LanguageMeasure:
    """Measures `model` on `documents` in rows of `length` tokens; raises FledgeError if they hold no text."""
    sizes = np.array([len(document.text.encode()) for document in documents], float)
    if not sizes.sum():
        raise FledgeError("the held-out documents hold no text", "give documents with text to measure on")
    encoded = tokenizer.encode_batch([document.text for document in documents])
    mark = np.array([tokenizer.document_id], np.int32)
    rows = pack(
        [Example(np.concatenate([mark, ids, mark]), np.ones(len(ids) + 2, bool)) for ids in encoded],
        length,
        split=True,
    )
    nats = np.zeros(len(documents))  # [D]
    sums = np.zeros((len(documents), BINS, 3))  # [D,K,3]
    step = max(1, tokens_per_microbatch // length)
    training = model.training
    model.eval()
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        measure_rows(model, chunk, nats, sums)
    model.train(training)

    bits = ratio(nats / math.log(2), sizes)
    return LanguageMeasure(bits, calibration_error(sums), reliability(sums.sum(0)))


def measure_rows(model: nn.Module, rows: Sequence[Row], nats: np.ndarray, sums: np.ndarray) -> None:
    """Adds what these rows say about each document to nats [D] and sums [D,K,3], in place."""
    device = next(model.parameters()).device
    batch = {key: column.to(device) for key, column in collate(rows).items()}
    output = model(batch["ids"], batch["positions"], batch["documents"])
    places, targets = supervised(batch["targets"])
    surprise, confidence, correct = predictions(output, places, targets)
    owner = np.zeros((len(rows), len(rows[0].ids)), np.int64)
    for r, row in enumerate(rows):
        for example, start, size in row.places:
            owner[r, start : start + size] = example
    document = owner.ravel()[places.cpu().numpy()]  # [N]
    np.add.at(nats, document, surprise)
    columns = np.stack([np.ones_like(confidence), confidence, correct], axis=1)
    np.add.at(sums, (document, bin_of(confidence)), columns)


def predictions(output: Projectable, places: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At each of N places (flat indices into [B·T]): -log p(target) in nats, the highest probability, was it right."""
    hidden, weight = projection(output, places)
    dtype = compute_dtype(hidden)
    weight = weight.to(dtype)
    found = torch.empty(3, len(targets), device=hidden.device)
    rows = rows_per_chunk(len(weight), hidden.device)
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        logits = (hidden[part].to(dtype) @ weight.T).float()
        normaliser = logits.logsumexp(-1)
        highest, guess = logits.max(-1)
        found[0, part] = normaliser - logits.gather(1, targets[part, None])[:, 0]
        found[1, part] = (highest - normaliser).exp()
        found[2, part] = (guess == targets[part]).float()
    surprise, confidence, correct = found.double().cpu().numpy()
    return surprise, confidence, correct
