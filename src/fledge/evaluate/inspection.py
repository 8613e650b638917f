"""One text through one decoder, looked at from all sides: everything `fledge inspect` and the web app show, as JSON.

Tokens and what each cost, what the model thought would come next, where every head looked, what each layer would have
said, which heads find repetitions again, where the parameters sit. Left out: encoders and encoder-decoders, which
`inspection_encoders` looks into, and any picture of it.

Shapes: T time, H heads, L layers, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fledge.core.errors import FledgeError
from fledge.evaluate.anatomy import anatomy_of_model, total
from fledge.evaluate.internals import induction, internals, logit_lens
from fledge.model.config import ModelConfig
from fledge.text.tokenizer import Tokenizer

LONGEST = 256  # tokens: attention maps grow with the square
PERIOD = 48  # random tokens of the induction test, where the context allows


@torch.no_grad()
def inspect_ids(
    model: nn.Module, tokenizer: Tokenizer, ids: Sequence[int], *, top: int = 5, seed: int = 0
) -> dict[str, Any]:
    """What `model` does with `ids`, as a dict that JSON can say.

    tokens: [T] of {id, text, special, nats (of this token, given those before), next: top {id, text, p}, entropy}.
    attention: [L] of {place, rows and columns: which tokens look at which, heads: [H][T][T]}.
    lens: [layers + 1] of {layer, tokens: [T] of {text, p, truth}}.
    induction: see `internals.induction`, with H numbers per layer. anatomy: part → {parameters, active, flops}.
    A reward model has `value` in each token instead of nats and next, and no lens.
    Raises FledgeError for too long a text.
    """
    config = cast(ModelConfig, model.config)
    check_shown(config, ids)
    row = torch.tensor([list(ids)], device=next(model.parameters()).device)
    found = internals(model, row)
    tokens = tokens_of(tokenizer, ids)
    result: dict[str, Any] = {"shape": config.shape, "tokens": tokens, "lens": []}
    if hasattr(found.output, "logits"):
        add_predictions(tokens, found.output.logits()[0].float().cpu(), tokenizer, top)
        for layer, logits in enumerate(logit_lens(model, found.hidden, row)):
            result["lens"].append({"layer": layer, "tokens": lens_row(logits[0], ids, tokenizer)})
        result |= costs(tokens, tokenizer)
    else:
        for token, value in zip(tokens, found.output.values[0].float().tolist(), strict=True):
            token["value"] = value
    result["attention"] = [
        {"place": place, "rows": "tokens", "columns": "tokens", "heads": rounded(weights[0])}
        for place, weights in zip(found.places, found.attention, strict=True)
    ]
    result["induction"] = induction_of(model, tokenizer, seed)
    return result | anatomy_part(model, len(ids))


def check_shown(config: ModelConfig, ids: Sequence[int]) -> None:
    """Refuses what is too long to be shown, or nothing."""
    context = min(config.context, LONGEST)
    if not 1 <= len(ids) <= context:
        raise FledgeError(f"the text has {len(ids):,} tokens, at most {context} can be shown", "give a shorter text")


def tokens_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, Any]]:
    """id, text and whether it is a special token, of each of ids [T]."""
    special = special_of(tokenizer)
    return [{"id": int(i), "text": spelled(tokenizer, int(i)), "special": int(i) in special} for i in ids]


def costs(tokens: list[dict[str, Any]], tokenizer: Tokenizer) -> dict[str, float | None]:
    """The mean nats of the tokens whose cost is known, and the bits of each byte that they spell."""
    known = [token for token in tokens if token.get("nats") is not None]
    nats = sum(token["nats"] for token in known)
    said = sum(len(tokenizer.token_bytes(token["id"])) for token in known if not token["special"])
    return {
        "loss": nats / len(known) if known else None,
        "bits_per_byte": nats / math.log(2) / said if said else None,
    }


def anatomy_part(model: nn.Module, length: int) -> dict[str, Any]:
    """The parts of the model, and its sizes."""
    config = cast(ModelConfig, model.config)
    table = anatomy_of_model(model, length)
    sizes = {
        "layers": config.layers,
        "encoder_layers": config.encoding_layers,
        "heads": config.heads,
        "width": config.width,
        "parameters": int(total(table, "parameters")),
        "active": int(total(table, "active")),
        "experts": config.experts,
        "top_k": config.top_k if config.experts else 0,
        "vocabulary": config.vocab_size,
        "context": config.context,
    }
    return {"anatomy": table, "model": sizes}


def special_of(tokenizer: Tokenizer) -> set[int]:
    """The ids of the special tokens."""
    return set(tokenizer.special.values())


def add_predictions(tokens: list[dict[str, Any]], logits: Tensor, tokenizer: Tokenizer, top: int) -> None:
    """Puts into each token what it cost (nats; the first is given: None) and what was expected after it, in place."""
    logs = logits.log_softmax(-1)
    for t, (token, expected) in enumerate(zip(tokens, expectations(logs, tokenizer, top), strict=True)):
        token["nats"] = -float(logs[t - 1, token["id"]]) if t else None
        token |= {"entropy": expected["entropy"], "next": expected["guesses"]}


def expectations(logs: Tensor, tokenizer: Tokenizer, top: int) -> list[dict[str, Any]]:
    """Of each row of log-probabilities [N,V] its entropy in nats and its favourites."""
    best = logs.topk(min(top, logs.shape[-1]))
    entropy = -(logs.exp() * logs).nansum(-1)
    return [
        {
            "entropy": spread,
            "guesses": [
                {"id": i, "text": spelled(tokenizer, i), "p": round(math.exp(value), 5)}
                for i, value in zip(ids, values, strict=True)
            ],
        }
        for ids, values, spread in zip(best.indices.tolist(), best.values.tolist(), entropy.tolist(), strict=True)
    ]


def lens_row(logits: Tensor, ids: Sequence[int], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """At each position the favourite of a layer, its probability, and that of what really came (None at the end)."""
    chances = logits.softmax(-1)
    best = chances.max(-1)
    truths = [*(float(chances[t, i]) for t, i in enumerate(ids[1:])), None]
    return [
        {"text": spelled(tokenizer, i), "p": round(p, 4), "truth": truth if truth is None else round(truth, 4)}
        for i, p, truth in zip(best.indices.tolist(), best.values.tolist(), truths, strict=True)
    ]


def spelled(tokenizer: Tokenizer, token: int) -> str:
    """The text of one id; rows of the embedding that no token owns are named by their number."""
    try:
        return tokenizer.decode([token], skip_special=False)
    except KeyError:
        return f"#{token}"


def rounded(weights: Tensor) -> list[Any]:
    """Probabilities [H,T,T] as nested lists of three decimals."""
    return (weights.double() * 1000).round().div(1000).tolist()


def induction_of(model: nn.Module, tokenizer: Tokenizer, seed: int) -> dict[str, Any] | None:
    """The induction test on this vocabulary, or None for a context too short to say anything twice."""
    config = cast(ModelConfig, model.config)
    period = min(PERIOD, (config.context - 1) // 2)
    alphabet = torch.tensor(sorted(set(tokenizer.vocabulary.values()) - special_of(tokenizer)))
    alphabet = alphabet[alphabet < config.vocab_size]
    if period < 4 or not len(alphabet):
        return None
    return induction(model, alphabet, tokenizer.document_id, period=period, seed=seed)
