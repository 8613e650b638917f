"""Beam search gives the texts and scores of `transformers` generate on tiny random models of the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint.directory import load_model, save_model
from fledge.generate.beam import Allowed, BeamConfig, Hypothesis, beam_search, prefix_tree
from fledge.generate.decoding import decoding_of
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, build

transformers = pytest.importorskip("transformers")
V, END, PAD = 24, 1, 0
PROMPTS = [[5, 9, 2], [7, 7, 3, 12, 4], [20]]
EARLY: dict[str, Any] = {"exact": "never", "likely": False, "first": True}

SETTINGS: list[dict[str, Any]] = [
    {"beams": 1},
    {"beams": 4},
    {"beams": 4, "length_penalty": 0.0},
    {"beams": 3, "length_penalty": 2.0, "stopping": "likely"},
    {"beams": 5, "length_penalty": 0.6, "stopping": "first"},
    {"beams": 3, "length_penalty": -1.0, "stopping": "likely"},
    {"beams": 4, "no_repeat_ngram": 2},
    {"beams": 4, "no_repeat_ngram": 3, "min_new_tokens": 4},
    {"beams": 2, "no_repeat_ngram": 1, "min_new_tokens": 2, "stopping": "first"},
]


def shaped(seed: int, **axes: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": V, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 8, "hidden": 48}
    model = build(ModelConfig(**(sizes | {"context": 64} | axes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.35)
    return model.eval()


def theirs(model: Any, start: torch.Tensor, size: int, config: BeamConfig, **more: Any) -> list[tuple[Any, float]]:
    """(ids written up to their end, score) of every hypothesis of one request."""
    out = model.generate(
        start, num_beams=config.beams, num_return_sequences=config.beams, max_new_tokens=size, do_sample=False,
        length_penalty=config.length_penalty, early_stopping=EARLY[config.stopping], eos_token_id=END,
        pad_token_id=PAD, no_repeat_ngram_size=config.no_repeat_ngram or None, output_scores=True,
        min_new_tokens=config.min_new_tokens or None, return_dict_in_generate=True, max_length=None, **more,
    )  # fmt: skip
    found = []
    scores = out.sequences_scores.tolist() if config.beams > 1 else [None]
    for row, score in zip(out.sequences.tolist(), scores):
        ids = row[1 if model.config.is_encoder_decoder else start.shape[1] :]
        ids = ids[: ids.index(END) + 1] if END in ids else ids
        found.append((ids, score))
    return found


def same(found: list[Hypothesis], expected: list[tuple[Any, Any]]) -> None:
    assert [entry.ids for entry in found] == [ids for ids, _ in expected]
    for entry, (_, score) in zip(found, expected):
        assert score is None or entry.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_decoder(settings: dict[str, Any], seed: int, tmp_path: Path) -> None:
    ours: LanguageModel = shaped(seed)
    save_model(ours, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    config = BeamConfig(**settings)
    decoding = decoding_of(ours, PROMPTS, 9)
    lists = beam_search(decoding, 3, ends=[END], max_new_tokens=9, config=config, prompts=PROMPTS)
    for prompt, found in zip(PROMPTS, lists):
        same(found, theirs(model, torch.tensor([prompt]), 9, config))


def test_constrained_decoder(tmp_path: Path) -> None:
    ours = shaped(2)
    save_model(ours, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    valid = [[4, 5, END], [4, 6, 7, END], [9, END], [9, 8, 8, END], [3, 3, 3, END]]
    allowed: Allowed = prefix_tree(valid)
    config = BeamConfig(beams=3, stopping="likely")
    decoding = decoding_of(ours, PROMPTS[:1], 6)
    (found,) = beam_search(decoding, 1, ends=[END], max_new_tokens=6, config=config, allowed=allowed)

    def may(batch: int, ids: torch.Tensor) -> list[int]:
        return list(allowed(0, ids[len(PROMPTS[0]) :].tolist())) or [END]

    expected = theirs(model, torch.tensor(PROMPTS[:1]), 6, config, prefix_allowed_tokens_fn=may)
    same(found, expected)
    assert all(entry.ids in valid for entry in found)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_encoder_decoder(settings: dict[str, Any], tmp_path: Path) -> None:
    t5 = transformers.T5Config(
        vocab_size=V, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4,
        decoder_start_token_id=PAD, eos_token_id=END, pad_token_id=PAD, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(t5).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.0 if "relative" in name else 0.3)
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    config = BeamConfig(**settings)
    starts = [[PAD]] * len(PROMPTS)
    decoding = decoding_of(ours, starts, 9, PROMPTS)
    lists = beam_search(decoding, 3, ends=[END], max_new_tokens=9, config=config, prompts=starts)
    for source, found in zip(PROMPTS, lists):
        same(found, theirs(model, torch.tensor([source]), 9, config))
