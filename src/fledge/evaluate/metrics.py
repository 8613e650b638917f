"""What labelled tasks are judged by, each figure with its 95 % interval over examples (`statistics`).

Classes: accuracy, F1 (of the positive class of two, else the mean over classes), Matthews' correlation. Numbers:
Pearson, Spearman, root mean square error. Tags: accuracy and F1 of whole entities (CoNLL 2003). Answers: exact match
and token F1 as SQuAD normalises them (arXiv:1606.05250). Texts: BLEU by sacrebleu (arXiv:1804.08771), ROUGE-L by
rouge-score, exact match. Left out: model-based metrics.

Shapes: N examples, C classes, S sums.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from fledge.core.errors import FledgeError
from fledge.evaluate.statistics import RESAMPLES, Estimate, bootstrap, mean, proportion, ratio

ARTICLES = re.compile(r"\b(a|an|the)\b")
INSTALL = "pip install 'fledge[tasks]'"


def classes(predicted: Sequence[int], gold: Sequence[int], labels: int) -> dict[str, Estimate]:
    """accuracy, f1 and mcc of class numbers below `labels`; of two classes, 1 is the positive one."""
    p, g = np.asarray(predicted), np.asarray(gold)
    cells = np.eye(labels * labels)[g * labels + p]  # [N,C·C]: one cell of the confusion matrix an example

    def of(measure: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        return bootstrap(cells, lambda sums: measure(sums.reshape(-1, labels, labels)))

    return {"accuracy": proportion(int((p == g).sum()), len(g)), "f1": of(f1_score), "mcc": of(matthews)}


def f1_score(confusion: np.ndarray) -> np.ndarray:
    """confusion [R,C,C] (gold, predicted) → [R]: F1 of class 1 of two, else the mean over the classes that occur."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    total = confusion.sum(1) + confusion.sum(2)
    each = 2 * hits / np.maximum(total, 1)
    if confusion.shape[1] == 2:
        return each[:, 1]
    return (each * (total > 0)).sum(1) / np.maximum((total > 0).sum(1), 1)


def matthews(confusion: np.ndarray) -> np.ndarray:
    """confusion [R,C,C] → [R]: Matthews' correlation, of several classes as Gorodkin (2004) has it; 0 if undefined."""
    hits = np.diagonal(confusion, axis1=1, axis2=2).sum(1)
    gold, predicted, n = confusion.sum(2), confusion.sum(1), confusion.sum((1, 2))
    covariance = hits * n - (gold * predicted).sum(1)
    spread = np.sqrt((n**2 - (predicted**2).sum(1)) * (n**2 - (gold**2).sum(1)))
    return np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)


def numbers(predicted: Sequence[float], gold: Sequence[float]) -> dict[str, Estimate]:
    """pearson, spearman and rmse of predicted numbers."""
    p, g = np.asarray(predicted, float), np.asarray(gold, float)
    return {
        "pearson": resampled(p, g, correlation),
        "spearman": resampled(p, g, lambda a, b: correlation(rankdata(a), rankdata(b))),
        "rmse": bootstrap(np.stack([(p - g) ** 2, np.ones_like(p)], 1), lambda s: np.sqrt(s[:, 0] / s[:, 1])),
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one side does not vary."""
    a, b = a - a.mean(), b - b.mean()
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread > 0 else 0.0


def resampled(a: np.ndarray, b: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
    """A statistic of paired values [N] that is no function of sums, with its percentile interval."""
    n = len(a)
    value = statistic(a, b) if n else float("nan")
    if n < 2:
        return Estimate(value, float("nan"), float("nan"), n)
    generator = np.random.default_rng(0)
    drawn = [statistic(a[chosen], b[chosen]) for chosen in (generator.integers(0, n, n) for _ in range(RESAMPLES))]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def tags(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, Estimate]:
    """accuracy over tokens, and f1 over entities where the tags are B-, I- and O; resampled by sentence."""
    right = [sum(p == g for p, g in zip(*pair, strict=True)) for pair in zip(predicted, gold, strict=True)]
    found = {"accuracy": ratio(right, [len(g) for g in gold])}
    if any(tag.startswith("B-") for sentence in gold for tag in sentence):
        spans = [(entities(p), entities(g)) for p, g in zip(predicted, gold, strict=True)]
        units = np.array([[len(p & g), len(p), len(g)] for p, g in spans], float)
        found["f1"] = bootstrap(units, lambda s: 2 * s[:, 0] / np.maximum(s[:, 1] + s[:, 2], 1))
    return found


def entities(sentence: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first, last) of each entity in BIO tags; an I- that continues nothing begins one, as conlleval has it."""
    found: set[tuple[str, int, int]] = set()
    kind, first = "", 0
    for place, tag in enumerate([*sentence, "O"]):
        mark, _, name = tag.partition("-")
        goes_on = mark == "I" and name == kind
        if kind and not goes_on:
            found.add((kind, first, place - 1))
            kind = ""
        if mark in ("B", "I") and not goes_on:
            kind, first = name, place
    return found


def answers(predicted: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, Estimate]:
    """exact_match and f1 of answers, each against the best of its gold answers ("" where there is none)."""
    pairs = [(p, list(g) or [""]) for p, g in zip(predicted, gold, strict=True)]
    exact = [max(normalised(p) == normalised(one) for one in g) for p, g in pairs]
    return {
        "exact_match": proportion(sum(exact), len(exact)),
        "f1": mean([max(token_f1(p, one) for one in g) for p, g in pairs]),
    }


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", bare).split())


def token_f1(predicted: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the words; both empty is 1."""
    p, g = normalised(predicted).split(), normalised(gold).split()
    shared = sum((Counter(p) & Counter(g)).values())
    if not p or not g:
        return float(p == g)
    return 2 * shared / (len(p) + len(g))


def texts(predicted: Sequence[str], gold: Sequence[str]) -> dict[str, Estimate]:
    """bleu (0-100) and rouge_l (0-1) of generated texts, exact_match (blanks at the ends aside) and token f1."""
    exact = sum(p.strip() == g.strip() for p, g in zip(predicted, gold, strict=True))
    found = answers(predicted, [[g] for g in gold])
    return {
        "bleu": bleu(predicted, gold),
        "rouge_l": rouge_l(predicted, gold),
        "exact_match": proportion(exact, len(gold)),
        "f1": found["f1"],
    }


def bleu(predicted: Sequence[str], gold: Sequence[str]) -> Estimate:
    """Corpus BLEU with sacrebleu's defaults (13a tokens, exponential smoothing); resampled by sentence."""
    metric = needed("sacrebleu").metrics.BLEU(effective_order=True)
    orders = metric.max_ngram_order
    found = [metric.sentence_score(p, [g]) for p, g in zip(predicted, gold, strict=True)]
    units = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in found], float).reshape(len(found), -1)

    def score(sums: np.ndarray) -> float:
        counts = sums.round().astype(int).tolist()
        matches, totals, (written, wanted) = counts[:orders], counts[orders:-2], counts[-2:]
        result = metric.compute_bleu(matches, totals, written, wanted, smooth_method="exp", max_ngram_order=orders)
        return float(result.score)

    if not len(units):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    return bootstrap(units, lambda sums: np.array([score(row) for row in sums]))


def rouge_l(predicted: Sequence[str], gold: Sequence[str]) -> Estimate:
    """Mean F of the longest common subsequence of words, without stemming."""
    scorer = needed("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    return mean([scorer.score(g, p)["rougeL"].fmeasure for p, g in zip(predicted, gold, strict=True)])


def needed(module: str) -> Any:
    """A module of the extra `tasks`; FledgeError with the way to get it where it is missing."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise FledgeError(f"BLEU and ROUGE need the package {name}, which is not installed", INSTALL) from None
