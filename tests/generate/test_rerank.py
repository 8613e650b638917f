"""Rescored lists agree with the search that made them, and come back in the order of the weighted means."""

from typing import Any

import pytest
import torch

from fledge.core.errors import FledgeError
from fledge.generate.beam import BeamConfig
from fledge.generate.rerank import rerank, rescored
from fledge.generate.sources import nbest
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.model.lstm import LstmConfig, LstmModel
from fledge.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the zebra sees the lion"] * 4, 270)


def made(shape: str, vocabulary: int) -> Any:
    torch.manual_seed(1)
    if shape == "lstm":
        model: Any = LstmModel(LstmConfig(vocab_size=vocabulary, width=16, layers=2, context=32))
    else:
        model = build(ModelConfig.sized(1, vocabulary, 32, shape))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("shape", ["decoder", "encoder_decoder", "lstm"])
def test_a_model_agrees_with_its_own_search(tokenizer: Tokenizer, shape: str) -> None:
    model, texts = made(shape, tokenizer.vocab_size), [[7, 8, 9], [12], [40, 41, 42, 43, 44]]
    given = (None, texts) if shape == "decoder" else (texts, None)
    lists = nbest(model, tokenizer, *given, max_new_tokens=5, config=BeamConfig(beams=3))
    again = rescored(model, tokenizer, *given, lists, tokens=24)
    for found, values in zip(lists, again):
        assert values == pytest.approx([entry.logprob for entry in found], abs=1e-3)


def test_the_order_is_that_of_the_weighted_mean(tokenizer: Tokenizer) -> None:
    models = [made(shape, tokenizer.vocab_size) for shape in ("encoder_decoder", "lstm")]
    texts = [[7, 8, 9], [12], [40, 41, 42, 43, 44]]
    lists = nbest(models[0], tokenizer, texts, max_new_tokens=5, config=BeamConfig(beams=4))
    other = rescored(models[1], tokenizer, texts, None, lists)
    assert [[e.ids for e in f] for f in rerank(lists, [other], [1, 0])] == [[e.ids for e in f] for f in lists]
    moved = False
    for weights in ([1.0, 1.0], [0.0, 1.0], [0.2, 0.8]):
        for found, before, values in zip(rerank(lists, [other], weights), lists, other):
            mean = {
                tuple(e.ids): (weights[0] * e.logprob + weights[1] * v) / sum(weights) / len(e.ids)
                for e, v in zip(before, values)
            }
            assert [e.score for e in found] == pytest.approx(sorted(mean.values(), reverse=True))
            assert [mean[tuple(e.ids)] for e in found] == pytest.approx([e.score for e in found])
            moved |= [e.ids for e in found] != [e.ids for e in before]
    assert moved
    with pytest.raises(FledgeError, match="1 weights for 2 models"):
        rerank(lists, [other], [1.0])
