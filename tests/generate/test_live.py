"""The live engine: requests come and go at any step, and each gets what it gets alone, to the bit."""

import copy
import random
from dataclasses import replace

import pytest
import torch

from fledge.core.errors import FledgeError
from fledge.generate.blocks import BLOCK
from fledge.generate.engine import Engine
from fledge.generate.int8 import Int8Linear, can_quantise
from fledge.generate.live import LiveEngine
from fledge.generate.packed import PackedModel, packed
from fledge.generate.queueing import FairQueue
from fledge.generate.request import Request, Update
from fledge.generate.sampling import Sampling
from fledge.model.heads import LanguageModel
from fledge.text.tokenizer import Tokenizer
from gpu import gpu

from .conftest import tiny
from .test_engine import GREEDY, many

Outcome = tuple[list[int], list[float | None], str, str | None]


def finish(engine: LiveEngine, requests: list[Request], seed: int = 0) -> list[Outcome]:
    """Everything the requests get when they arrive in some order, some at a time."""
    draw = random.Random(seed)
    waiting = list(enumerate(requests))
    draw.shuffle(waiting)
    owner: dict[int, int] = {}
    updates: dict[int, list[Update]] = {}
    while waiting or engine.busy:
        for _ in range(draw.randrange(4)):
            if waiting:
                index, request = waiting.pop()
                owner[engine.submit(request, client=str(index % 3))] = index
        for update in engine.step():
            updates.setdefault(owner[update.ticket], []).append(update)
    return [outcome(updates[index]) for index in range(len(requests))]


def outcome(updates: list[Update]) -> Outcome:
    tokens = [scored for update in updates for scored in update.tokens]
    assert all(update.finish is None for update in updates[:-1])
    text = "".join(update.text for update in updates)
    return [s.token for s in tokens], [s.logprob for s in tokens], text, updates[-1].finish


def crowd(vocabulary: int) -> list[Request]:
    """Many requests: some share prompts, some begin alike, some are long."""
    requests = many(24, vocabulary, stop_ids=(5, 40, 41))
    long = torch.randint(4, vocabulary, (70,), generator=torch.Generator().manual_seed(1)).tolist()
    requests += [Request(long[:size], 20, Sampling(), seed=size) for size in (70, 69, 66, 50, 34, 33)]
    return [*requests, requests[3], replace(requests[3], seed=99), requests[3]]


@pytest.mark.parametrize(("max_batch", "chunk"), [(1, 64), (3, 8), (8, 64), (64, 16)])
@pytest.mark.parametrize("plain", [True, False])
def test_the_same_as_the_engine_gives(
    model: LanguageModel, tokenizer: Tokenizer, max_batch: int, chunk: int, plain: bool
) -> None:
    requests = crowd(tokenizer.vocab_size)
    alone = Engine(model, tokenizer, max_batch=1).run(requests)
    served = model if plain else packed(model, torch.float32)
    found = finish(LiveEngine(served, tokenizer, max_batch=max_batch, chunk=chunk), requests)
    for completion, (ids, logprobs, text, end) in zip(alone, found):
        assert (ids, text, end) == (completion.ids, completion.text, completion.finish)
        assert logprobs == pytest.approx(completion.logprobs, abs=1e-4)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16], ids=str)
def test_a_gpu_writes_the_same(model: LanguageModel, tokenizer: Tokenizer, dtype: torch.dtype | None) -> None:
    def served(model: LanguageModel) -> list[Outcome]:
        engine = LiveEngine(model if dtype is None else packed(model, dtype), tokenizer, max_batch=5)
        return finish(engine, crowd(tokenizer.vocab_size))

    expected = served(model)
    with gpu() as device:
        found = served(copy.deepcopy(model).to(device))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one[0] == other[0] or dtype == torch.bfloat16  # there a token may fall otherwise


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("wide", [False, True])
def test_alone_and_under_load_to_the_bit(tokenizer: Tokenizer, precision: str, wide: bool) -> None:
    """The same logits, whatever the batch, the chunks and what was cached."""
    int8, dtype = precision == "int8", torch.float32 if precision == "float32" else torch.bfloat16
    if int8 and not can_quantise():
        pytest.skip("torch has no 8-bit linear here")
    shape = {"width": 192, "hidden": 1536, "heads": 3, "kv_heads": 3, "head_size": 64} if wide else {}
    served = packed(tiny(tokenizer.vocab_size, **shape), dtype, int8)
    requests = crowd(tokenizer.vocab_size)
    alone = [finish(LiveEngine(served, tokenizer, max_batch=1), [request])[0] for request in requests]
    for seed, (max_batch, chunk) in enumerate(((5, 8), (64, 16), (8, 128))):
        engine = LiveEngine(served, tokenizer, max_batch=max_batch, chunk=chunk)
        for again in (0, 9):  # the second time with cached prefixes
            for (ids, logprobs, *rest), (own_ids, own_logprobs, *own) in zip(
                finish(engine, requests, seed + again), alone
            ):
                assert (ids, rest) == (own_ids, own)
                assert logprobs == pytest.approx(own_logprobs, abs=2e-6)  # their sum is taken in two ways


def test_after_numbers_that_are_none_others_are_served(tokenizer: Tokenizer) -> None:
    """Weights that are no numbers for a while: the answers after that are what they would have been."""
    served = packed(tiny(tokenizer.vocab_size), torch.float32)
    requests = crowd(tokenizer.vocab_size)[:6]
    expected = finish(LiveEngine(served, tokenizer, max_batch=4), requests)
    engine, sound = LiveEngine(served, tokenizer, max_batch=4, shared_bytes=0), served.cos
    served.cos = torch.full_like(sound, float("nan"))
    tickets = [engine.submit(request) for request in requests]
    with pytest.raises(FledgeError, match="not finite"):
        engine.step()
    for ticket in tickets:
        engine.cancel(ticket)
    served.cos = sound
    assert finish(engine, requests) == expected


def test_a_prefix_is_run_once(model: LanguageModel, tokenizer: Tokenizer) -> None:
    ids = list(range(4, 4 + 5 * BLOCK))
    engine = LiveEngine(model, tokenizer)
    first = finish(engine, [Request(ids, 5, GREEDY)])[0]
    widths: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    ticket = engine.submit(Request(ids, 5, GREEDY))
    cached = sum(update.cached for _ in range(6) for update in engine.step() if update.ticket == ticket)
    longer = engine.submit(Request([*ids, 300, 301], 1, GREEDY))
    more = sum(update.cached for update in engine.step() if update.ticket == longer)
    hook.remove()
    assert cached == 4 * BLOCK  # a few tokens are always run
    assert more == 5 * BLOCK
    assert widths[0] == BLOCK
    assert finish(engine, [Request(ids, 5, GREEDY)])[0] == first


def test_the_store_of_prefixes_forgets_the_oldest(model: LanguageModel, tokenizer: Tokenizer) -> None:
    config = model.config
    size = config.layers * 2 * config.kv_heads * BLOCK * config.head_size * 4
    engine = LiveEngine(model, tokenizer, shared_bytes=5 * size)
    requests = [Request([10 + i] * (2 * BLOCK + 3), 3, GREEDY) for i in range(6)]
    alone = [finish(LiveEngine(model, tokenizer, shared_bytes=0), [request])[0] for request in requests]
    for _ in range(3):
        for request, expected in zip(requests, alone):
            assert finish(engine, [request])[0] == expected
    assert len(engine.blocks.known) <= 5


def test_cancelled_requests_leave_no_trace(model: LanguageModel, tokenizer: Tokenizer) -> None:
    requests = crowd(tokenizer.vocab_size)
    expected = finish(LiveEngine(model, tokenizer), requests)
    draw = random.Random(4)
    engine = LiveEngine(model, tokenizer, max_batch=6, chunk=16)
    owner, updates, gone = {}, {}, set()
    for index, request in enumerate(requests):
        owner[engine.submit(request)] = index
    while engine.busy:
        for update in engine.step():
            assert update.ticket not in gone
            updates.setdefault(owner[update.ticket], []).append(update)
        if draw.random() < 0.3:
            ticket = draw.choice(list(owner))
            index = owner[ticket]
            if not (index in updates and updates[index][-1].finish):
                engine.cancel(ticket)
                gone.add(ticket)
    assert 3 < len(gone) < len(requests) - 3
    for ticket, index in owner.items():
        if ticket not in gone:
            assert outcome(updates[index])[0] == expected[index][0]
    assert not engine.rows


def test_a_long_prompt_does_not_stall_the_others(model: LanguageModel, tokenizer: Tokenizer) -> None:
    engine = LiveEngine(model, tokenizer, chunk=16)
    talking = engine.submit(Request([7, 8, 9], 40, GREEDY))
    engine.step()
    long = engine.submit(Request([10] * 80, 4, GREEDY))
    seen = [{update.ticket for update in engine.step()} for _ in range(10)]
    assert all(talking in tickets for tickets in seen)
    first = min(place for place, tickets in enumerate(seen) if long in tickets)
    assert first == 4  # 80 tokens in chunks of 16
    short = engine.submit(Request([11, 12], 4, GREEDY))
    engine.submit(Request([13] * 80, 4, GREEDY))
    assert any(short in {update.ticket for update in engine.step()} for _ in range(2))


def test_memory_bounds_what_is_admitted(model: LanguageModel, tokenizer: Tokenizer) -> None:
    config = model.config
    row = 2 * config.kv_heads * config.head_size * config.layers * 4 * 64
    engine = LiveEngine(model, tokenizer, cache_bytes=3 * row)
    requests = [Request([7 + i], 60, GREEDY) for i in range(8)]
    most = 0
    tickets = [engine.submit(request) for request in requests]
    while engine.busy:
        engine.step()
        most = max(most, len(engine.rows))
    assert most == 3
    assert len(tickets) == 8
    with pytest.raises(FledgeError, match="memory"):
        LiveEngine(model, tokenizer, cache_bytes=row - 1).submit(requests[0])


def test_prompts_are_scored(model: LanguageModel, tokenizer: Tokenizer) -> None:
    ids = [int(i) for i in torch.randint(4, tokenizer.vocab_size, (40,), generator=torch.Generator().manual_seed(2))]
    exact = model(torch.tensor([ids])).logits()[0].log_softmax(-1).detach()
    for chunk in (8, 64):
        engine = LiveEngine(model, tokenizer, chunk=chunk)
        engine.submit(Request([9] * 30, 90 - 30, GREEDY))
        engine.step()
        ticket = engine.submit(Request(ids, 0, top_logprobs=3, prompt_logprobs=True))
        (update,) = [u for _ in range(12) for u in engine.step() if u.ticket == ticket]
        assert update.prompt is not None
        assert (update.tokens, update.finish) == ([], "length")
        assert [scored.token for scored in update.prompt] == ids
        assert update.prompt[0].logprob is None
        for place, scored in enumerate(update.prompt[1:]):
            assert scored.logprob == pytest.approx(float(exact[place, ids[place + 1]]), abs=1e-4)
            assert [token for token, _ in scored.top] == exact[place].topk(3).indices.tolist()


def test_fairness() -> None:
    queue: FairQueue[str] = FairQueue()
    for i in range(100):
        queue.push("many", f"many {i}", 10)
    assert queue.pop() == "many 0"
    queue.push("one", "one 0", 10)
    queue.push("two", "two 0", 10)
    assert {queue.pop(), queue.pop(), queue.pop()} >= {"one 0", "two 0"}
    assert queue.remove("many 50") is False or len(queue) == 97


@torch.no_grad()
def test_int8_is_near() -> None:
    if not can_quantise():
        pytest.skip("torch has no 8-bit linear here")
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(300, 200, generator=generator), torch.randn(5, 1, 200, generator=generator)
    bias = torch.randn(300, generator=generator)
    exact = torch.nn.functional.linear(x, weight, bias)
    assert (Int8Linear(weight, bias)(x) - exact).norm() < 0.02 * exact.norm()
    model = tiny(300)
    ids = torch.randint(0, 300, (4, 30))
    near = logprobs(packed(model, torch.bfloat16, int8=True), ids)
    exact = model(ids).logits().log_softmax(-1)
    divergence = (exact.exp() * (exact - near)).sum(-1).mean()
    assert 0 < divergence < 0.05


def logprobs(model: PackedModel, ids: torch.Tensor) -> torch.Tensor:
    from fledge.model.cache import Cache

    cache = Cache(model.config, len(ids), ids.shape[1], "cpu", torch.bfloat16)
    positions = torch.arange(ids.shape[1]).expand(len(ids), -1)
    return model(ids, positions, cache=cache).logits().log_softmax(-1)
