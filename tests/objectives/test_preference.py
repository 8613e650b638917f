"""The ranking loss and the direct ones against loops over pairs."""

import math
from types import SimpleNamespace

import pytest
import torch

from fledge.objectives.preference import direct, ranking


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


GROUP, RANK = [0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 0, 0]  # group 2 has a single answer
ANSWER = [[0, 0, 0, 1, 1, 1, 1, 5, 5], [2, 2, 3, 3, 3, 3, 4, 4, 4]]
TARGETS = [[-100, 3, 1, -100, 4, 2, -100, 0, -100], [1, -100, -100, 2, 2, -100, -100, 4, -100]]


def by_hand(hidden: torch.Tensor, weight: torch.Tensor, reference: list[float], formula: object) -> dict[str, float]:
    """Sums over tokens, then over pairs, one at a time."""
    logprobs = (hidden @ weight.T).log_softmax(-1)
    shifts = [-value for value in reference]
    for owners, targets, row in zip(ANSWER, TARGETS, logprobs, strict=True):
        for owner, target, token in zip(owners, targets, row, strict=True):
            if target != -100:
                shifts[owner] += float(token[target])
    found: dict[str, list[float]] = {"loss": [], "chosen": [], "rejected": [], "right": []}
    for g in set(GROUP):
        pairs = [(i, j) for i in range(6) for j in range(6) if GROUP[i] == GROUP[j] == g and RANK[i] < RANK[j]]
        found["loss"].append(sum(formula(shifts[i] - shifts[j]) / len(pairs) for i, j in pairs))  # type: ignore[operator]
        found["chosen"] += [shifts[i] for i, _ in pairs]
        found["rejected"] += [shifts[j] for _, j in pairs]
        found["right"] += [shifts[i] > shifts[j] for i, j in pairs]
    mean = {name: sum(values) / len(values) for name, values in found.items()}
    return mean | {"loss": sum(found["loss"])}


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({"beta": 0.3}, lambda d: math.log(1 + math.exp(-0.3 * d))),
        (
            {"beta": 0.3, "label_smoothing": 0.1},
            lambda d: 0.9 * math.log(1 + math.exp(-0.3 * d)) + 0.1 * math.log(1 + math.exp(0.3 * d)),
        ),
        ({"beta": 0.3, "form": "ipo"}, lambda d: (d - 1 / 0.6) ** 2),
    ],
    ids=["sigmoid", "smoothed", "ipo"],
)
def test_direct_equals_loops_over_all_pairs(options: dict[str, object], formula: object) -> None:
    torch.manual_seed(1)
    hidden, weight = torch.randn(2, 9, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    reference = torch.randn(6, dtype=torch.float64) - 3
    batch = {
        "targets": torch.tensor(TARGETS), "answer": torch.tensor(ANSWER), "reference": reference,
        "group": torch.tensor(GROUP), "rank": torch.tensor(RANK),
    }  # fmt: skip
    found = direct(SimpleNamespace(hidden=hidden, weight=weight), batch, **options)  # type: ignore[arg-type]
    expected = by_hand(hidden, weight, reference.tolist(), formula)
    parts = {name: float(total / count) for name, (total, count) in found.parts.items()}
    assert found.count.item() == 2
    assert found.sum.item() == pytest.approx(expected["loss"], rel=1e-5)
    assert parts["accuracy"] == pytest.approx(expected["right"])
    assert parts["chosen_shift"] == pytest.approx(expected["chosen"], rel=1e-5)
    assert parts["rejected_shift"] == pytest.approx(expected["rejected"], rel=1e-5)
    assert parts["margin"] == pytest.approx(0.3 * (expected["chosen"] - expected["rejected"]), rel=1e-5)


def test_an_anchor_is_the_cross_entropy_of_the_best_answers() -> None:
    """Answer 0 is the best of its prompt, 4 of the next; the single answer of the third has no pair and no anchor."""
    torch.manual_seed(2)
    hidden, weight = torch.randn(2, 9, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    batch = {
        "targets": torch.tensor(TARGETS), "answer": torch.tensor(ANSWER), "reference": torch.zeros(6),
        "group": torch.tensor(GROUP), "rank": torch.tensor(RANK), "weight": torch.tensor([3.0, 3, 3, 1, 1, 9]),
    }  # fmt: skip
    output = SimpleNamespace(hidden=hidden, weight=weight)
    logprobs = (hidden @ weight.T).log_softmax(-1)
    first = -(logprobs[0, 1, 3] + logprobs[0, 2, 1]) / 2  # the tokens of answer 0
    second = -logprobs[1, 7, 4]  # the token of answer 4
    added = direct(output, batch, anchor=0.7).sum - direct(output, batch).sum
    assert added.item() == pytest.approx(0.7 * (3 * first + second).item(), rel=1e-4)
    tied = direct(output, batch | {"rank": torch.tensor([0, 0, 1, 1, 0, 0])}, anchor=0.7).sum
    tied -= direct(output, batch | {"rank": torch.tensor([0, 0, 1, 1, 0, 0])}).sum
    other = -(logprobs[0, 4, 4] + logprobs[0, 5, 2]) / 2  # the tokens of answer 1
    assert tied.item() == pytest.approx(0.7 * (3 * (first + other) / 2 + second).item(), rel=1e-4)


def test_ipo_is_content_at_its_margin_and_sigmoid_never() -> None:
    """At d = 1/2β the ipo loss and its gradient are 0; the sigmoid loss still pushes."""
    weight = torch.tensor([[0.0], [2.5], [-2.5]], dtype=torch.float64)
    hidden = torch.ones(1, 3, 1, dtype=torch.float64, requires_grad=True)
    batch = {
        "targets": torch.tensor([[1, 2, -100]]), "answer": torch.tensor([[0, 1, 1]]), "reference": torch.zeros(2),
        "group": torch.zeros(2, dtype=torch.int64), "rank": torch.tensor([0, 1]),
    }  # fmt: skip
    output = SimpleNamespace(hidden=hidden, weight=weight)
    content = direct(output, batch, beta=0.1, form="ipo")  # d = 2.5 - (-2.5) = 5 = 1/(2·0.1)
    assert content.sum.item() == pytest.approx(0, abs=1e-8)
    assert direct(output, batch, beta=0.1).sum.item() == pytest.approx(math.log(1 + math.exp(-0.5)), rel=1e-5)
    (gradient,) = torch.autograd.grad(direct(output, batch, beta=0.1).sum, hidden)
    assert gradient.abs().max() > 0.1


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
