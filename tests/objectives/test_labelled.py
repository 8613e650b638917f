"""Losses of labelled tasks against their definitions, row by row."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fledge.objectives.labelled import classification, extraction, regression, tagging


def output(*shape: int) -> Any:
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(values=torch.randn(*shape, generator=generator))


def test_classification() -> None:
    out, labels = output(3, 4), [2, 0, 3]
    loss = classification(out, {"labels": torch.tensor(labels)})
    expected = -sum(float(out.values[b].softmax(-1)[y].log()) for b, y in enumerate(labels))
    assert float(loss.sum) == pytest.approx(expected, rel=1e-5)
    assert float(loss.count) == 3
    hits = sum(int(out.values[b].argmax()) == y for b, y in enumerate(labels))
    assert float(loss.parts["accuracy"][0]) == hits


def test_regression() -> None:
    out = output(3, 1)
    loss = regression(out, {"labels": torch.tensor([1.0, 2.0, -1.0])})
    assert float(loss.sum) == pytest.approx(sum((float(v) - y) ** 2 for v, y in zip(out.values[:, 0], [1, 2, -1])))


def test_tagging_counts_only_tags() -> None:
    out = output(2, 3, 4)
    tags = torch.tensor([[1, -100, 2], [3, -100, -100]])
    loss = tagging(out, {"tags": tags})
    places = [(0, 0, 1), (0, 2, 2), (1, 0, 3)]
    assert float(loss.sum) == pytest.approx(-sum(float(out.values[b, t].log_softmax(-1)[y]) for b, t, y in places))
    assert float(loss.count) == 3


def test_extraction_looks_only_where_answers_may_be() -> None:
    out = output(1, 4, 2)
    answerable = torch.tensor([[True, False, True, True]])
    loss = extraction(out, {"answerable": answerable, "starts": torch.tensor([2]), "ends": torch.tensor([3])})
    allowed = [0, 2, 3]
    expected = -sum(float(out.values[0, allowed, k].log_softmax(0)[allowed.index(y)]) for k, y in enumerate([2, 3]))
    assert float(loss.sum) == pytest.approx(expected / 2, rel=1e-5)
    assert torch.isfinite(loss.sum)
