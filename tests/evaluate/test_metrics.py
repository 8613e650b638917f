"""Metrics against scikit-learn, SciPy, seqeval, sacrebleu and rouge-score, and what their intervals must hold."""

import builtins
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from fledge.core.errors import FledgeError
from fledge.evaluate import metrics

draw = np.random.default_rng(0)


@pytest.mark.parametrize("labels", [2, 3, 5])
@pytest.mark.parametrize("skill", [0.0, 0.7, 1.0])
def test_classes_equal_scikit_learn(labels: int, skill: float) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    gold = draw.integers(0, labels, 200)
    predicted = np.where(draw.random(200) < skill, gold, draw.integers(0, labels, 200))
    found = metrics.classes(predicted.tolist(), gold.tolist(), labels)
    average = "binary" if labels == 2 else "macro"
    assert found["accuracy"].value == pytest.approx(sklearn.accuracy_score(gold, predicted))
    assert found["f1"].value == pytest.approx(sklearn.f1_score(gold, predicted, average=average))
    assert found["mcc"].value == pytest.approx(sklearn.matthews_corrcoef(gold, predicted))
    for estimate in found.values():
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.n == 200


def test_one_class_only_has_no_correlation() -> None:
    found = metrics.classes([1, 1, 1], [1, 1, 1], 2)
    assert found["mcc"].value == 0
    assert found["f1"].value == 1


def test_numbers_equal_scipy() -> None:
    gold = draw.integers(0, 6, 150) / 2
    predicted = gold + draw.normal(0, 1, 150)
    found = metrics.numbers(predicted.tolist(), gold.tolist())
    assert found["pearson"].value == pytest.approx(pearsonr(predicted, gold).statistic)
    assert found["spearman"].value == pytest.approx(spearmanr(predicted, gold).statistic)
    assert found["rmse"].value == pytest.approx(math.sqrt(np.mean((predicted - gold) ** 2)))
    assert 0 < found["spearman"].high - found["spearman"].low < 0.3


def test_intervals_cover_as_often_as_they_claim() -> None:
    """Of 95 % intervals for a known correlation, about 95 % hold it (at least 88 of 100 here)."""
    generator, held = np.random.default_rng(1), 0
    for _ in range(100):
        x = generator.normal(size=60)
        y = 0.6 * x + 0.8 * generator.normal(size=60)
        found = metrics.numbers(y.tolist(), x.tolist())["pearson"]
        held += found.low <= 0.6 <= found.high
    assert held >= 88


def test_entities_equal_seqeval() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    kinds = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    gold = [draw.choice(kinds, size=12).tolist() for _ in range(60)]
    predicted = [[t if draw.random() < 0.7 else str(draw.choice(kinds)) for t in sentence] for sentence in gold]
    found = metrics.tags(predicted, gold)
    assert found["f1"].value == pytest.approx(seqeval.f1_score(gold, predicted))
    assert found["accuracy"].value == pytest.approx(seqeval.accuracy_score(gold, predicted))
    assert metrics.entities(["B-A", "I-A", "O", "I-B", "B-B", "I-A"]) == {
        ("A", 0, 1), ("B", 3, 3), ("B", 4, 4), ("A", 5, 5)
    }  # fmt: skip
    assert "f1" not in metrics.tags([["N", "V"]], [["N", "N"]])


def test_answers_are_normalised_as_squad_does() -> None:
    found = metrics.answers(
        ["The  Denver Broncos!", "24", "in the year 1990", "", "something"],
        [["Denver Broncos", "Broncos"], ["25"], ["1990", "year 1990"], [], []],
    )
    assert found["exact_match"].value == pytest.approx(2 / 5)
    assert found["f1"].value == pytest.approx((1 + 0 + 0.8 + 1 + 0) / 5)


def test_texts_equal_their_libraries() -> None:
    sacrebleu, rouge = pytest.importorskip("sacrebleu"), pytest.importorskip("rouge_score.rouge_scorer")
    words = ["the", "a", "dog", "man", "runs", "sits", "on", "in", "park", "street", ",", ".", "red", "small"]
    gold = [" ".join(draw.choice(words, size=draw.integers(3, 12))) for _ in range(40)]
    predicted = [" ".join(w if draw.random() < 0.8 else str(draw.choice(words)) for w in g.split()) for g in gold]
    predicted[0], predicted[1] = gold[0], ""
    found = metrics.texts(predicted, gold)
    assert found["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(predicted, [gold]).score, abs=1e-9)
    scorer = rouge.RougeScorer(["rougeL"])
    each = [scorer.score(g, p)["rougeL"].fmeasure for p, g in zip(predicted, gold)]
    assert found["rouge_l"].value == pytest.approx(np.mean(each))
    assert found["exact_match"].value == np.mean([p == g for p, g in zip(predicted, gold)])
    assert found["bleu"].low < found["bleu"].value < found["bleu"].high
    theirs = sacrebleu.metrics.BLEU().corpus_score(predicted, [gold], n_bootstrap=1000)
    assert found["bleu"].high - found["bleu"].low == pytest.approx(2 * theirs._ci, rel=0.25)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return real(name, *rest, **more)

    import importlib

    def find(name: str) -> Any:
        return without(name)

    monkeypatch.setattr(importlib, "import_module", find)
    with pytest.raises(FledgeError, match="sacrebleu") as caught:
        metrics.bleu(["a"], ["a"])
    assert "fledge[tasks]" in caught.value.remedy
