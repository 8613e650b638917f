"""Figures with their uncertainty: proportions, means, win rates and ratios with 95 % intervals.

Proportions have Wilson's interval, which stays inside [0, 1] and is honest at 0 and 1; everything else a percentile
bootstrap over independent units (documents, questions). From fewer than two units no interval is claimed: its ends are
NaN. Left out: tests of significance, corrections for many comparisons.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import comb

import numpy as np
from scipy.stats import binomtest

Numbers = Sequence[float] | np.ndarray
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval [low, high] from n observations."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"), 0)


def proportion(hits: int, n: int) -> Estimate:
    """hits/n with Wilson's interval; n = 0 gives NaN."""
    if n == 0:
        return UNKNOWN
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high), n)


def mean(values: Numbers, seed: int = 0) -> Estimate:
    """The mean with a bootstrap interval; no values give NaN."""
    columns = np.asarray(values, dtype=float)[:, None]
    return bootstrap(columns, lambda totals: totals[:, 0] / len(columns), seed) if len(columns) else UNKNOWN


def ratio(numerators: Numbers, denominators: Numbers, seed: int = 0) -> Estimate:
    """Σ numerators / Σ denominators with a bootstrap interval over the units: bits per byte of documents."""
    columns = np.stack([np.asarray(numerators, float), np.asarray(denominators, float)], axis=1)
    return bootstrap(columns, lambda totals: totals[:, 0] / totals[:, 1], seed)


def win_rate(outcomes: Sequence[float]) -> Estimate:
    """The mean of wins 1, ties ½ and losses 0. Without ties it is a proportion; with them, bootstrap."""
    if 0.5 not in outcomes:
        return proportion(round(sum(outcomes)), len(outcomes))
    return mean(outcomes)


def best_of(n: int, scores: Numbers, values: Numbers) -> float:
    """The expected value of the answer that scores highest among n of the N given ones, over all choices of n.

    scores, values [N], N ≥ n. The answer above i others is the best of C(i, n-1) of the C(N, n) choices (as in
    arXiv:2112.09332, app. I); of equal scores each is as likely to be kept.
    """
    _, place = np.unique(np.asarray(scores, dtype=float), return_inverse=True)
    tied = np.bincount(place, np.asarray(values, dtype=float)) / np.bincount(place)
    weights = np.array([comb(i, n - 1) for i in range(len(place))], dtype=float) / comb(len(place), n)
    return float(weights @ tied[np.sort(place)])


def bootstrap(units: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> Estimate:
    """A statistic of column sums, with its interval over resampled units.

    units [N,S] float: what each unit adds to each of S sums; `statistic` maps sums [R,S] to values [R]. The resampled
    values are centred on the value itself, because resampling inflates what cannot be negative (a calibration error).
    """
    n = len(units)
    value = float(statistic(units.sum(0, keepdims=True))[0])
    if n < 2:
        return Estimate(value, float("nan"), float("nan"), n)
    generator = np.random.default_rng(seed)
    totals = np.stack([np.bincount(generator.integers(0, n, n), minlength=n) @ units for _ in range(RESAMPLES)])
    drawn = statistic(totals)
    low, high = np.quantile(drawn - drawn.mean() + value, [0.025, 0.975])
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)
