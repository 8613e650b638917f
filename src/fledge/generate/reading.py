"""What a model reads in a text: embeddings of texts, and the tokens that belong where something is hidden.

Embeddings are pooled hidden states (mean: arXiv:1908.10084), of an encoder between its marks, of a decoder of the text
as it stands, of an encoder-decoder its encoder's, of an LSTM the state after reading. What is longer than the context
is cut at its end. Filling asks an encoder with a masked head, every hidden place by itself.

Shapes: N texts, B rows, T tokens, E width, V vocabulary.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.data.encoded import Encoded, by_length, collate_encoded
from fledge.generate.sources import evaluating
from fledge.model.heads import MaskedModel, pool
from fledge.model.inputs import inputs
from fledge.model.lstm import LstmModel
from fledge.text.frame import Frame
from fledge.text.tokenizer import Tokenizer

POOLINGS = ("mean", "first", "last")
MASKS = ("[MASK]", "<mask>")


@torch.inference_mode()
def embed(
    model: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    pooling: str | None = None,
    normalise: bool = True,
    tokens: int = 8192,
) -> np.ndarray:
    """Vectors of texts, [N,E] float32; of length 1 if `normalise`. `pooling` None: as the model's directory says
    (mean where it says nothing); first is the first token's (cls). Rows of at most `tokens` tokens run at once."""
    how = {"cls": "first"}.get(str(pooling), pooling) or getattr(model.config, "pooling", "last")
    if how not in POOLINGS:
        raise FledgeError(f"pooling '{pooling}' is not known", f"known: {', '.join(POOLINGS)} (cls is first)")
    rows = [Encoded(columns) for columns in framed(model, tokenizer, texts)]
    found: list[np.ndarray] = [np.zeros(0)] * len(rows)
    with evaluating(model):
        for group in by_length(rows, range(len(rows)), tokens):
            device = next(model.parameters()).device
            batch = {name: c.to(device) for name, c in collate_encoded([rows[i] for i in group]).items()}
            vectors = pooled(model, batch, how).float()
            if normalise:
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
            for i, vector in zip(group, vectors.cpu().numpy()):
                found[i] = vector
    return np.stack(found) if found else np.zeros((0, model.config.width), np.float32)


def framed(model: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """The columns of each text: between the marks of an encoder, closed as a source, or as it stands."""
    shape = "lstm" if isinstance(model, LstmModel) else model.config.shape
    context = model.config.context
    columns = []
    for ids in tokenizer.encode_batch(list(texts)):
        if shape == "encoder":
            row, types = Frame.of(tokenizer, shape).join(ids.tolist(), None, context)
            columns.append({"ids": row, "token_types": types})
        elif shape == "decoder":
            columns.append({"ids": ids[:context] if len(ids) else np.array([tokenizer.document_id], np.int32)})
        else:
            columns.append({"ids": np.append(ids[: context - 1], [tokenizer.document_id]).astype(np.int32)})
    return columns


def pooled(model: Any, batch: dict[str, Tensor], how: str) -> Tensor:
    """One vector [B,E] of each row."""
    if isinstance(model, LstmModel):
        return model.encode(batch["ids"], None, batch["documents"]).hidden[-1]
    if model.config.shape == "encoder_decoder":
        hidden = model.encode(batch["ids"], batch["positions"], batch["documents"]).hidden
    else:
        hidden, _ = model.read(**inputs(batch))
    return pool(hidden, batch["documents"], how)


@dataclass(frozen=True, slots=True)
class Filled:
    """A text with its hidden places filled by the likeliest tokens, and of each place the likeliest tokens with their
    probabilities, best first."""

    text: str
    places: list[list[tuple[str, float]]]


@torch.inference_mode()
def fill(model: Any, tokenizer: Tokenizer, texts: Sequence[str], *, top: int = 5) -> list[Filled]:
    """What belongs where each text says [MASK] (or <mask>), by an encoder with a masked head."""
    if not isinstance(model, MaskedModel):
        raise FledgeError(
            "this model has not learnt to fill in hidden tokens", "give an encoder with a masked head (objective=mlm)"
        )
    mask = mask_of(tokenizer)
    if mask is None:
        raise FledgeError("the vocabulary has no [MASK]", "give a model with the tokenizer it was trained with")
    return [filled(model, tokenizer, text, mask, top) for text in texts]


def mask_of(tokenizer: Tokenizer) -> int | None:
    """The id of [MASK] (or <mask>); None where the vocabulary has none."""
    return next((tokenizer.special[name] for name in MASKS if name in tokenizer.special), None)


def masked_row(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text between an encoder's marks; where it says [MASK] (or <mask>) and the vocabulary has it, that token."""
    mask, frame = mask_of(tokenizer), Frame.of(tokenizer, "encoder")
    gaps = {} if mask is None else dict.fromkeys(MASKS, mask)
    return [*frame.before, *gapped(tokenizer, text, gaps), *frame.after]


def gapped(tokenizer: Tokenizer, text: str, gaps: Mapping[str, int]) -> list[int]:
    """The ids of a text, in which the names of `gaps` stand for their tokens."""
    parts = re.split("|".join(map(re.escape, gaps)), text) if gaps else [text]
    names = re.findall("|".join(map(re.escape, gaps)), text) if gaps else []
    if tokenizer.byte_level:  # a word's token brings its blank with it
        parts[:-1] = [part.removesuffix(" ") for part in parts[:-1]]
    ids = tokenizer.encode(parts[0])
    for name, part in zip(names, parts[1:], strict=True):
        ids += [gaps[name], *tokenizer.encode(part)]
    return ids


def filled(model: MaskedModel, tokenizer: Tokenizer, text: str, mask: int, top: int) -> Filled:
    """One text."""
    row = masked_row(tokenizer, text)
    if mask not in row:
        raise FledgeError(f"nothing is hidden in {text[:60]!r}", "write [MASK] where a token is to be found")
    if len(row) > model.config.context:
        raise FledgeError(f"a text has {len(row)} tokens, the context is {model.config.context}", "shorten it")
    device = next(model.parameters()).device
    with evaluating(model):
        output = model(torch.tensor([row], device=device))
    places = [i for i, token in enumerate(row) if token == mask]
    chances = output.logits()[0, places].float().softmax(-1)
    best = chances.topk(min(top, chances.shape[-1]))
    said = [
        [(tokenizer.decode([token]).strip(), chance) for token, chance in zip(tokens, values)]
        for tokens, values in zip(best.indices.tolist(), best.values.tolist())
    ]
    whole = list(row)
    for place, tokens in zip(places, best.indices.tolist()):
        whole[place] = tokens[0]
    return Filled(tokenizer.decode(whole).strip(), said)
