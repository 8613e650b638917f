"""The ranking loss against loops over pairs."""

import math
from types import SimpleNamespace

import torch

from fledge.objectives.preference import ranking


def brute_force(rewards: list[float], group: list[int], rank: list[int]) -> tuple[float, int, float]:
    total, prompts, right, pairs = 0.0, 0, 0, 0
    for g in set(group):
        members = [i for i in range(len(group)) if group[i] == g]
        losses = []
        for i in members:
            for j in members:
                if rank[i] < rank[j]:
                    losses.append(-math.log(1 / (1 + math.exp(rewards[j] - rewards[i]))))
                    right += rewards[i] > rewards[j]
        pairs += len(losses)
        if losses:
            total, prompts = total + sum(losses) / len(losses), prompts + 1
    return total, prompts, right / pairs


def test_equals_loops_over_all_pairs() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 11, dtype=torch.float64, requires_grad=True)
    last = torch.randperm(33)[:14]
    group = torch.tensor([7, 7, 7, 7, 2, 2, 5, 5, 5, 5, 5, 9, 9, 3])  # 9: a tie only; 3: a single answer
    rank = torch.tensor([0, 1, 1, 3, 1, 0, 4, 3, 2, 1, 0, 2, 2, 0])
    found = ranking(SimpleNamespace(values=values), {"last": last, "group": group, "rank": rank})
    rewards = values.flatten()[last].float().tolist()
    total, prompts, accuracy = brute_force(rewards, group.tolist(), rank.tolist())
    torch.testing.assert_close(found.sum.item(), total, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.count.item(), float(prompts))
    right, pairs = found.parts["accuracy"]
    torch.testing.assert_close((right / pairs).item(), accuracy)
    (gradient,) = torch.autograd.grad(found.sum, values)
    outside = torch.ones(33, dtype=torch.bool)
    outside[last] = False
    outside[last[11:]] = True  # ties and single answers teach nothing
    assert not gradient.flatten()[outside].any()
    assert gradient.flatten()[last[:11]].all()


def test_a_prompt_with_many_answers_weighs_as_much_as_one_with_two() -> None:
    values = torch.zeros(1, 11)
    batch = {
        "last": torch.arange(11),
        "group": torch.tensor([0] * 9 + [1] * 2),
        "rank": torch.tensor([*range(9), 0, 1]),
    }
    found = ranking(SimpleNamespace(values=values), batch)
    torch.testing.assert_close(found.sum.item(), 2 * math.log(2))
    assert found.count.item() == 2


def test_a_weight_counts_a_prompt_that_often() -> None:
    torch.manual_seed(1)
    values = torch.randn(1, 9, dtype=torch.float64, requires_grad=True)
    group = torch.tensor([0, 0, 0, 1, 1])
    rank = torch.tensor([0, 1, 1, 1, 0])
    last = torch.tensor([8, 1, 5, 3, 0])

    def found(group: torch.Tensor, rank: torch.Tensor, last: torch.Tensor, **more: torch.Tensor) -> tuple[float, ...]:
        loss = ranking(SimpleNamespace(values=values), {"last": last, "group": group, "rank": rank, **more})
        (gradient,) = torch.autograd.grad(loss.sum / loss.count, values)
        return loss.sum.item(), loss.count.item(), *gradient.flatten().tolist()

    weighted = found(group, rank, last, weight=torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0]))
    thrice = torch.tensor([0, 1, 2] * 3 + [3, 4])
    copies = torch.tensor([0] * 3 + [2] * 3 + [3] * 3 + [1] * 2)
    repeated = found(copies, rank[thrice], last[thrice])
    torch.testing.assert_close(weighted, repeated, rtol=1e-5, atol=1e-6)
    assert weighted[1] == 4
    assert found(group, rank, last, weight=torch.ones(5)) == found(group, rank, last)
