"""Encoders and encoder-decoders from inside, in the form in which `inspection` shows decoders.

An encoder sees every token, so each one is asked for in turn with [MASK] in its place: its cost is the pseudo
log-likelihood of arXiv:1910.14659, which no chain rule adds up to the probability of the text. What the layers would
have said is read at that place too. An encoder-decoder reads a source and writes a target, given or its own best.
Left out: the LSTM, which has no attention to look at.

Shapes: B rows, T time, S source time, H heads, E width, L layers, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fledge.core.errors import FledgeError
from fledge.evaluate.inspection import (
    LONGEST,
    add_predictions,
    anatomy_part,
    check_shown,
    costs,
    expectations,
    inspect_ids,
    lens_row,
    rounded,
    spelled,
    tokens_of,
)
from fledge.evaluate.internals import Internals, internals, lens_outputs, logit_lens
from fledge.generate.beam import BeamConfig
from fledge.generate.reading import gapped, mask_of, masked_row
from fledge.generate.sources import nbest
from fledge.model.config import ModelConfig
from fledge.model.heads import Labels, LanguageModel, Output
from fledge.model.lstm import LstmModel
from fledge.text.tokenizer import Tokenizer

TOGETHER = 8192  # tokens of masked copies that are run at once


def inspect_text(
    model: nn.Module,
    tokenizer: Tokenizer,
    text: str,
    *,
    target: str = "",
    top: int = 5,
    seed: int = 0,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """`text` through a model of any shape, as a dict that JSON can say. `target` is what an encoder-decoder is to have
    written, by default what it would write; `labels` name a classifier's. In an encoder's text [MASK] stands for that
    token, in a source and its target a sentinel for itself. Raises FledgeError for an LSTM."""
    if isinstance(model, LstmModel):
        raise FledgeError("an LSTM has no attention and no layers to look into", "give a Transformer")
    shape = cast(ModelConfig, model.config).shape
    if target and shape != "encoder_decoder":
        raise FledgeError(f"a target is for an encoder-decoder, this is a model of shape '{shape}'", "leave it out")
    if shape == "encoder":
        return inspect_encoder(model, tokenizer, masked_row(tokenizer, text), top=top, labels=labels)
    if shape == "encoder_decoder":
        sentinels = {name: token for name, token in tokenizer.special.items() if name.startswith("<extra_id_")}
        end = tokenizer.document_id
        written = [*gapped(tokenizer, target, sentinels), end] if target else []
        return inspect_pair(model, tokenizer, [*gapped(tokenizer, text, sentinels), end], written, top=top)
    ids = tokenizer.encode(text)
    if ids[:1] != [tokenizer.document_id]:
        ids = [tokenizer.document_id, *ids]  # as every document began in training
    return inspect_ids(model, tokenizer, ids, top=top, seed=seed)


@torch.no_grad()
def inspect_encoder(
    model: nn.Module, tokenizer: Tokenizer, ids: Sequence[int], *, top: int = 5, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """What an encoder does with `ids` (marks and [MASK]s included), as `inspect_ids` says it, but for

    tokens: `here` instead of `next`: what could stand in this place, seen from the others; nats and entropy are of that
    too. Marks have neither; a [MASK] of the text has no nats. lens: of the place itself, not of what follows.
    labels: [{text, p}] of a classifier; a tagger has `label` and `p` in each token. There is no induction test.
    """
    config = cast(ModelConfig, model.config)
    check_shown(config, ids)
    row = torch.tensor([list(ids)], device=next(model.parameters()).device)
    found = internals(model, row)
    tokens = tokens_of(tokenizer, ids)
    result: dict[str, Any] = {"shape": config.shape, "tokens": tokens, "lens": [], "induction": None}
    if isinstance(found.output, Output):
        result["lens"] = add_places(model, tokenizer, row, tokens, top)
        result |= costs(tokens, tokenizer) | {"bits_per_byte": None}  # they do not add up to the text's
    elif isinstance(found.output, Labels):
        chances = found.output.values[0].float().softmax(-1) if config.head != "span" else None
        if chances is not None:
            add_labels(result, chances, list(labels))
    result["attention"] = attention_part(found)
    return result | anatomy_part(model, len(ids))


def add_labels(result: dict[str, Any], chances: Tensor, names: list[str]) -> None:
    """The labels of the text [L], or of each token [T,L], in place."""
    names = names if len(names) == chances.shape[-1] else [str(i) for i in range(chances.shape[-1])]
    if chances.ndim == 1:
        result["labels"] = [{"text": name, "p": p} for name, p in zip(names, chances.tolist(), strict=True)]
        return
    for token, row in zip(result["tokens"], chances.tolist(), strict=True):
        p, name = max(zip(row, names, strict=True))
        token |= {"label": name, "p": p}


def add_places(
    model: nn.Module, tokenizer: Tokenizer, row: Tensor, tokens: list[dict[str, Any]], top: int
) -> list[dict[str, Any]]:
    """Puts nats, entropy and `here` into the tokens of row [1,T]; returns the logit lens of their places."""
    mask = mask_of(tokenizer)
    if mask is None:
        raise FledgeError("the vocabulary has no [MASK]", "give a model with the tokenizer it was trained with")
    asked = [t for t, token in enumerate(tokens) if not token["special"] or token["id"] == mask]
    blank = {"text": "", "p": 0.0, "truth": None}
    lens: list[dict[str, Any]] = []
    rows = max(1, TOGETHER // row.shape[1])
    for begin in range(0, len(asked), rows):
        places = torch.tensor(asked[begin : begin + rows], device=row.device)
        copies = row.repeat(len(places), 1)
        copies[torch.arange(len(places)), places] = mask
        found = internals(model, copies)
        logs = at_places(found.output, places).log_softmax(-1)
        for t, expected, chances in zip(places.tolist(), expectations(logs, tokenizer, top), logs, strict=True):
            token = tokens[t]
            token["nats"] = None if token["id"] == mask else -float(chances[token["id"]])
            token |= {"entropy": expected["entropy"], "here": expected["guesses"]}
        for layer, output in enumerate(lens_outputs(model, found.hidden, copies)):
            if layer == len(lens):
                lens.append({"layer": layer, "tokens": [dict(blank) for _ in tokens]})
            shares = at_places(output, places).softmax(-1)
            for t, chances in zip(places.tolist(), shares, strict=True):
                truth = None if tokens[t]["id"] == mask else round(float(chances[tokens[t]["id"]]), 4)
                best = int(chances.argmax())
                cell = {"text": spelled(tokenizer, best), "p": round(float(chances[best]), 4), "truth": truth}
                lens[layer]["tokens"][t] = cell
    return lens


def at_places(output: Output, places: Tensor) -> Tensor:
    """The logits [B,V] of each row's own place, on the CPU."""
    hidden = output.hidden[torch.arange(len(places)), places]
    return Output(hidden, output.weight, output.bias).logits().float().cpu()


@torch.no_grad()
def inspect_pair(
    model: nn.Module, tokenizer: Tokenizer, source: Sequence[int], target: Sequence[int] = (), *, top: int = 5
) -> dict[str, Any]:
    """What an encoder-decoder does with `source` and `target`, both closed by their mark; without a target, with the
    one that it would write.

    As `inspect_ids` says it, of the target; `source` holds the tokens that are read. attention: of the encoder (source
    looks at source), of the decoder (target at target), and across (target at source).
    """
    config = cast(ModelConfig, model.config)
    check_shown(config, source)
    if not isinstance(model, LanguageModel):
        raise FledgeError("this encoder-decoder does not write", "give one with a language head")
    result: dict[str, Any] = {"written": not target}
    if not target:
        most = min(64, config.context - 1)
        target = nbest(model, tokenizer, [list(source)], max_new_tokens=most, config=BeamConfig())[0][0].ids
    ids = [tokenizer.pad_id, *target]
    check_shown(config, ids)
    device = next(model.parameters()).device
    row, read = torch.tensor([ids], device=device), torch.tensor([list(source)], device=device)
    found = internals(model, row, source_ids=read)
    tokens = tokens_of(tokenizer, ids)
    result |= {"shape": config.shape, "source": tokens_of(tokenizer, source), "tokens": tokens}
    add_predictions(tokens, found.output.logits()[0].float().cpu(), tokenizer, top)
    lens = enumerate(logit_lens(model, found.hidden, row, source_ids=read))
    result["lens"] = [{"layer": layer, "tokens": lens_row(logits[0], ids, tokenizer)} for layer, logits in lens]
    result |= costs(tokens, tokenizer) | {"induction": None}
    result["attention"] = attention_part(found)
    return result | anatomy_part(model, min(LONGEST, max(len(ids), len(source))))


def attention_part(found: Internals) -> list[dict[str, Any]]:
    """The maps, each with which tokens look at which: of an encoder beside a decoder the source's."""
    both = any(".encoder." in place for place in found.places)
    part = []
    for place, weights in zip(found.places, found.attention, strict=True):
        rows = "source" if both and ".encoder." in place else "tokens"
        columns = "source" if rows == "source" or place.endswith(".cross") else "tokens"
        part.append({"place": place, "rows": rows, "columns": columns, "heads": rounded(weights[0])})
    return part
