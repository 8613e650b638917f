"""Beam search against every sequence there is, on random models of tiny vocabularies."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.generate.beam import BeamConfig, Hypothesis, beam_search, prefix_tree, without_repeats

V, END = 4, 3
Table = dict[tuple[int, ...], Tensor]


class Tables:
    """A model whose next-token logits are random, but fixed for each text: nothing can be shared or guessed."""

    def __init__(self, requests: int, seed: int = 0, vocabulary: int = V) -> None:
        self.seed, self.vocabulary = seed, vocabulary
        self.rows: list[tuple[int, ...]] = [(100 + n,) for n in range(requests)]
        self.asked = 0

    def of(self, text: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, *text)) % (1 << 62))
        return 2 * torch.randn(self.vocabulary, generator=generator)

    def start(self) -> Tensor:
        return self.logits()

    def step(self, ids: Tensor) -> Tensor:
        self.rows = [(*row, token) for row, token in zip(self.rows, ids.tolist(), strict=True)]
        return self.logits()

    def select(self, rows: Tensor) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]

    def logits(self) -> Tensor:
        self.asked += len(self.rows)
        return torch.stack([self.of(row) for row in self.rows])


def logprob(tables: Tables, request: int, ids: Sequence[int]) -> float:
    total, text = 0.0, (100 + request,)
    for token in ids:
        total += float(tables.of(text).log_softmax(-1)[token])
        text = (*text, token)
    return total


def every_text(limit: int, vocabulary: int = V) -> list[tuple[int, ...]]:
    """All texts that end with END, or that are `limit` long without."""
    words = [token for token in range(vocabulary) if token != END]
    ended = [(*body, END) for size in range(limit) for body in itertools.product(words, repeat=size)]
    return [*ended, *itertools.product(words, repeat=limit)]


def check(found: list[Hypothesis], ranked: list[tuple[float, tuple[int, ...]]]) -> None:
    assert [tuple(entry.ids) for entry in found] == [ids for _, ids in ranked[: len(found)]]
    for entry, (score, _) in zip(found, ranked):
        assert entry.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("power", [0.0, 0.6, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_wide_enough_it_is_exhaustive(power: float, seed: int) -> None:
    limit, texts = 4, every_text(4)
    config = BeamConfig(beams=len(texts), length_penalty=power)
    lists = beam_search(Tables(3, seed), 3, ends=[END], max_new_tokens=limit, config=config)
    tables = Tables(3, seed)
    for request, found in enumerate(lists):
        ranked = sorted(((logprob(tables, request, t) / len(t) ** power, t) for t in texts), reverse=True)
        assert len(found) == len(texts)
        check(found, ranked)
        assert [e.logprob for e in found] == pytest.approx([logprob(tables, request, e.ids) for e in found], abs=1e-4)


def test_constraints_are_exact() -> None:
    """No bigram twice (the prompt's included), no end before the third token."""
    limit, prompt = 4, [0, 1]
    config = BeamConfig(beams=len(every_text(limit)), no_repeat_ngram=2, min_new_tokens=2)
    (found,) = beam_search(Tables(1), 1, ends=[END], max_new_tokens=limit, config=config, prompts=[prompt])

    def keeps(text: tuple[int, ...]) -> bool:
        pairs = list(itertools.pairwise([*prompt, *text]))
        return len(set(pairs)) == len(pairs) and len(text) > 2

    kept = [text for text in every_text(limit) if keeps(text)]
    assert 0 < len(kept) < len(every_text(limit))
    tables = Tables(1)
    ranked = sorted(((logprob(tables, 0, text) / len(text), text) for text in kept), reverse=True)
    assert len(found) == len(kept)
    check(found, ranked)


def test_a_tree_of_valid_texts_is_all_that_comes() -> None:
    valid = [(0, 1, END), (0, 2, 2, END), (2, END), (1, 1, 1, 1)]
    (found,) = beam_search(
        Tables(1), 1, ends=[END], max_new_tokens=4, config=BeamConfig(beams=9), allowed=prefix_tree(valid)
    )
    tables = Tables(1)
    check(found, sorted(((logprob(tables, 0, text) / len(text), text) for text in valid), reverse=True))
    assert len(found) == len(valid)


def test_a_dead_end_gives_an_empty_list() -> None:
    (found,) = beam_search(Tables(1), 1, ends=[END], max_new_tokens=4, allowed=lambda request, ids: [])
    assert found == []


@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("stopping", ["exact", "likely", "first"])
def test_narrow_it_is_beam_search(beams: int, stopping: str) -> None:
    """Against the textbook's loop over Python lists."""
    limit = 6
    config = BeamConfig(beams=beams, stopping=stopping, length_penalty=0.7)  # type: ignore[arg-type]
    lists = beam_search(Tables(4), 4, ends=[END], max_new_tokens=limit, config=config)
    tables = Tables(4)
    for request, found in enumerate(lists):
        living: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        ended: list[tuple[float, tuple[int, ...]]] = []
        for length in range(1, limit + 1):
            everything = []
            for total, text in living:
                for token, more in enumerate(tables.of((100 + request, *text)).log_softmax(-1).tolist()):
                    everything.append((total + more, (*text, token)))
            everything.sort(reverse=True)
            over = [(total, text) for total, text in everything if text[-1] == END or length == limit]
            ended += [(total / length**0.7, text) for total, text in over if (total, text) in everything[:beams]]
            ended = sorted(ended, reverse=True)[:beams]
            living = [(total, text) for total, text in everything if text[-1] != END][:beams]
            bound = {"exact": living[0][0] / limit**0.7, "likely": living[0][0] / length**0.7, "first": -math.inf}
            if len(ended) == beams and bound[stopping] <= ended[-1][0]:
                break
        check(found, ended)
        assert len(found) == len(ended)


def test_one_beam_is_greedy() -> None:
    lists = beam_search(Tables(5), 5, ends=[END], max_new_tokens=8, config=BeamConfig(beams=1))
    tables = Tables(5)
    for request, (best,) in enumerate(lists):
        text: list[int] = []
        while len(text) < 8 and (not text or text[-1] != END):
            text.append(int(tables.of((100 + request, *text)).argmax()))
        assert best.ids == text


def test_requests_do_not_disturb_each_other_and_finished_ones_cost_nothing() -> None:
    together = Tables(6)
    lists = beam_search(together, 6, ends=[END], max_new_tokens=8, config=BeamConfig(beams=3))
    asked = 0
    for request in range(6):
        alone = Tables(6)
        alone.rows = [alone.rows[request]]
        assert beam_search(alone, 1, ends=[END], max_new_tokens=8, config=BeamConfig(beams=3)) == [lists[request]]
        asked += alone.asked
    assert together.asked == asked


def test_repeats_are_found_behind_padding() -> None:
    history = torch.tensor([[-1, -1, 1, 2, 1], [2, 1, 0, 2, 1]])
    allowed = without_repeats(torch.zeros(2, V), history, 2) == 0
    assert allowed.tolist() == [[True, True, False, True], [False, True, True, True]]
    assert without_repeats(torch.zeros(2, V), history[:, :1], 2).eq(0).all()
    assert (without_repeats(torch.zeros(1, V), torch.tensor([[-1, 2]]), 1) == 0).tolist() == [[True, True, False, True]]


def test_broken_weights_are_said() -> None:
    class Broken(Tables):
        def logits(self) -> Tensor:
            return torch.full((len(self.rows), V), math.nan)

    with pytest.raises(FledgeError, match="not finite"):
        beam_search(Broken(1), 1, ends=[END], max_new_tokens=3)
