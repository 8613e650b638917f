"""Speculative decoding: the very tokens of plain decoding, fewer steps, and the model's distribution."""

import math

import pytest
import torch

from fledge.core.errors import FledgeError
from fledge.generate.live import LiveEngine
from fledge.generate.packed import packed
from fledge.generate.request import Request
from fledge.generate.sampling import Sampling
from fledge.model.heads import LanguageModel
from fledge.text.tokenizer import Tokenizer

from .conftest import tiny
from .test_engine import GREEDY
from .test_live import crowd, finish


def near(model: LanguageModel, noise: float) -> LanguageModel:
    """A draft that often guesses right: the model with noise on its weights."""
    draft = tiny(model.config.vocab_size)
    draft.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    return draft


@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("max_batch", [1, 5, 64])
def test_tokens_are_those_of_plain_decoding(
    model: LanguageModel, tokenizer: Tokenizer, noise: float, max_batch: int
) -> None:
    served, draft = packed(model, torch.bfloat16), packed(near(model, noise), torch.bfloat16)
    requests = crowd(tokenizer.vocab_size)
    plain = finish(LiveEngine(served, tokenizer, max_batch=max_batch), requests)
    engine = LiveEngine(served, tokenizer, max_batch=max_batch, draft=draft)
    found = finish(engine, requests)
    assert [each[0] for each in found] == [each[0] for each in plain]
    assert [each[2:] for each in found] == [each[2:] for each in plain]
    assert engine.guessed or max_batch == 64


def test_a_good_draft_saves_steps(model: LanguageModel, tokenizer: Tokenizer) -> None:
    request = Request([7, 8, 9], 60, GREEDY)
    steps = []
    for draft in (None, tiny(1), near(model, 0.0)):
        if draft is not None and draft.config.vocab_size != model.config.vocab_size:
            with pytest.raises(FledgeError, match="tokenizer"):
                LiveEngine(model, tokenizer, draft=draft)
            continue
        engine = LiveEngine(model, tokenizer, draft=draft)
        finish(engine, [request])
        steps.append(engine.steps)
    assert steps[1] < steps[0] / 3


def test_samples_follow_the_models_distribution(model: LanguageModel) -> None:
    """Three tokens after one prompt, 4,000 seeds, a bad draft: frequencies against the exact joint probabilities."""
    prompt, count = [7, 8, 9], 4000
    engine = LiveEngine(model, max_batch=8, draft=near(model, 0.05))
    owner = [engine.submit(Request(prompt, 3, Sampling(top_k=2), seed=seed)) for seed in range(count)]
    drawn: dict[int, list[int]] = {ticket: [] for ticket in owner}
    while engine.busy:
        for update in engine.step():
            drawn[update.ticket] += [scored.token for scored in update.tokens]
    assert engine.guessed > count / 2
    found = [tuple(ids) for ids in drawn.values()]

    @torch.no_grad()
    def top(ids: list[int]) -> dict[int, float]:
        kept = model(torch.tensor([ids])).logits()[0, -1].topk(2)
        return dict(zip(kept.indices.tolist(), kept.values.softmax(-1).tolist()))

    total = 0.0
    for a, p in top(prompt).items():
        for b, q in top([*prompt, a]).items():
            for c, r in top([*prompt, a, b]).items():
                expected = p * q * r
                total += expected
                error = math.sqrt(expected * (1 - expected) / count)
                assert abs(found.count((a, b, c)) / count - expected) < 5 * error + 1e-9
    assert total == pytest.approx(1, abs=1e-5)
