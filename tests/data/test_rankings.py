"""Answers that share what they begin with, against the same answers each in a row of its own."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.data.rankings import Ranked, RankedStream, ranked_batch
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.model.inputs import inputs
from fledge.objectives.preference import direct, ranking

LENGTH = 32
PROMPTS = [(5, 6, 7, 8, 9), (5, 6, 1), (2,) * 12]
GROUPS = [
    Ranked(((*PROMPTS[0], 3, 4, 1), (*PROMPTS[0], 3, 9, 9, 9, 1), (*PROMPTS[0], 1)), (0, 1, 2), prompt=5),
    Ranked(((*PROMPTS[1], 8, 8), (*PROMPTS[1], 8, 8, 8)), (1, 0), 0.5, prompt=3),
    Ranked((*((*PROMPTS[2], i, i, i, i, 1) for i in range(3, 10)), PROMPTS[2] * 2), (*range(7), 3), prompt=12),
    Ranked(((*PROMPTS[0], 7, 1),), (0,), prompt=5),
]


def known(groups: list[Ranked]) -> list[Ranked]:
    """With what a reference thinks of them."""
    return [
        Ranked(g.ids, g.ranks, g.weight, tuple(-0.5 * i - len(ids) for i, ids in enumerate(g.ids)), prompt=g.prompt)
        for g in groups
    ]


def scored(groups: list[Ranked]) -> list[Ranked]:
    """As a reward model reads them: whole."""
    return [Ranked(g.ids, g.ranks, g.weight) for g in groups]


@pytest.mark.parametrize("positions", ["rotary", "learned", "none"])
@pytest.mark.parametrize("what", ["ranking", "direct"])
def test_shared_beginnings_give_the_same_loss_and_gradients(what: str, positions: str) -> None:
    torch.manual_seed(0)
    head = "scalar" if what == "ranking" else "language"
    model = build(ModelConfig.sized(2, 16, LENGTH, positions=positions, head=head)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loss = ranking if what == "ranking" else partial(direct, anchor=0.3)
    groups = scored(GROUPS) if what == "ranking" else known(GROUPS)
    found = []
    for branching in (False, True):
        model.zero_grad()
        batch = ranked_batch(groups, LENGTH, branching)
        value = loss(model(**inputs(batch)), batch)
        (value.sum / value.count).backward()
        found.append((value, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (plain, gradients), (shared, others) = found
    torch.testing.assert_close(shared.sum, plain.sum, rtol=1e-5, atol=1e-6)
    assert shared.count == plain.count > 0
    for name in plain.parts:
        torch.testing.assert_close(shared.parts[name][0], plain.parts[name][0], rtol=1e-5, atol=1e-5)
    assert len(gradients) == len(others) > 0
    for one, other in zip(gradients, others):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_is_shared_stands_there_once() -> None:
    plain, shared = (ranked_batch(scored(GROUPS[:1]), LENGTH, branching) for branching in (False, True))
    assert plain["documents"].count_nonzero() == 8 + 10 + 6
    assert shared["documents"].count_nonzero() == 5 + 3 + 5 + 1
    assert shared["ids"][0, :14].tolist() == [5, 6, 7, 8, 9, 3, 4, 1, 3, 9, 9, 9, 1, 1]
    assert shared["positions"][0, :14].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 9, 5]
    assert shared["branches"][0].tolist() == [0] * 5 + [1] * 3 + [2] * 5 + [3] + [0] * 18
    assert shared["last"].tolist() == [7, 12, 13]


def test_the_token_before_an_answer_belongs_to_its_branch() -> None:
    """It predicts the answer's first token, which differs from branch to branch."""
    batch = ranked_batch(known(GROUPS[:1]), LENGTH, True)
    assert batch["branches"][0, :5].tolist() == [0, 0, 0, 0, 1]
    targets = batch["targets"][0, :17].tolist()
    assert targets == [-100] * 4 + [3, 4, 1, -100] + [3, 9, 9, 9, 1, -100] + [1, -100, -100]


ANSWERS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=9), ANSWERS), min_size=1, max_size=4))
def test_every_answer_can_be_read_off_its_branch(texts: list[tuple[list[int], list[list[int]]]]) -> None:
    groups = [
        Ranked(tuple((*prompt, *answer) for answer in answers), (0,) * len(answers), prompt=len(prompt))
        for prompt, answers in texts
    ]
    for given_ in (groups, scored(groups)):
        batch = ranked_batch(given_, 16, True)
        branches = batch.get("branches", torch.zeros_like(batch["ids"]))  # none where no prompt has several answers
        assert ("branches" in batch) == any(len(group.ids) > 1 for group in given_)
        whole = [ids for group in given_ for ids in group.ids]
        for number, ids in enumerate(whole):
            row, end = divmod(int(batch["last"][number]), 16)
            document, branch = batch["documents"][row, end], branches[row, end]
            mine = (batch["documents"][row] == document) & torch.isin(branches[row], torch.tensor([0, branch]))
            assert batch["ids"][row][mine].tolist() == list(ids)
            assert batch["positions"][row][mine].tolist() == list(range(len(ids)))
            assert batch["answer"][row, end] == number


def test_a_stream_shares_where_the_model_can() -> None:
    stream = RankedStream(scored(GROUPS), LENGTH, 4, 1, 0, branching=True)
    assert "branches" in next(stream)[0]
    assert "branches" not in next(RankedStream(scored(GROUPS), LENGTH, 4, 1, 0))[0]
    assert ModelConfig.sized(1, 16, 32).can_branch
    for axes in ({"window": 8}, {"positions": "alibi"}, {"positions": "buckets"}):
        assert not ModelConfig.sized(1, 16, 32, **axes).can_branch
    assert not ModelConfig.sized(1, 16, 32, "encoder").can_branch
