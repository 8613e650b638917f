"""Encoders and encoder-decoders from inside, against transformers' own outputs and the arithmetic of sizes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint.directory import load_model
from fledge.core.errors import FledgeError
from fledge.evaluate.anatomy import SHAPES, anatomy_of_model, anatomy_of_shape, total
from fledge.evaluate.inspection_encoders import inspect_text
from fledge.generate.sources import nbest
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.model.lstm import LstmConfig, LstmModel
from fledge.model.size import parameters
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer

transformers = pytest.importorskip("transformers")
TEXT = "The zebra sees the lion."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["The zebra sees the lion at the river.", "An otter sees a heron near the old harbour."] * 30
    return Tokenizer.train(texts, 400, special_tokens=SPECIAL + DENOISING)


def written(model: Any, path: Path) -> Any:
    """A model of transformers with weights that matter, on disk."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(path)
    return model.eval()


def sizes(tokenizer: Tokenizer) -> dict[str, int]:
    return {
        "vocab_size": tokenizer.vocab_size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 64,
    }  # fmt: skip


@torch.no_grad()
def test_an_encoder_is_asked_for_each_token_in_turn(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = transformers.BertConfig(**sizes(tokenizer), attn_implementation="eager")
    theirs = written(transformers.BertForMaskedLM(config), tmp_path)
    found = inspect_text(load_model(tmp_path), tokenizer, TEXT, top=3)
    json.dumps(found, allow_nan=False)
    special = tokenizer.special
    ids = [special["[CLS]"], *tokenizer.encode(TEXT), special["[SEP]"]]
    assert [token["id"] for token in found["tokens"]] == ids
    for t, token in enumerate(found["tokens"][1:-1], 1):
        masked = torch.tensor([ids])
        masked[0, t] = special["[MASK]"]
        expected = theirs(masked, output_hidden_states=True)
        logs = expected.logits[0, t].log_softmax(-1)
        assert token["nats"] == pytest.approx(-float(logs[ids[t]]), abs=1e-4)
        assert token["entropy"] == pytest.approx(float(-(logs.exp() * logs).sum()), abs=1e-4)
        assert [guess["id"] for guess in token["here"]] == logs.topk(3).indices.tolist()
        for layer, state in zip(found["lens"], expected.hidden_states, strict=True):
            chances = theirs.cls(state)[0, t].softmax(-1)
            assert layer["tokens"][t]["truth"] == pytest.approx(float(chances[ids[t]]), abs=2e-4)
            assert layer["tokens"][t]["p"] == pytest.approx(float(chances.max()), abs=2e-4)
    assert "nats" not in found["tokens"][0]
    asked = [token["nats"] for token in found["tokens"][1:-1]]
    assert found["loss"] == pytest.approx(sum(asked) / len(asked))
    for layer, weights in zip(found["attention"], theirs(torch.tensor([ids]), output_attentions=True).attentions):
        torch.testing.assert_close(torch.tensor(layer["heads"]), weights[0], atol=6e-4, rtol=0)


@torch.no_grad()
def test_a_mask_in_the_text_is_filled(tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = written(transformers.BertForMaskedLM(transformers.BertConfig(**sizes(tokenizer))), tmp_path)
    found = inspect_text(load_model(tmp_path), tokenizer, "The [MASK] sees the lion.", top=4)
    place = next(t for t, token in enumerate(found["tokens"]) if token["id"] == tokenizer.special["[MASK]"])
    hidden = found["tokens"][place]
    ids = torch.tensor([[token["id"] for token in found["tokens"]]])
    best = theirs(ids).logits[0, place].softmax(-1).topk(4)
    assert [guess["id"] for guess in hidden["here"]] == best.indices.tolist()
    assert [guess["p"] for guess in hidden["here"]] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert hidden["nats"] is None


def test_classifiers_and_taggers_say_their_labels(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = build(ModelConfig.sized(1, tokenizer.vocab_size, 64, "encoder", head="classifier", labels=3)).eval()
    found = inspect_text(model, tokenizer, TEXT, labels=("a", "b", "c"))
    ids = torch.tensor([[token["id"] for token in found["tokens"]]])
    chances = model(ids).values[0].softmax(-1).tolist()
    assert [(label["text"], label["p"]) for label in found["labels"]] == [
        (name, pytest.approx(p, abs=1e-6)) for name, p in zip("abc", chances, strict=True)
    ]
    assert found["lens"] == []
    tagger = build(ModelConfig.sized(1, tokenizer.vocab_size, 64, "encoder", head="tokens", labels=2)).eval()
    found = inspect_text(tagger, tokenizer, TEXT)
    expected = tagger(ids).values[0].argmax(-1).tolist()
    assert [token["label"] for token in found["tokens"]] == [str(label) for label in expected]


@torch.no_grad()
def test_an_encoder_decoder_reads_and_writes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=tokenizer.vocab_size, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4,
        feed_forward_proj="gated-gelu", decoder_start_token_id=tokenizer.pad_id, attn_implementation="eager",
    )  # fmt: skip
    theirs = written(transformers.T5ForConditionalGeneration(config), tmp_path)
    model = load_model(tmp_path)
    found = inspect_text(model, tokenizer, "The <extra_id_0> sees the lion.", target="<extra_id_0> zebra", top=3)
    json.dumps(found, allow_nan=False)
    source, ids = ([token["id"] for token in found[name]] for name in ("source", "tokens"))
    sentinel = tokenizer.special["<extra_id_0>"]
    assert sentinel in source
    assert ids[:2] == [tokenizer.pad_id, sentinel]
    assert ids[-1] == source[-1] == tokenizer.document_id
    expected = theirs(
        input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([ids]), output_attentions=True
    )  # fmt: skip
    logs = expected.logits[0].log_softmax(-1)
    for t, token in enumerate(found["tokens"][1:]):
        assert token["nats"] == pytest.approx(-float(logs[t, token["id"]]), abs=1e-4)
    for cell, row in zip(found["lens"][-1]["tokens"], logs, strict=True):
        assert cell["p"] == pytest.approx(float(row.exp().max()), abs=2e-4)
    assert len(found["lens"]) == 4
    maps = {"encoder": [], "decoder": [], "cross": []}
    for layer in found["attention"]:
        across = layer["columns"] != layer["rows"]
        maps["cross" if across else "encoder" if layer["rows"] == "source" else "decoder"].append(layer["heads"])
    for name in maps:
        for ours, other in zip(maps[name], getattr(expected, f"{name}_attentions"), strict=True):
            torch.testing.assert_close(torch.tensor(ours), other[0], atol=6e-4, rtol=0)
    assert not found["written"]
    by_itself = inspect_text(model, tokenizer, TEXT)
    read = [*tokenizer.encode(TEXT), tokenizer.document_id]
    best = nbest(model, tokenizer, [read], max_new_tokens=64)[0][0]
    assert [token["id"] for token in by_itself["tokens"][1:]] == best.ids
    nats = [token["nats"] for token in by_itself["tokens"][1:]]
    assert sum(nats) == pytest.approx(-best.logprob, abs=1e-2)
    assert by_itself["written"]


def test_what_cannot_be_looked_into_is_refused(tokenizer: Tokenizer) -> None:
    lstm = LstmModel(LstmConfig(vocab_size=tokenizer.vocab_size, width=8, layers=1, context=32))
    with pytest.raises(FledgeError, match="an LSTM has no attention"):
        inspect_text(lstm, tokenizer, TEXT)
    decoder = build(ModelConfig.sized(1, tokenizer.vocab_size, 64))
    with pytest.raises(FledgeError, match="a target is for an encoder-decoder"):
        inspect_text(decoder, tokenizer, TEXT, target="lion")


CONFIGS = {
    "experts": ModelConfig.sized(2, 320, 128, experts=4, top_k=2),
    "experts-shared": ModelConfig.sized(2, 320, 128, experts=3, top_k=1, shared_hidden=64, tied=False),
    "encoder": ModelConfig.sized(2, 320, 128, "encoder"),
    "pair": ModelConfig.sized(2, 320, 128, "encoder", head="pretraining"),
    "encoder-decoder": ModelConfig.sized(2, 320, 128, "encoder_decoder"),
    "uneven": ModelConfig.sized(2, 320, 128, "encoder_decoder", encoder_layers=3, tied=False),
    "narrow": ModelConfig.sized(2, 320, 128, positions="learned", embedding_width=32),
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_counted_parts_are_those_of_the_arithmetic(name: str) -> None:
    config = CONFIGS[name]
    with torch.device("meta"):
        model = build(config)
    counted = anatomy_of_model(model, 100)
    by_size = parameters(config)
    parts = {"embedding": "embeddings", "attention": "attention", "feedforward": "feed-forward", "head": "output head"}
    norms = sum(p.numel() for n, p in model.named_parameters() if "q_norm" in n or "k_norm" in n)  # attention's there
    assert counted["norms"]["parameters"] == by_size["norms"] + norms
    for ours, theirs in parts.items():
        assert counted[theirs]["parameters"] == by_size[ours] - (norms if ours == "attention" else 0)
    assert total(counted, "active") == config.active_parameters()
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    tables = sum(p.numel() for n, p in model.named_parameters() if n.endswith("distances"))
    assert 3 * total(counted, "flops") == config.flops_per_token(100) - 6 * (vectors + tables)


def test_mixtral_has_thirteen_of_its_forty_seven_billion_weights_active() -> None:
    shape = SHAPES["mixtral-8x7b"]
    with torch.device("meta"):
        theirs = transformers.MixtralForCausalLM(transformers.MixtralConfig())
    table = anatomy_of_shape(shape)
    assert total(table, "parameters") == sum(p.numel() for p in theirs.parameters())
    experts = sum(p.numel() for n, p in theirs.named_parameters() if "experts" in n)
    assert total(table, "active") == total(table, "parameters") - experts * 6 // 8
    assert total(table, "active") / 1e9 == pytest.approx(12.9, abs=0.05)
