"""Intervals against SciPy's own, and against how often they cover a known truth."""

import json

import numpy as np
import pytest
from scipy import stats

from fledge.evaluate.statistics import Estimate, mean, proportion, ratio, resampled_sums, win_rate


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (217, 400)])
def test_proportion_is_wilsons(successes: int, n: int) -> None:
    found = proportion(successes, n)
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert found.value == successes / n
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.value <= found.high
    assert found.n == n


def test_of_nothing_nothing_is_known() -> None:
    assert proportion(0, 0).as_dict() == {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    assert mean([]).as_dict() == {"value": None, "low": None, "high": None, "n": 0}
    assert ratio([], []).as_dict() == {"value": None, "low": None, "high": None, "n": 0}
    assert ratio([1.0], [2.0]).as_dict() == {"value": 0.5, "low": None, "high": None, "n": 1}
    json.dumps(mean([4.0]).as_dict(), allow_nan=False)


def test_win_rate_counts_ties_half() -> None:
    assert win_rate([1, 1, 0.5, 0]).value == 0.625
    assert win_rate([0.5] * 40).value == 0.5
    assert win_rate([1.0] * 40) == proportion(40, 40)


def test_mean_is_students() -> None:
    values = np.random.default_rng(0).normal(3, 2, 25)
    found = mean(values.tolist())
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), expected.low, expected.high))


def test_ratio_is_of_the_sums() -> None:
    found = ratio([1, 2, 30], [2, 4, 10])
    assert found.value == pytest.approx(33 / 16)
    assert found.low <= found.value <= found.high
    assert 0.5 <= found.low
    assert found.high <= 3.0


def test_ratio_covers_the_truth() -> None:
    generator = np.random.default_rng(1)

    def covered() -> bool:
        sizes = generator.integers(10, 400, 80)
        estimate = ratio(sizes * generator.gamma(8, 0.25, 80), sizes)
        return estimate.low < 2.0 < estimate.high

    assert 0.88 <= np.mean([covered() for _ in range(150)]) <= 0.99


def test_resampling_draws_whole_units_and_is_repeatable() -> None:
    rows = np.array([[1.0, 10.0], [2.0, 20.0], [5.0, 50.0]])
    sums = resampled_sums(rows, 200)
    assert np.array_equal(sums, resampled_sums(rows, 200))
    assert np.allclose(sums[:, 1], 10 * sums[:, 0])
    assert set(sums[:, 0]) <= {a + b + c for a in (1, 2, 5) for b in (1, 2, 5) for c in (1, 2, 5)}
    assert sums[:, 0].mean() == pytest.approx(8, abs=0.6)


def test_estimates_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Estimate(1.0, 0.0, 2.0, 3).value = 2.0  # type: ignore[misc]
