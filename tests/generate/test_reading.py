"""Embeddings and filled-in words equal those of `transformers`; sources are written for by every shape alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fledge.checkpoint.directory import load_model, save_model
from fledge.checkpoint.lstm import save_lstm
from fledge.core.errors import FledgeError
from fledge.generate.assistant import load
from fledge.generate.beam import BeamConfig
from fledge.generate.reading import embed, fill
from fledge.generate.sources import nbest
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.model.lstm import LstmConfig, LstmModel
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer

transformers = pytest.importorskip("transformers")
TEXTS = ["The zebra sees the lion at the river.", "A moose.", "", "The otter and the heron see the gecko."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 4, 400, special_tokens=SPECIAL + DENOISING)


def made(tokenizer: Tokenizer, shape: Any, **axes: Any) -> Any:
    torch.manual_seed(0)
    model = build(ModelConfig.sized(1, tokenizer.vocab_size, 32, shape, **axes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return model.eval()


def rows(tokenizer: Tokenizer) -> list[list[int]]:
    cls, sep = tokenizer.special["[CLS]"], tokenizer.special["[SEP]"]
    return [[cls, *tokenizer.encode(text), sep] for text in TEXTS]


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "cls"])
def test_embeddings_of_an_encoder(tokenizer: Tokenizer, tmp_path: Path, pooling: str) -> None:
    model = made(tokenizer, "encoder")
    save_model(model, tmp_path, tokenizer=tokenizer)
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    found = embed(model, tokenizer, TEXTS, pooling=pooling, normalise=False, tokens=64)
    for vector, ids in zip(found, rows(tokenizer)):
        with torch.inference_mode():
            hidden = theirs(input_ids=torch.tensor([ids])).last_hidden_state[0]
        expected = {"mean": hidden.mean(0), "last": hidden[-1]}.get(pooling, hidden[0])
        np.testing.assert_allclose(vector, expected, atol=1e-4)
    unit = embed(model, tokenizer, TEXTS, pooling=pooling)
    np.testing.assert_allclose(unit, found / np.linalg.norm(found, axis=1, keepdims=True), atol=1e-5)


def test_embeddings_of_the_other_shapes(tokenizer: Tokenizer) -> None:
    decoder = made(tokenizer, "decoder")
    found = embed(decoder, tokenizer, TEXTS[:2], pooling="last", normalise=False)
    for vector, text in zip(found, TEXTS):
        hidden, _ = decoder.read(torch.tensor([tokenizer.encode(text)]))
        np.testing.assert_allclose(vector, hidden[0, -1].detach(), atol=1e-4)
    both = made(tokenizer, "encoder_decoder")
    found = embed(both, tokenizer, TEXTS[:2], pooling="mean", normalise=False)
    for vector, text in zip(found, TEXTS):
        memory = both.encode(torch.tensor([[*tokenizer.encode(text), tokenizer.document_id]]))
        np.testing.assert_allclose(vector, memory.hidden[0].mean(0).detach(), atol=1e-4)
    lstm = LstmModel(LstmConfig(vocab_size=tokenizer.vocab_size, width=12, layers=2, context=32))
    found = embed(lstm, tokenizer, TEXTS, normalise=False)
    state = lstm.encode(torch.tensor([[*tokenizer.encode(TEXTS[1]), tokenizer.document_id]]))
    np.testing.assert_allclose(found[1], state.hidden[-1, 0].detach(), atol=1e-5)
    assert embed(lstm, tokenizer, []).shape == (0, 12)
    with pytest.raises(FledgeError, match="'middle' is not known"):
        embed(decoder, tokenizer, TEXTS, pooling="middle")


def test_filling_equals_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = made(tokenizer, "encoder")
    save_model(model, tmp_path, tokenizer=tokenizer)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    text = "The [MASK] sees the lion at the [MASK]."
    (found,) = fill(model, tokenizer, [text], top=3)
    mask, (cls, *_, sep) = tokenizer.special["[MASK]"], rows(tokenizer)[0]
    middle = tokenizer.encode(" sees the lion at the")
    ids = [cls, *tokenizer.encode("The"), mask, *middle, mask, *tokenizer.encode("."), sep]
    with torch.inference_mode():
        chances = theirs(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
    assert len(found.places) == 2
    for place, said in zip((i for i, token in enumerate(ids) if token == mask), found.places):
        best = chances[place].topk(3)
        assert [chance for _, chance in said] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert [word for word, _ in said] == [tokenizer.decode([t]).strip() for t in best.indices.tolist()]
        ids[place] = int(best.indices[0])
    assert found.text == tokenizer.decode(ids).strip()


def test_what_cannot_be_filled_is_said(tokenizer: Tokenizer) -> None:
    with pytest.raises(FledgeError, match="nothing is hidden"):
        fill(made(tokenizer, "encoder"), tokenizer, ["plain"])
    with pytest.raises(FledgeError, match="not learnt to fill"):
        fill(made(tokenizer, "decoder"), tokenizer, ["a [MASK]"])
    with pytest.raises(FledgeError, match="context is 32"):
        fill(made(tokenizer, "encoder"), tokenizer, ["a [MASK]" * 20])


@pytest.mark.parametrize("shape", ["encoder_decoder", "lstm", "decoder"])
def test_a_loaded_model_translates(tokenizer: Tokenizer, tmp_path: Path, shape: str) -> None:
    if shape == "lstm":
        torch.manual_seed(0)
        model: Any = LstmModel(LstmConfig(vocab_size=tokenizer.vocab_size, width=16, layers=1, context=32))
        save_lstm(model, tmp_path, tokenizer=tokenizer)
    else:
        model = made(tokenizer, shape)
        save_model(model, tmp_path, tokenizer=tokenizer)
    assistant = load(tmp_path, device="cpu")
    texts = [text for text in TEXTS if text]
    lists = assistant.nbest(texts, max_new_tokens=6, beams=3)
    assert assistant.translate(texts, max_new_tokens=6, beams=3) == [found[0][0].strip() for found in lists]
    for text, found in zip(texts, lists):
        ids = tokenizer.encode(text)
        given = (None, [ids]) if shape == "decoder" else ([[*ids, tokenizer.document_id]], None)
        (alone,) = nbest(model, tokenizer, *given, max_new_tokens=6, config=BeamConfig(beams=3))
        assert [score for _, score in found] == pytest.approx([e.score for e in alone], abs=1e-4)
        assert [text for text, _ in found] == [tokenizer.decode(e.ids) for e in alone]
    greedy = assistant.complete(texts, max_new_tokens=6, temperature=0)
    narrow = assistant.nbest(texts, max_new_tokens=6, beams=1)
    assert [c.text for c in greedy] == [found[0][0] for found in narrow]
    drawn = [assistant.generate(texts, max_new_tokens=6, seed=5) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(assistant.embed(texts)) == len(texts)


def test_directories_come_back_whole(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_model(made(tokenizer, "encoder"), tmp_path, tokenizer=tokenizer)
    assert load(tmp_path, device="cpu").fill(["The [MASK]."])[0].places
    with pytest.raises(FledgeError, match="head 'masked' cannot write"):
        load(tmp_path, device="cpu").translate(["a"])
    as_vectors = load_model(tmp_path, head="embedding")
    np.testing.assert_allclose(
        embed(as_vectors, tokenizer, TEXTS), load(tmp_path, device="cpu").embed(TEXTS), atol=1e-5
    )
