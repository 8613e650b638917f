"""One packed pass against a plain loop: every document by itself, window by window, from whole logits."""

import math

import numpy as np
import pytest
import torch

from fledge.core.nouns import Document
from fledge.evaluate.calibration import next_token_calibration
from fledge.evaluate.language import evaluate_language
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel
from fledge.text.tokenizer import Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "naïve café: ünïcödé — 漢字, and 🦊.",
    "x",
    "for index in range(10):\n    print(index, index ** 2)\n" * 12,
    "",
    "A sentence that is repeated. " * 30,
]
LENGTH = 48


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig.sized(1, tokenizer.vocab_size, 64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # so that predictions differ from uniform ones
    return model


@torch.no_grad()
def by_loop(model: LanguageModel, tokenizer: Tokenizer) -> tuple[list[list[float]], list[float], list[bool], list[int]]:
    """Nats of each document's tokens; confidence, correctness and document of each prediction."""
    nats: list[list[float]] = []
    confidence, correct, unit = [], [], []
    for document, text in enumerate(text for text in TEXTS if text):
        ids = [tokenizer.document_id, *tokenizer.encode(text)]
        nats.append([])
        done = 1  # tokens that were predicted, or are the mark
        while done < len(ids):
            window = ids[done - 1 : done - 1 + LENGTH]
            probabilities = model(torch.tensor([window])).logits()[0].double().softmax(-1)
            for t, target in enumerate(window[1:]):
                nats[-1].append(-math.log(float(probabilities[t, target])))
                best = int(probabilities[t].argmax())
                confidence.append(float(probabilities[t, best]))
                correct.append(best == target)
                unit.append(document)
            done += len(window) - 1
        assert len(nats[-1]) == len(ids) - 1
    return nats, confidence, correct, unit


@pytest.mark.parametrize("tokens_per_batch", [LENGTH, 100_000])
def test_equals_a_loop_over_documents(model: LanguageModel, tokenizer: Tokenizer, tokens_per_batch: int) -> None:
    model.train()
    found = evaluate_language(
        model, tokenizer, [Document(text) for text in TEXTS], length=LENGTH, tokens_per_batch=tokens_per_batch
    )
    assert model.training

    nats, confidence, correct, unit = by_loop(model.eval(), tokenizer)
    total, tokens = sum(map(sum, nats)), sum(map(len, nats))
    size = sum(len(text.encode()) for text in TEXTS)
    assert found.bits_per_byte.value == pytest.approx(total / math.log(2) / size, rel=1e-5)
    assert found.perplexity.value == pytest.approx(math.exp(total / tokens), rel=1e-5)
    assert found.bits_per_byte.low < found.bits_per_byte.value < found.bits_per_byte.high
    assert found.bits_per_byte.n == found.calibration_error.n == 5

    expected = next_token_calibration(np.array(confidence), np.array(correct), np.array(unit))
    assert found.calibration_error.value == pytest.approx(expected.error.value, abs=1e-5)
    assert [row["n"] for row in found.reliability] == [row["n"] for row in expected.reliability]
    assert sum(row["n"] for row in found.reliability) == tokens


def test_what_else_is_measured_does_not_matter(model: LanguageModel, tokenizer: Tokenizer) -> None:
    """A document packed beside others costs what it costs alone."""
    alone = evaluate_language(model, tokenizer, [Document(TEXTS[1])], length=LENGTH)
    pair = evaluate_language(model, tokenizer, [Document(TEXTS[1]), Document(TEXTS[1])], length=LENGTH)
    assert alone.bits_per_byte.value == pytest.approx(pair.bits_per_byte.value, rel=1e-6)
    assert alone.bits_per_byte.as_dict()["low"] is None
    assert pair.bits_per_byte.low == pytest.approx(pair.bits_per_byte.high)


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary(tokenizer: Tokenizer) -> None:
    model = LanguageModel(ModelConfig.sized(1, tokenizer.vocab_size, 64))
    torch.nn.init.zeros_(model.backbone.embedding.weight)
    found = evaluate_language(model, tokenizer, [Document(text) for text in TEXTS], length=LENGTH)
    assert found.perplexity.value == pytest.approx(tokenizer.vocab_size, rel=1e-5)
    assert found.reliability[0]["confidence"] == pytest.approx(1 / tokenizer.vocab_size, rel=1e-5)


def test_no_documents(model: LanguageModel, tokenizer: Tokenizer) -> None:
    found = evaluate_language(model, tokenizer, [Document("")], length=LENGTH)
    assert found.bits_per_byte.as_dict() == {"value": None, "low": None, "high": None, "n": 0}
    assert found.reliability == []
