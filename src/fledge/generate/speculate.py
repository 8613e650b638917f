"""Speculative decoding (arXiv:2211.17192): a small draft guesses the next tokens, the model checks them all at once.

A token is drawn by its logits and by a number that hangs on the request's seed and the token's place alone. The draft
draws with the same numbers, and the model then draws at every guessed place: what it draws is what it would have drawn
anyway, and it goes on as long as the guess was that. So the tokens are the very ones of decoding without a draft, and
their distribution is the model's, exactly; the draft decides only how many come at once. Nothing is accepted or
rejected by chance, so no correction is needed.

Shapes: N rows, K guesses, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch

from fledge.core.errors import FledgeError
from fledge.generate.draws import Draws
from fledge.generate.request import Scored
from fledge.generate.rows import Row, RowCache
from fledge.model.config import ModelConfig

GUESSES = 4  # tokens
FEW = 8  # rows: with more, checking costs what decoding does


def check_draft(model: ModelConfig, draft: ModelConfig) -> None:
    """Raise FledgeError for a draft that cannot stand in for the model."""
    if draft.vocab_size != model.vocab_size:
        raise FledgeError(
            f"the draft has {draft.vocab_size} tokens, the model {model.vocab_size}",
            "a draft needs the same tokenizer",
        )
    if draft.context < model.context:
        raise FledgeError(
            f"the draft's context is {draft.context} tokens, the model's {model.context}",
            "a draft needs at least the model's context",
        )


def can_guess(rows: Sequence[Row], draws: Draws, cache: RowCache) -> int:
    """How many tokens to guess now for all of `rows`; 0 if plain decoding is in place."""
    if len(cache.models) < 2 or len(rows) > FEW or not draws.guessable:
        return 0
    return min(GUESSES, *(row.need - len(row.ids) - 1 for row in rows))


def speculate(
    rows: Sequence[Row], guesses: int, draws: Draws, cache: RowCache, take: Callable[[Row, Scored], None]
) -> list[int]:
    """One round for the decoding `rows`: `take(row, token)` for each token that is certain, 1 to guesses + 1 of them
    a row. Returns the places of the rows that ended."""
    draws.look_ahead()
    lengths = [len(row.ids) for row in rows]
    guessed = torch.zeros(len(rows), guesses, dtype=torch.int64)
    starts = [row.drafted for row in rows]
    missing = [length - start for length, start in zip(lengths, starts)]
    ids = torch.zeros(len(rows), max(missing), dtype=torch.int64)
    for place, (row, count) in enumerate(zip(rows, missing)):
        ids[place, :count] = torch.tensor(row.ids[-count:])
    last = torch.tensor(missing) - 1
    for ahead in range(guesses):
        logits = cache.forward(0, ids, starts, which=1).logits()
        guessed[:, ahead] = draws.guess(logits[torch.arange(len(rows)), last], ahead).cpu()
        ids, last = guessed[:, ahead : ahead + 1], torch.zeros(len(rows), dtype=torch.int64)
        starts = [length + ahead for length in lengths]
    checked = torch.cat([torch.tensor([row.ids[-1:] for row in rows]), guessed], 1)
    logits = cache.forward(0, checked, [row.done for row in rows]).logits()
    going = set(range(len(rows)))
    for ahead in range(guesses + 1):
        for place, scored in enumerate(draws.draw(logits[:, ahead])):
            if place not in going:
                continue
            row = rows[place]
            take(row, scored)
            row.done = lengths[place] + ahead
            row.drafted = min(row.done, lengths[place] + guesses - 1)
            if row.finish or ahead == guesses or scored.token != int(guessed[place, ahead]):
                going.discard(place)
    draws.forget()
    return [place for place, row in enumerate(rows) if row.finish]
