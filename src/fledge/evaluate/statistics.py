"""Figures with their uncertainty: proportions, means and win rates with 95 % intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import binomtest


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval [low, high] from n observations."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def proportion(hits: int, n: int) -> Estimate:
    """hits/n with Wilson's interval; n = 0 gives NaN."""
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high), n)


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean with a bootstrap interval."""
    x = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(x), (1000, len(x)))
    low, high = np.quantile(x[draws].mean(1), [0.025, 0.975])
    return Estimate(float(x.mean()), float(low), float(high), len(x))


def win_rate(outcomes: Sequence[float]) -> Estimate:
    """Wins 1, ties ½, losses 0."""
    return mean(outcomes)
