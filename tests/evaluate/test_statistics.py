"""Intervals against closed forms, and against how often they hold the truth."""

import itertools
import math

import numpy as np
import pytest

from fledge.evaluate.statistics import best_of, bootstrap, mean, proportion, ratio, win_rate


def wilson(hits: int, n: int) -> tuple[float, float]:
    z, p = 1.959964, hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (7, 40), (40, 40), (1, 1)])
def test_a_proportion_has_wilsons_interval(hits: int, n: int) -> None:
    found = proportion(hits, n)
    assert (found.value, found.n) == (hits / n, n)
    assert (found.low, found.high) == pytest.approx(wilson(hits, n), abs=1e-5)


def test_nothing_is_claimed_from_nothing() -> None:
    assert math.isnan(proportion(0, 0).value)
    assert math.isnan(mean([]).value)
    single = mean([2.5])
    assert single.value == 2.5
    assert math.isnan(single.low)
    assert single.n == 1


def test_the_mean_of_normal_numbers_has_the_t_interval() -> None:
    x = np.random.default_rng(3).normal(5, 2, 400)
    found = mean(x)
    half = 1.96 * x.std() / 20
    assert found.value == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.03)
    assert mean(x) == found


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    held = [low.low <= 1.0 <= low.high for low in (mean(generator.exponential(1, 80)) for _ in range(100))]
    assert 0.86 <= np.mean(held) <= 1.0


def test_win_rate_counts_ties_half() -> None:
    found = win_rate([1.0, 0.5, 0.5, 0.0, 1.0, 1.0])
    assert found.value == pytest.approx(4 / 6)
    assert found.low < 4 / 6 < found.high
    assert win_rate([1.0] * 30) == proportion(30, 30)
    ties = win_rate([0.5] * 30)
    assert (ties.value, ties.low, ties.high) == (0.5, 0.5, 0.5)


def test_a_ratio_weighs_units_by_their_size() -> None:
    found = ratio([10.0, 1.0, 30.0], [10.0, 2.0, 10.0])
    assert found.value == pytest.approx(41 / 22)
    assert found.low < found.value < found.high
    same = ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (same.low, same.high) == pytest.approx((2.0, 2.0))


def test_resampling_does_not_shift_the_interval_of_a_figure_it_inflates() -> None:
    """|mean| of centred noise: every resample is larger than the value, the interval is about it all the same."""
    units = np.random.default_rng(1).normal(0, 1, (200, 1))
    units -= units.mean()
    found = bootstrap(units, lambda totals: np.abs(totals[:, 0]) / 200)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.low <= found.value < found.high < 0.15


def test_best_of_n_is_the_mean_over_all_choices() -> None:
    """Against every choice of n, of equal scores the first or the last: each half the time."""
    draw = np.random.default_rng(3)
    scores, values = draw.integers(0, 5, 9).astype(float), draw.normal(size=9)
    for n in (1, 2, 4, 9):
        kept = []
        for chosen in itertools.combinations(range(9), n):
            top = max(scores[i] for i in chosen)
            kept.append(np.mean([values[i] for i in chosen if scores[i] == top]))
        assert best_of(n, scores, values) == pytest.approx(np.mean(kept), rel=1e-9)
