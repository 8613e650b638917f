"""What a rollout needs of the engine: the trainer's own log-probs on packed rows, shared prompts, streamed bytes."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fledge.data.packing import Example, collate, pack
from fledge.generate.engine import Engine
from fledge.generate.request import Request
from fledge.generate.sampling import Sampling
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel
from fledge.objectives.language import token_logprobs
from fledge.text.tokenizer import Tokenizer

from .conftest import tiny


def prompts_of(count: int, vocabulary: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(4, vocabulary) for _ in range(draw.randrange(1, 25))] for _ in range(count)]


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("axes", [{}, {"window": 6}, {"qk_norm": False, "tied": False}], ids=str)
@torch.no_grad()
def test_logprobs_equal_the_trainers_on_packed_rows(
    tokenizer: Tokenizer, dtype: torch.dtype | None, axes: dict
) -> None:
    """Sampled at any temperature and with filters; the log-probs are of the policy itself, ≤ 1e-4 in float32."""
    model = tiny(tokenizer.vocab_size, **axes)
    sampling = Sampling(temperature=0.8, top_k=50, repetition_penalty=1.2)
    stops = tuple(range(5, 25))
    requests = [
        Request(ids, 30, sampling, seed=i, stop_ids=stops)
        for i, ids in enumerate(prompts_of(24, model.config.vocab_size))
    ]
    completions = Engine(model, max_batch=7, dtype=dtype).run(requests)
    assert {c.finish for c in completions} == {"stop", "length"}
    examples = []
    for request, completion in zip(requests, completions):
        ids = np.array(request.ids + completion.ids, np.int32)
        examples.append(Example(ids, np.arange(len(ids)) >= len(request.ids)))
    rows = pack(examples, 96, split=False)
    assert len(rows) < len(examples)
    batch = collate(rows)
    found = token_logprobs(model(batch["ids"], batch["positions"], batch["documents"]), batch["targets"])
    for row, values in zip(rows, found):
        for index, start, length in row.places:
            size = len(completions[index].ids)
            ours = torch.tensor(completions[index].logprobs)
            theirs = values[start + length - size - 1 : start + length - 1]
            assert torch.allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("max_batch", [3, 8, 64])
def test_answers_to_one_prompt_are_those_it_gets_alone(
    tokenizer: Tokenizer, dtype: torch.dtype | None, max_batch: int
) -> None:
    """K answers per prompt as a reward model needs them, in any order among other prompts, ending at any time."""
    model = tiny(tokenizer.vocab_size)
    distinct = prompts_of(5, model.config.vocab_size)
    requests = [
        Request(ids, 3 + 5 * k, Sampling(), seed=10 * i + k, stop_ids=(7, 8, 9))
        for i, ids in enumerate(distinct)
        for k in range(5)
    ]
    random.Random(1).shuffle(requests)
    engine = Engine(model, max_batch=max_batch, dtype=dtype)
    for request, ours in zip(requests, engine.run(requests)):
        single = Engine(model, max_batch=1).run([request])[0]
        assert ours.ids == single.ids
        assert ours.logprobs == pytest.approx(single.logprobs, abs=1e-4)


def test_requests_that_end_at_once_free_their_slots(tokenizer: Tokenizer) -> None:
    """One-token answers among long ones: rows are freed at the prefill itself and others move into their places."""
    model = tiny(tokenizer.vocab_size)
    requests = [
        Request(ids, 1 if i % 3 else 20, Sampling(), seed=i)
        for i, ids in enumerate(prompts_of(30, model.config.vocab_size, seed=2))
    ]
    alone = [Engine(model, max_batch=1).run([request])[0].ids for request in requests]
    for max_batch in (2, 5, 30):
        assert [c.ids for c in Engine(model, max_batch=max_batch).run(requests)] == alone


def chain(tokenizer: Tokenizer, ids: list[int]) -> LanguageModel:
    """A model that continues `ids[0]` with the rest, whatever the seed."""
    size = tokenizer.vocab_size
    shape = {"heads": 2, "kv_heads": 2, "head_size": 8, "hidden": 16, "context": 64, "tied": False}
    model = LanguageModel(ModelConfig(vocab_size=size, width=size, layers=1, **shape))
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.attention.out.weight.zero_()
            block.feedforward.down.weight.zero_()
        model.backbone.embedding.weight.copy_(torch.eye(size))
        assert model.head is not None
        model.head.weight.zero_()
        for now, after in pairwise(ids):
            model.head.weight[after, now] = 9.0
    return model


def test_a_streamed_character_is_never_cut(tokenizer: Tokenizer) -> None:
    """🦆 is unknown to the vocabulary: four tokens of a byte each; no piece holds a part of it."""
    ids = [tokenizer.document_id, *tokenizer.encode("a🦆b"), tokenizer.eos_id]
    assert len(ids) == 8
    request = Request(ids[:1], 20, Sampling(), stop_ids=(tokenizer.eos_id,))
    engine = Engine(chain(tokenizer, ids), tokenizer)
    assert [event.text for event in engine.stream([request])] == ["a", "", "", "", "🦆", "b", ""]
    assert engine.run([request])[0].text == "a🦆b"
    cut = engine.run([replace(request, max_new_tokens=3)])[0]
    assert (cut.text, cut.finish) == ("a\ufffd", "length")


@pytest.mark.parametrize(
    ("stop", "pieces", "finish"),
    [
        ("🦆", ["a", "", "", "", ""], "stop"),
        ("a🦆c", ["", "", "", "", "", "a🦆b", ""], "stop"),
        ("b", ["a", "", "", "", "🦆", ""], "stop"),
        ("a", [""], "stop"),
    ],
)
def test_no_part_of_a_stop_string_is_streamed(tokenizer: Tokenizer, stop: str, pieces: list[str], finish: str) -> None:
    ids = [tokenizer.document_id, *tokenizer.encode("a🦆b"), tokenizer.eos_id]
    engine = Engine(chain(tokenizer, ids), tokenizer)
    request = Request(ids[:1], 20, Sampling(temperature=0), stop_ids=(tokenizer.eos_id,), stop=(stop,))
    events = list(engine.stream([request]))
    assert [event.text for event in events] == pieces
    assert events[-1].finish == finish
    assert "".join(pieces) == engine.run([request])[0].text
