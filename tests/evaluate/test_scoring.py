"""Scores of answers that share what they begin with, against every sequence alone."""

import pytest
import torch

from fledge.data.branches import Answers
from fledge.evaluate.scoring import chunks, score_groups, score_sequences
from fledge.model.config import ModelConfig
from fledge.model.heads import build

PROMPT = (5, 6, 7, 8)
GROUPS = [
    Answers(((*PROMPT, 9, 1), (*PROMPT, 9, 9, 9, 1), (*PROMPT, 1), (*PROMPT, 9, 1)), prompt=4),
    Answers(((3, 1),)),
    Answers(((2, 2, 2, 2), (4, 4), (2, 2, 2, 2, 2))),
    Answers((PROMPT * 4, (*PROMPT, 1)), prompt=4),
]


@pytest.mark.parametrize("positions", ["rotary", "learned", "alibi"])
@pytest.mark.parametrize("per_batch", [1, 4, 100])
def test_answers_of_groups_score_as_they_do_alone(positions: str, per_batch: int) -> None:
    """ALiBi counts distances along the row, so such a model shares nothing, and scores the same."""
    torch.manual_seed(0)
    model = build(ModelConfig.sized(2, 16, 32, positions=positions, head="scalar"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        whole = [ids for group in GROUPS for ids in group.ids]
        alone = torch.stack([model(torch.tensor([ids])).values[0, -1] for ids in whole])
    assert alone.std() > 0.1
    torch.testing.assert_close(score_groups(model, GROUPS, 16, per_batch), alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(score_sequences(model, whole, 16, per_batch), alone, atol=1e-4, rtol=1e-4)
    assert not score_groups(model, [], 16).numel()


def test_chunks_hold_all_groups_in_order() -> None:
    for size in (1, 2, 3, 4, 100):
        found = list(chunks(GROUPS, size))
        assert [group for chunk in found for group in chunk] == GROUPS
        assert all(sum(len(group.ids) for group in chunk[1:]) < size for chunk in found)
    assert list(chunks([], 4)) == []
