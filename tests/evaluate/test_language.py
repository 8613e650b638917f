"""Bits per byte and calibration against one document at a time with full logits."""

import math

import numpy as np
import pytest
import torch

from fledge.core.errors import FledgeError
from fledge.core.nouns import Document
from fledge.evaluate.calibration import bin_sums, expected_calibration_error
from fledge.evaluate.language import evaluate_language
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, build
from fledge.text.tokenizer import Tokenizer

TEXTS = [
    "the cat sat on the mat. " * 3,
    "",
    "Grüße, 世界! " * 5,
    "a",
    "def f(x):\n    return x + 1\n" * 4,
    "zebra " * 20,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, 300)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> LanguageModel:
    torch.manual_seed(0)
    built = build(
        ModelConfig(
            vocab_size=tokenizer.vocab_size,
            width=32,
            layers=2,
            heads=2,
            kv_heads=1,
            head_size=16,
            hidden=48,
            context=256,
            tied=True,
        )
    )
    with torch.no_grad():
        for weight in built.parameters():
            weight.mul_(3)
    return built


@torch.no_grad()
def brute_force(model: LanguageModel, tokenizer: Tokenizer) -> tuple[float, float]:
    nats, confidence, correct = 0.0, [], []
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.document_id, *tokenizer.encode(text), tokenizer.document_id]])
        probabilities = model(ids).logits()[0, :-1].double().softmax(-1)
        nats -= float(probabilities.gather(1, ids[0, 1:, None]).log().sum())
        highest, guess = probabilities.max(-1)
        confidence += highest.tolist()
        correct += (guess == ids[0, 1:]).tolist()
    size = sum(len(text.encode()) for text in TEXTS)
    error = expected_calibration_error(bin_sums(np.array(confidence), np.array(correct)))
    return nats / math.log(2) / size, float(error)


def test_equals_brute_force(model: LanguageModel, tokenizer: Tokenizer) -> None:
    """One row holds everything: no document is cut, so packing must change nothing."""
    bits, error = brute_force(model, tokenizer)
    documents = [Document(text) for text in TEXTS]
    found = evaluate_language(model, tokenizer, documents, length=1024)
    assert found.bits_per_byte.value == pytest.approx(bits, rel=1e-5)
    assert found.calibration_error.value == pytest.approx(error, abs=1e-6)
    assert found.bits_per_byte.low < bits < found.bits_per_byte.high
    assert 0 <= found.calibration_error.low <= error <= found.calibration_error.high
    predictions = sum(len(tokenizer.encode(text)) + 1 for text in TEXTS)
    assert sum(row["n"] for row in found.reliability) == predictions


def test_micro_batches_and_chunks_change_nothing(
    model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [Document(text) for text in TEXTS]
    whole = evaluate_language(model, tokenizer, documents, length=32)
    monkeypatch.setattr("fledge.evaluate.language.rows_per_chunk", lambda vocabulary, device: 7)
    parts = evaluate_language(model, tokenizer, documents, length=32, tokens_per_microbatch=32)
    assert parts.bits_per_byte.value == pytest.approx(whole.bits_per_byte.value, rel=1e-6)
    assert parts.bits_per_byte.high == pytest.approx(whole.bits_per_byte.high, rel=1e-5)
    assert parts.calibration_error.value == pytest.approx(whole.calibration_error.value, abs=1e-6)


def test_a_model_that_knows_nothing_needs_log2_v_bits_a_token(tokenizer: Tokenizer) -> None:
    blank = build(ModelConfig.sized(1, tokenizer.vocab_size, 64))
    torch.nn.init.zeros_(blank.backbone.embedding.weight)
    found = evaluate_language(blank, tokenizer, [Document(text) for text in TEXTS], length=64)
    tokens = sum(len(tokenizer.encode(text)) + 1 for text in TEXTS)
    size = sum(len(text.encode()) for text in TEXTS)
    assert found.bits_per_byte.value == pytest.approx(tokens * math.log2(tokenizer.vocab_size) / size, rel=1e-5)
    assert all(row["confidence"] == pytest.approx(1 / tokenizer.vocab_size) for row in found.reliability)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_left_as_found(model: LanguageModel, tokenizer: Tokenizer, training: bool) -> None:
    model.train(training)
    evaluate_language(model, tokenizer, [Document("some text")], length=16)
    assert model.training is training
    assert all(weight.grad is None for weight in model.parameters())


def test_follows_autocast(model: LanguageModel, tokenizer: Tokenizer) -> None:
    documents = [Document(text) for text in TEXTS]
    exact = evaluate_language(model, tokenizer, documents, length=64).bits_per_byte.value
    with torch.autocast("cpu", torch.bfloat16):
        rough = evaluate_language(model, tokenizer, documents, length=64).bits_per_byte.value
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.02)


def test_no_text_is_refused(model: LanguageModel, tokenizer: Tokenizer) -> None:
    with pytest.raises(FledgeError, match="no text"):
        evaluate_language(model, tokenizer, [Document("")], length=16)


def test_one_document_has_no_interval(model: LanguageModel, tokenizer: Tokenizer) -> None:
    found = evaluate_language(model, tokenizer, [Document("the only one")], length=16)
    assert found.bits_per_byte.value > 0
    assert math.isnan(found.bits_per_byte.low)
