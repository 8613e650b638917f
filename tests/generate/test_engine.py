"""The engine against transformers, against itself in other batches, and against the trainer's forward pass."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from fledge.checkpoint.directory import save_model
from fledge.core.errors import FledgeError
from fledge.generate.engine import Engine
from fledge.generate.request import Completion, Request
from fledge.generate.sampling import Sampling
from fledge.model.heads import LanguageModel
from fledge.text.tokenizer import Tokenizer
from gpu import gpu

GREEDY = Sampling(temperature=0)


def many(count: int, vocabulary: int, **common: object) -> list[Request]:
    """Requests of different lengths, limits, seeds and ways to draw."""
    ways = [
        Sampling(),
        GREEDY,
        Sampling(temperature=0.7, top_k=20),
        Sampling(top_p=0.9, repetition_penalty=1.3),
        Sampling(min_p=0.05, presence_penalty=0.5, frequency_penalty=0.1),
    ]
    draw = torch.Generator().manual_seed(3)
    requests = []
    for i in range(count):
        size = int(torch.randint(1, 30, (), generator=draw))
        ids = torch.randint(4, vocabulary, (size,), generator=draw).tolist()
        requests.append(Request(ids, 5 + (7 * i) % 23, ways[i % len(ways)], seed=i, **common))
    return requests


@pytest.fixture(scope="module")
def alone(model: LanguageModel, tokenizer: Tokenizer) -> list[Completion]:
    requests = many(17, tokenizer.vocab_size, stop_ids=(5, 40, 41))
    return [Engine(model, tokenizer, max_batch=1).run([request])[0] for request in requests]


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16], ids=str)
def test_a_gpu_writes_the_same(model: LanguageModel, tokenizer: Tokenizer, dtype: torch.dtype | None) -> None:
    requests = many(17, tokenizer.vocab_size)
    expected = Engine(model, tokenizer, max_batch=5, dtype=dtype).run(requests)
    with gpu() as device:
        found = Engine(copy.deepcopy(model).to(device), tokenizer, max_batch=5, dtype=dtype).run(requests)
    assert [len(completion.ids) for completion in found] == [len(completion.ids) for completion in expected]
    if dtype == torch.bfloat16:  # a processor sums in another order, so a token may fall otherwise
        return
    for one, other in zip(found, expected, strict=True):
        assert one.ids == other.ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("max_batch", [1, 2, 7, 64])
def test_a_completion_does_not_depend_on_its_batch(
    model: LanguageModel, tokenizer: Tokenizer, alone: list[Completion], max_batch: int
) -> None:
    requests = many(17, tokenizer.vocab_size, stop_ids=(5, 40, 41))
    together = Engine(model, tokenizer, max_batch=max_batch).run(requests)
    assert {completion.finish for completion in together} == {"stop", "length"}
    for ours, single in zip(together, alone):
        assert (ours.ids, ours.finish, ours.text) == (single.ids, single.finish, single.text)
        assert ours.logprobs == pytest.approx(single.logprobs, abs=1e-4)


def test_shared_prompts_are_run_once_and_change_nothing(model: LanguageModel, tokenizer: Tokenizer) -> None:
    prompts = [[7, 8, 9], [10, 11], [7, 8, 9], [7, 8, 9], [12] * 20, [10, 11]]
    requests = [Request(ids, 15, Sampling(presence_penalty=0.3), seed=i) for i, ids in enumerate(prompts)]
    rows: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    together = Engine(model, tokenizer).run(requests)
    hook.remove()
    assert rows[0] == 3
    for request, completion in zip(requests, together):
        assert completion.ids == Engine(model, tokenizer).run([request])[0].ids


@pytest.mark.parametrize("max_batch", [2, 64])
def test_greedy_as_transformers_generates(model: LanguageModel, tmp_path, max_batch: int) -> None:
    from transformers import AutoModelForCausalLM

    save_model(model, tmp_path)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    requests = [replace(r, sampling=GREEDY) for r in many(9, model.config.vocab_size)]
    for request, ours in zip(requests, Engine(model, max_batch=max_batch).run(requests)):
        ids = torch.tensor([request.ids])
        theirs = peer.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=None, pad_token_id=0,
            max_new_tokens=request.max_new_tokens,
        )  # fmt: skip
        assert ours.ids == theirs[0, len(request.ids) :].tolist()


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_logprobs_are_those_of_the_trainers_forward(model: LanguageModel, dtype: torch.dtype | None) -> None:
    requests = many(12, model.config.vocab_size)
    for request, ours in zip(requests, Engine(model, max_batch=5, dtype=dtype).run(requests)):
        ids = torch.tensor([request.ids + ours.ids])
        logprobs = model(ids).logits().log_softmax(-1)[0, len(request.ids) - 1 : -1]
        exact = logprobs.gather(1, torch.tensor(ours.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(ours.logprobs), exact, atol=1e-4)


def test_samples_follow_the_models_distribution(model: LanguageModel) -> None:
    """Two tokens after one prompt, 4,000 seeds: relative frequencies against the exact joint probabilities."""
    prompt, count = [7, 8, 9], 4000
    requests = [Request(prompt, 2, Sampling(top_k=3), seed=seed) for seed in range(count)]
    drawn = [tuple(c.ids) for c in Engine(model, max_batch=500).run(requests)]

    def top(ids: list[int]) -> dict[int, float]:
        kept = model(torch.tensor([ids])).logits()[0, -1].topk(3)
        return dict(zip(kept.indices.tolist(), kept.values.softmax(-1).tolist()))

    for first, p in top(prompt).items():
        for second, q in top([*prompt, first]).items():
            expected = p * q
            error = math.sqrt(expected * (1 - expected) / count)
            assert abs(drawn.count((first, second)) / count - expected) < 5 * error + 1e-9


def test_a_continued_request_goes_on_as_it_would_have(model: LanguageModel) -> None:
    request = Request([3, 4, 5], 20, Sampling(), seed=11)
    whole = Engine(model).run([request])[0].ids
    rest = Engine(model).run([replace(request, ids=request.ids + whole[:8], max_new_tokens=12)])[0].ids
    assert whole[8:] == rest


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**200])
def test_any_integer_is_a_seed(model: LanguageModel, seed: int) -> None:
    first, again, other = Engine(model).run([Request([1], 30, seed=s) for s in (seed, seed, seed + 1)])
    assert first.ids == again.ids != other.ids


def test_stop_ids_are_in_the_ids_and_not_in_the_text(model: LanguageModel, tokenizer: Tokenizer) -> None:
    free = Engine(model, tokenizer).run([Request([10, 11], 20, GREEDY)])[0]
    stop = free.ids[6]
    stopped = Engine(model, tokenizer).run([Request([10, 11], 20, GREEDY, stop_ids=(stop,))])[0]
    cut = free.ids.index(stop)
    assert stopped.ids == free.ids[: cut + 1]
    assert stopped.finish == "stop"
    assert stopped.text == tokenizer.decode(free.ids[:cut])
    exactly = Engine(model, tokenizer).run([Request([10, 11], cut + 1, GREEDY, stop_ids=(stop,))])[0]
    assert exactly.finish == "stop"


def test_stop_strings_never_show(model: LanguageModel, tokenizer: Tokenizer) -> None:
    free = Engine(model, tokenizer).run([Request([10, 11], 40, Sampling(), seed=4)])[0]
    middle = len(free.text) // 2
    stop = free.text[middle : middle + 3]
    request = Request([10, 11], 40, Sampling(), seed=4, stop=(stop,))
    engine = Engine(model, tokenizer)
    stopped = engine.run([request])[0]
    assert stopped.finish == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert free.ids[: len(stopped.ids)] == stopped.ids
    shown = ""
    for event in engine.stream([request]):
        shown += event.text
        assert stopped.text.startswith(shown)
    assert shown == stopped.text


def test_streams_join_to_the_completions(model: LanguageModel, tokenizer: Tokenizer) -> None:
    requests = many(11, tokenizer.vocab_size, stop_ids=(5, 40))
    engine = Engine(model, tokenizer, max_batch=4)
    completions = engine.run(requests)
    ids: dict[int, list[int]] = {i: [] for i in range(len(requests))}
    texts, ends = dict.fromkeys(ids, ""), {}
    for event in engine.stream(requests):
        assert event.index not in ends
        ids[event.index].append(event.token)
        texts[event.index] += event.text
        if event.finish:
            ends[event.index] = event.finish
    for index, completion in enumerate(completions):
        assert (ids[index], texts[index], ends[index]) == (completion.ids, completion.text, completion.finish)


def test_an_abandoned_stream_leaves_the_model_as_it_was(model: LanguageModel, tokenizer: Tokenizer) -> None:
    model.train()
    stream = Engine(model, tokenizer).stream([Request([1, 2], 20)])
    next(stream)
    stream.close()
    assert all(module.training for module in model.modules())


def test_the_model_in_training_is_read_afresh_and_left_untouched(tokenizer: Tokenizer) -> None:
    from .conftest import tiny

    request = Request([5, 6, 7], 12, GREEDY)
    for dtype in (None, torch.float32):
        model = tiny(tokenizer.vocab_size).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        engine = Engine(model, dtype=dtype)
        seen = []
        for _ in range(3):
            before = {name: value.clone() for name, value in model.state_dict().items()}
            seen.append(engine.run([request])[0])
            assert all(module.training for module in model.modules())
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            assert all(parameter.grad is None for parameter in model.parameters())
            ids = torch.tensor([request.ids + seen[-1].ids])
            logprobs = model(ids).logits().log_softmax(-1)[0, len(request.ids) - 1 : -1]
            exact = logprobs.gather(1, ids[0, len(request.ids) :, None])[:, 0]
            assert torch.allclose(torch.tensor(seen[-1].logprobs), exact.detach(), atol=1e-4)
            exact.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert seen[0].logprobs != seen[1].logprobs


def test_progress_reaches_the_end(model: LanguageModel) -> None:
    seen: list[tuple[int, int]] = []
    Engine(model, max_batch=2).run(many(5, 300), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]
    assert Engine(model).run([]) == []


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request([], 5), "empty prompt"),
        (Request([1], 0), "0 new tokens"),
        (Request([1] * 90, 7), "90 tokens and 7 new ones make 97, the model's context is 96"),
        (Request([1, 4000], 5), "outside the vocabulary"),
        (Request([1, -1], 5), "outside the vocabulary"),
        (Request([1], 5, stop=("x",)), "need a tokenizer"),
    ],
)
def test_impossible_requests_are_refused(model: LanguageModel, request_: Request, says: str) -> None:
    with pytest.raises(FledgeError, match=says):
        Engine(model).run([Request([1], 2), request_])


def test_the_context_can_be_filled_to_the_last_token(model: LanguageModel) -> None:
    assert len(Engine(model).run([Request([1] * 90, 6)])[0].ids) == 6


def test_weights_that_are_not_finite_are_named(tokenizer: Tokenizer) -> None:
    from .conftest import tiny

    model = tiny(tokenizer.vocab_size)
    with torch.no_grad():
        model.backbone.norm.weight.fill_(math.nan)
    for sampling in (GREEDY, Sampling(), Sampling(temperature=0.5, top_p=0.5)):
        with pytest.raises(FledgeError, match="not finite"):
            Engine(model, tokenizer).run([Request([1], 3, sampling)])
