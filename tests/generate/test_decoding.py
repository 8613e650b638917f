"""Every shape writes as its own plain forward pass says: against all sequences, against the engine, step by step."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from fledge.core.errors import FledgeError
from fledge.generate.beam import BeamConfig, beam_search
from fledge.generate.decoding import decoding_of, draw
from fledge.generate.engine import Engine
from fledge.generate.request import Request
from fledge.generate.sampling import Sampling
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.model.lstm import LstmConfig, LstmModel
from gpu import gpu

V, END, START = 5, 4, 3
SOURCES = [[1, 2, 0, 1], [2], [0, 1, 2]]


def model_of(shape: str) -> Any:
    torch.manual_seed(0)
    if shape == "lstm":
        model: Any = LstmModel(LstmConfig(vocab_size=V, width=16, layers=2, context=32))
    else:
        sizes = {"vocab_size": V, "width": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_size": 8, "hidden": 24}
        model = build(ModelConfig(**sizes, context=32, shape=shape))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.6)
    return model.eval()


def logprob(model: Any, prompt: Sequence[int], ids: Sequence[int], source: Sequence[int] | None) -> float:
    """Σ log p of ids after prompt, in one forward pass without any cache."""
    others = {} if source is None else {"source_ids": torch.tensor([list(source)])}
    logits = model(torch.tensor([[*prompt, *ids[:-1]]]), **others).logits()[0, len(prompt) - 1 :]
    return float(logits.log_softmax(-1)[range(len(ids)), list(ids)].sum())


def every_text(limit: int) -> list[tuple[int, ...]]:
    words = [token for token in range(V) if token != END]
    ended = [(*body, END) for size in range(limit) for body in itertools.product(words, repeat=size)]
    return [*ended, *itertools.product(words, repeat=limit)]


@pytest.mark.parametrize("shape", ["decoder", "encoder_decoder", "lstm"])
def test_wide_beams_find_the_best_of_all_texts(shape: str) -> None:
    model, texts = model_of(shape), every_text(3)
    prompts = SOURCES if shape == "decoder" else [[START], [START, 1], [START]]
    sources = None if shape == "decoder" else SOURCES
    config = BeamConfig(beams=len(texts), length_penalty=0.8)
    lists = beam_search(decoding_of(model, prompts, 3, sources), 3, ends=[END], max_new_tokens=3, config=config)
    with torch.inference_mode():
        for n, found in enumerate(lists):
            of = {t: logprob(model, prompts[n], t, None if sources is None else sources[n]) for t in texts}
            ranked = sorted(texts, key=lambda t: -of[t] / len(t) ** 0.8)
            assert [e.logprob for e in found] == pytest.approx([of[tuple(e.ids)] for e in found], abs=1e-4)
            assert [e.score for e in found] == pytest.approx([of[t] / len(t) ** 0.8 for t in ranked], abs=1e-4)
            assert tuple(found[0].ids) == ranked[0]


@pytest.mark.parametrize("shape", ["decoder", "encoder_decoder", "lstm"])
def test_requests_are_alone_in_a_batch(shape: str) -> None:
    model = model_of(shape)
    prompts = SOURCES if shape == "decoder" else [[START]] * 3
    config = BeamConfig(beams=3)

    def search(which: list[int]) -> list[Any]:
        sources = None if shape == "decoder" else [SOURCES[n] for n in which]
        decoding = decoding_of(model, [prompts[n] for n in which], 8, sources)
        return beam_search(decoding, len(which), ends=[END], max_new_tokens=8, config=config)

    together = search([0, 1, 2])
    for n in range(3):
        (alone,) = search([n])
        assert [e.ids for e in alone] == [e.ids for e in together[n]]
        assert [e.score for e in alone] == pytest.approx([e.score for e in together[n]], abs=1e-4)


@pytest.mark.parametrize("shape", ["decoder", "encoder_decoder"])
def test_a_gpu_finds_the_same(shape: str) -> None:
    def search(model: Any) -> list[list[tuple[int, ...]]]:
        prompts, sources = (SOURCES, None) if shape == "decoder" else ([[START]] * 3, SOURCES)
        decoding, config = decoding_of(model, prompts, 8, sources), BeamConfig(beams=4)
        lists = beam_search(decoding, 3, ends=[END], max_new_tokens=8, config=config)
        return [[tuple(hypothesis.ids) for hypothesis in found] for found in lists]

    expected = search(model_of(shape))
    with gpu() as device:
        assert search(model_of(shape).to(device)) == expected


def test_draws_what_the_engine_draws() -> None:
    model = model_of("decoder")
    how = Sampling(temperature=0.9, top_k=4, top_p=0.95, repetition_penalty=1.2, presence_penalty=0.1)
    requests = [Request(ids, 10, how, seed, stop_ids=(END,)) for seed, ids in enumerate(SOURCES * 2)]
    expected = Engine(model).run(requests)
    found = draw(decoding_of(model, [r.ids for r in requests], 10), requests, torch.device("cpu"))
    assert [ids for ids, _ in found] == [c.ids for c in expected]
    for (_, logprobs), completion in zip(found, expected):
        assert logprobs == pytest.approx(completion.logprobs, abs=1e-4)


@pytest.mark.parametrize("shape", ["encoder_decoder", "lstm"])
def test_one_beam_without_temperature_and_the_plain_argmax_agree(shape: str) -> None:
    model = model_of(shape)
    greedy = [Request([START], 6, Sampling(temperature=0), stop_ids=(END,))] * 3
    drawn = draw(decoding_of(model, [[START]] * 3, 6, SOURCES), greedy, torch.device("cpu"))
    decoding = decoding_of(model, [[START]] * 3, 6, SOURCES)
    beams = beam_search(decoding, 3, ends=[END], max_new_tokens=6, config=BeamConfig(beams=1))
    for n, source in enumerate(SOURCES):
        text: list[int] = []
        while len(text) < 6 and text[-1:] != [END]:
            with torch.inference_mode():
                logits = model(torch.tensor([[START, *text]]), source_ids=torch.tensor([source])).logits()
            text.append(int(logits[0, -1].argmax()))
        assert drawn[n][0] == text
        assert beams[n][0].ids == text


def test_too_long_is_said() -> None:
    with pytest.raises(FledgeError, match="context is 32"):
        decoding_of(model_of("decoder"), [[1] * 30], 3)
