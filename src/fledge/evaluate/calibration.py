"""Calibration: does a prediction made with confidence p come true in a share p of the cases? (arXiv:1706.04599)

Predictions are put into bins of equal width by their confidence; the expected calibration error is the mean gap
between confidence and accuracy over the bins, weighted by how many predictions they hold. Everything is kept as sums
per bin, which add over documents. Intervals resample units (documents, prompts), because what stands in one of them is
not independent. Left out: classwise calibration, and recalibration by temperature.

`P` predictions, `U` units, `K` bins; the columns of [K,3] are the count, the summed confidence and how many came true.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from fledge.evaluate.statistics import Estimate, bootstrap

BINS = 15


def bin_sums(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, lowest: float = 0.0) -> np.ndarray:
    """Sums [K,3] float of predictions with confidence [P] in [lowest, 1] and correct [P] in [0, 1]."""
    place = bin_of(confidence, bins, lowest)
    columns = (np.ones(len(place)), confidence, correct)
    return np.stack([np.bincount(place, weights, minlength=bins) for weights in columns], axis=1)


def bin_of(confidence: np.ndarray, bins: int = BINS, lowest: float = 0.0) -> np.ndarray:
    """The bin [P] of each confidence [P]; bin k is (edge k, edge k+1], the first with its lower edge."""
    return np.clip(np.ceil((confidence - lowest) / (1 - lowest) * bins).astype(np.int64) - 1, 0, bins - 1)


def expected_calibration_error(sums: np.ndarray) -> np.ndarray:
    """Sums [..., K, 3] → Σ_k |confidence_k - accuracy_k| · count_k / Σ count: shape [...], in [0, 1]."""
    gaps: np.ndarray = np.abs(sums[..., 1] - sums[..., 2]).sum(-1) / sums[..., 0].sum(-1)
    return gaps


def calibration_error(sums: np.ndarray) -> Estimate:
    """The error of all units together, from their sums [U,K,3], with its interval over resampled units."""
    error = bootstrap(
        sums.reshape(len(sums), -1), lambda totals: expected_calibration_error(totals.reshape(-1, *sums.shape[1:]))
    )
    return replace(error, low=0.0) if error.low < 0 else error


def reliability(sums: np.ndarray) -> list[dict[str, float]]:
    """The reliability curve of sums [K,3]: mean confidence, accuracy and n of every bin that is not empty."""
    return [
        {"confidence": float(confidence / n), "accuracy": float(hits / n), "n": int(n)}
        for n, confidence, hits in sums
        if n > 0
    ]


def preference_calibration(margins: np.ndarray, prompts: np.ndarray | None = None, bins: int = 10) -> dict[str, Any]:
    """Calibration of a reward model over pairs: margins [P] = r_better - r_worse, prompts [P] numbers their prompts.

    It gives the answer it scores higher the probability σ(|margin|) ≥ ½ of being the better one (InstructGPT's loss
    reads scores so); it is right where the margin is positive, and half right at 0. Pairs of one prompt are resampled
    together; without `prompts` each pair is on its own. JSON: error with its interval low, high (null if unknown), the
    number n of pairs, and the bins.
    """
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    unit = np.arange(len(margins)) if prompts is None else np.unique(prompts, return_inverse=True)[1]
    columns = np.stack([np.ones(len(margins)), confidence, (np.sign(margins) + 1) / 2], axis=1)
    sums = np.zeros((int(unit.max(initial=-1)) + 1, bins, 3))
    np.add.at(sums, (unit, bin_of(confidence, bins, lowest=0.5)), columns)
    error = calibration_error(sums)
    low, high = (None if math.isnan(end) else end for end in (error.low, error.high))
    return {"error": error.value, "low": low, "high": high, "n": len(margins), "bins": reliability(sums.sum(0))}
